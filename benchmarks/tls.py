"""TLS echo: clearway's engines beside uvloop and stock asyncio, in one run.

    python -m benchmarks.tls                       # about six minutes
    python -m benchmarks.tls --quick               # half a minute; provisional verdicts
    python -m benchmarks.tls --servers epoll,uvloop --connections 16 --tls 1.2 --json out/tls.json

Measured like ``benchmarks.echo``, with a load generator that speaks TLS (C, needs OpenSSL's
headers). The handshakes lie before the window. Exit code 0 when everything was measured, 1 when
something failed, and with --check also when a bar of the benchmark is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from benchmarks import bars, contestants, echo, machine, native, table
from benchmarks.runner import BenchmarkError, Progress, Results, Server, Situation, interleave

TLS_PROGRAM = Path(__file__).parent / "servers" / "tls_echo.py"
LOOPS = ("uring", "epoll", "uvloop", "asyncio")

#: TLS echo by Protocol, 1 KiB. Requests per second where the server's core is full; CPU per request
#: (1 / 1.3) where a shared machine or the load generator bounds the rate.
TLS_BARS = tuple(
    bar
    for engine in ("uring", "epoll")
    for bar in (
        bars.Bar(engine, "uvloop", "requests_per_s", (16, 128), at_least=1.3),
        bars.Bar(engine, "uvloop", "cpu_us", (1, 16, 128), at_most=0.77),
    )
)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tls", description="TLS echo against peers, as paired ratios"
    )
    add = parser.add_argument
    add("--servers", default=",".join(LOOPS), help="NAME[@PATH][?OPTION=VALUE],...")
    add("--connections", type=echo.integers, default=[1, 16, 128], metavar="N,N,...")
    add("--size", type=int, default=1024, help="bytes of a request (1024)")
    add("--tls", choices=("1.2", "1.3"), default="1.3", help="version (1.3)")
    add("--seconds", type=float, default=1.5, help="length of a measuring window (1.5)")
    add("--warmup", type=float, default=0.3, help="seconds of load before the window (0.3)")
    add("--pairs", type=int, default=15, help="rounds; parity may be claimed from 15 (15)")
    add("--mode", choices=("protocol", "buffered", "streams"), default="protocol")
    add("--baseline", default="uvloop", help="the peer of the ratio column (uvloop)")
    add("--python", default=contestants.default_python(), help="interpreter of the servers")
    add("--cores", type=echo.cores, default=machine.default_cores(), metavar="SERVER,LOAD")
    add("--seed", type=int, help="fixes the order of the samples")
    add("--json", type=Path, metavar="FILE", help="write every sample and result there")
    add("--quick", action="store_true", help="16 and 128 connections, 5 rounds, short windows")
    add("--check", action="store_true", help="exit with 1 when a bar is missed")
    args = parser.parse_args(argv)
    if args.quick:
        for name, value in echo.QUICK.items():
            if getattr(args, name) == parser.get_default(name):
                setattr(args, name, value)
    if args.pairs < 1 or args.size < 1 or args.seconds <= 0 or args.warmup < 0:
        parser.error("--pairs, --size and --seconds must be positive, --warmup not negative")
    return args


def tls_server(text: str, args: argparse.Namespace) -> Server:
    """The same contestants as in ``benchmarks.echo``, behind TLS.

    Raises:
        ValueError: the name is unknown, or one that has no TLS server (``c``).
    """
    if text.partition("?")[0].partition("@")[0] not in LOOPS:
        raise ValueError(f"{text}: unknown server; there are {', '.join(LOOPS)}")
    plain = contestants.echo_server(text, mode=args.mode, python=args.python, core=args.cores[0])
    program = str(contestants.ECHO_PROGRAM)
    argv = tuple(str(TLS_PROGRAM) if part == program else part for part in plain.argv)
    return dataclasses.replace(plain, argv=argv)


def situations(args: argparse.Namespace) -> list[Situation]:
    common = (
        f"--size={args.size}",
        f"--seconds={args.seconds}",
        f"--warmup={args.warmup}",
        f"--core={args.cores[1]}",
        f"--tls={args.tls}",
    )
    return [Situation(str(n), (*common, f"--connections={n}")) for n in args.connections]


def bars_table(judged: list[bars.Verdict]) -> str:
    rows = [["bar", "connections", "ratio [95 %]", "pairs", ""]]
    for verdict in judged:
        state = verdict.state + (" (provisional)" if verdict.provisional else "")
        ratio = echo.ratio_text(verdict.ratio)
        pairs = str(verdict.ratio.pairs)
        rows.append([str(verdict.bar), str(verdict.connections), ratio, pairs, state])
    return table.render(rows)


def run(args: argparse.Namespace) -> int:
    info = machine.describe()
    print(machine.one_line(info))
    wanted = [tls_server(text, args) for text in dict.fromkeys(args.servers.split(","))]
    load = [str(native.build("tls_loadgen", libraries=("ssl", "crypto")))]
    servers, refused = contestants.startable(wanted)
    for name, why in refused.items():
        print(f"left out: {name}: {why}")
    if not servers:
        print("nothing to measure", file=sys.stderr)
        return 1
    progress = Progress()
    began = time.monotonic()
    try:
        samples = interleave(
            servers,
            situations(args),
            load,
            rounds=args.pairs,
            seconds=args.seconds + args.warmup,
            seed=args.seed,
            on_start=progress.start,
            on_sample=progress.sample,
        )
    finally:
        progress.close()
    results = Results(samples)
    names = [server.name for server in servers]
    counts = [str(count) for count in args.connections]
    where = f"server on core {args.cores[0]}, load on core {args.cores[1]}"
    print(
        f"TLS {args.tls} echo by {args.mode}, {args.size} bytes, {args.pairs} rounds of "
        f"{args.seconds:g} s in random order, {where if args.cores[0] >= 0 else 'not pinned'}; "
        f"{time.monotonic() - began:.0f} s in all"
    )
    for count in counts:
        print(f"\n{count} connection{'' if count == '1' else 's'}")
        print(echo.report_table(results, names, count, args.baseline))
    of_issue = args.size == 1024 and args.mode == "protocol"
    judged = bars.verdicts(results, TLS_BARS, args.connections) if of_issue else []
    if judged:
        print(f"\n{bars_table(judged)}")
    print()
    for note in echo.notes(results, names, counts, pinned=args.cores[0] >= 0):
        print(f"note: {note}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = echo.as_json(args, info, results, names, judged, refused)
        report["benchmark"] = "tls"
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {args.json}")
    missed = any(verdict.state == "missed" for verdict in judged)
    return 1 if args.check and (missed or refused) else 0


def main(argv: list[str] | None = None) -> int:
    try:
        return run(arguments(argv))
    except (BenchmarkError, native.BuildError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
