"""The command line: ``python -m tests.conformance --loop clearway --engine uring``.

Exit status: 0 when every listed test passed or is skipped with a reason, 1 when not, 2 for a wrong
command line or a loop that cannot be made, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import install, report, skips
from .pool import ROOT, HarnessError, Pool, Result, Target, list_tests


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    p.add_argument(
        "--loop",
        default="clearway",
        help='"module:factory", or one of: ' + ", ".join(install.SHORT_NAMES),
    )
    p.add_argument("--engine", help="option engine=... of the factory")
    p.add_argument(
        "--preempt", help="option preempt=... of the factory; clearway's: CLEARWAY_PREEMPT"
    )
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of the factory; the value is read as JSON if it is JSON",
    )
    p.add_argument("--python", default=sys.executable, help="the interpreter that runs the tests")
    p.add_argument(
        "-k",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only ids that contain this, or match it as a glob; may be repeated",
    )
    p.add_argument("--module", action="append", default=[], help="only this module (test_events)")
    p.add_argument("--batch", action="store_true", help="a process per class, not per test")
    p.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    p.add_argument("--timeout", type=float, default=60.0, help="seconds for each test (60)")
    p.add_argument("--json", metavar="FILE", help="write all results there")
    p.add_argument("--against", metavar="FILE", help="say what changed since that --json file")
    p.add_argument("--full", action="store_true", help="print all output of what failed")
    p.add_argument(
        "--audit-skips",
        action="store_true",
        help="run only what skips.py skips: a row whose tests pass is not needed for this loop",
    )
    p.add_argument("--list", action="store_true", help="print what would run, and what not")
    p.add_argument(
        "--one", metavar="ID", help="run this test in the foreground, no time-out, skips ignored"
    )
    return p


def target_from(args: argparse.Namespace) -> Target:
    options: dict[str, Any] = {}
    for pair in args.option:
        name, equals, value = pair.partition("=")
        if not equals:
            raise HarnessError(f"--option {pair}: expected NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    for name in ("engine", "preempt"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    spec = install.SHORT_NAMES.get(args.loop, args.loop)
    if ":" not in spec:
        raise HarnessError(f'--loop {spec}: expected "module:factory"')
    if args.timeout <= 0 or args.jobs < 1:
        raise HarnessError("--timeout and --jobs must be positive")
    source = ROOT / "src"
    return Target(
        spec,
        options,
        str(Path(args.python).expanduser()),
        (str(source),) if source.is_dir() else (),
        args.timeout,
    )


def chosen(tests: list[str], args: argparse.Namespace) -> list[str]:
    def matches(test: str) -> bool:
        in_module = not args.module or test.partition(".")[0] in args.module
        return in_module and (
            not args.k
            or any(pattern in test or fnmatch.fnmatchcase(test, pattern) for pattern in args.k)
        )

    return [test for test in tests if matches(test)]


def run_one(target: Target, identifier: str) -> int:
    """One test with the terminal as its output, so that a debugger works in it."""
    read_fd, write_fd = os.pipe()
    process = subprocess.Popen(
        target.command("run", identifier),
        env=target.environment() | {"CONFORMANCE_FD": str(write_fd)},
        pass_fds=(write_fd,),
    )
    os.close(write_fd)
    passed = False
    with open(read_fd) as lines:
        for line in lines:
            record = json.loads(line)
            print(record.pop("event"), *(f"{k}={v}" for k, v in record.items() if k != "detail"))
            print(record.get("detail", ""), end="", flush=True)
            passed = passed or record.get("outcome") == "passed"
    code = process.wait()
    print(f"exit status {code}")
    return 0 if passed and code == 0 else 1


def show_list(tests: list[str], skipped: dict[str, str], left_out: dict[str, str]) -> None:
    for test in tests:
        print(test, f"  # skipped: {skipped[test]}" if test in skipped else "")
    print(f"\n{len(tests)} tests, {sum(test in skipped for test in tests)} skipped; left out:")
    for name, reason in left_out.items():
        print(f"  {name}: {reason}")


def run(args: argparse.Namespace) -> int:
    target = target_from(args)
    if args.one:
        return run_one(target, args.one)
    listing = list_tests(target)
    version = ".".join(listing["python"].split(".")[:2])
    control = target.spec == install.CONTROL
    skipped, stale = skips.select(listing["tests"], version, control=control)
    tests = chosen(listing["tests"], args)
    if args.audit_skips:
        tests, skipped = [test for test in tests if test in skipped], {}
    if not tests:
        raise HarnessError("no test matches")
    if args.list:
        show_list(tests, skipped, listing["left_out"])
        return 0
    outcome = report.Report(
        loop=target.spec,
        options=target.options,
        python=listing["python"],
        listed=tests,
        left_out=listing["left_out"],
        problems=listing["problems"] + stale,
        complete=not (args.k or args.audit_skips),
    )
    outcome.results = [Result(test, "skipped", skipped[test]) for test in tests if test in skipped]
    to_run = [test for test in tests if test not in skipped]
    print(
        f"{target.spec} {target.options or ''} on Python {listing['python']}: {len(to_run)} tests, "
        f"{len(outcome.results)} skipped, {args.jobs} at a time, "
        f"{'a process per class' if args.batch else 'a process per test'}",
        flush=True,
    )
    progress = report.Progress(max(1, len(to_run)), sys.stdout)

    def on_result(result: Result) -> None:
        outcome.results.append(result)
        progress.add(result)

    if args.batch:
        groups = itertools.groupby(to_run, key=lambda test: test.rpartition(".")[0])
        batches = [list(group) for _, group in groups]
    else:
        batches = [[test] for test in to_run]
    began = time.monotonic()
    Pool(target, args.jobs, on_result).run(batches)
    outcome.seconds = round(time.monotonic() - began, 1)
    outcome.close()
    conclude(outcome, args)
    return 0 if outcome.ok else 1


def conclude(outcome: report.Report, args: argparse.Namespace) -> None:
    print()
    for text in (outcome.skipped(), outcome.failures(full=args.full)):
        if text:
            print(text, end="\n\n")
    print(outcome.table())
    print(report.MEANING)
    if args.json:
        outcome.write_json(args.json)
    if args.against:
        print(f"\nsince {args.against}:\n{report.compare(outcome, args.against)}")
    for problem in outcome.problems:
        print(f"PROBLEM: {problem}")
    verdict = "conforms" if outcome.ok else "DOES NOT CONFORM"
    print(f"\n{outcome.loop} {outcome.options or ''} {verdict} ({outcome.seconds:.0f} s)")


def main() -> int:
    args = parser().parse_args()
    # Terminated means interrupted: the children are in sessions of their own and must go too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(args)
    except HarnessError as error:
        report.warn(str(error))
        return 2
    except OSError as error:
        report.warn(f"{args.python}: {error}")
        return 2
    except KeyboardInterrupt:
        report.warn("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
