"""The table of all runs: ``python -m tests.conformance.publish out/*/test/conformance-*.json``.

Reads what ``python -m tests.conformance --json`` wrote, prints one table for all of it and writes it
to docs/conformance.md. What differs between two runs on the same Python needs a row in
``DIFFERENCES``; exit status 1 when one is missing or a run did not conform, 2 for a file that cannot
be read.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pool import ROOT
from .report import BAD, warn

PAGE = ROOT / "docs" / "conformance.md"

#: Of a run that names none.
QUANTUM_S = 0.005

# (glob over module.Class.test, why two runs on one Python may differ in it)
DIFFERENCES: tuple[tuple[str, str], ...] = ()

HEAD = """\
# CPython's own asyncio tests on clearway

Written by `make conformance-table`, which runs the tests that ship with each interpreter (`test.test_asyncio`) on
clearway; not edited by hand. Only the way in which a test gets its loop is replaced (`tests/conformance/suites.py`);
no test is expected to fail.
"""


@dataclass(frozen=True)
class Run:
    """One JSON file: an interpreter, an engine and a mode, and what became of each test."""

    python: str
    engine: str
    preempt: str
    quantum: float
    problems: tuple[str, ...]
    left_out: dict[str, str]
    outcomes: dict[str, str]
    reasons: dict[str, str]

    @property
    def version(self) -> str:
        return ".".join(self.python.split(".")[:2])

    @property
    def name(self) -> str:
        mode = "" if self.preempt == "default" else f", {self.preempt}"
        return f"{self.version} {self.engine}{mode}"

    @property
    def order(self) -> tuple[tuple[int, ...], bool, bool]:
        version = tuple(int(part) for part in self.version.split("."))
        return version, self.preempt != "default", self.engine != "uring"

    @property
    def bad(self) -> list[str]:
        return [test for test, outcome in sorted(self.outcomes.items()) if outcome in BAD]


def read(path: str) -> Run:
    """Raises OSError when the file cannot be read, ValueError when it is no complete run."""
    document: dict[str, Any] = json.loads(Path(path).read_text())
    try:
        if not document["complete"]:
            raise ValueError(f"{path}: only some of the tests were run")
        results = document["results"]
        return Run(
            python=document["python"].split()[0],
            engine=document["options"].get("engine", "auto"),
            preempt=document["options"].get("preempt", "default"),
            quantum=float(document["options"].get("quantum", QUANTUM_S)),
            problems=tuple(document["problems"]),
            left_out=document["left_out"],
            outcomes={result["id"]: result["outcome"] for result in results},
            reasons={
                result["id"]: result["detail"].strip()
                for result in results
                if result["outcome"] in ("skipped", "declined")
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not written by tests.conformance --json ({error!r})") from error


def differences(runs: list[Run]) -> list[tuple[str, str, str]]:
    """The tests that end differently on one Python: (test, what each run says, why or "")."""
    found = []
    for version in versions(runs):
        same = [run for run in runs if run.version == version]
        for test in sorted({test for run in same for test in run.outcomes}):
            outcomes = {run.name: run.outcomes.get(test, "not listed") for run in same}
            if len(set(outcomes.values())) > 1:
                text = ", ".join(f"{name}: {outcome}" for name, outcome in outcomes.items())
                found.append((test, text, explained(test)))
    return found


def explained(test: str) -> str:
    return next((why for glob, why in DIFFERENCES if fnmatch.fnmatchcase(test, glob)), "")


def versions(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(run.version for run in runs))


def table(rows: list[tuple[str, ...]], *, numbers: bool = True) -> str:
    """A Markdown table that reads as well in a terminal; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def padded(row: tuple[str, ...]) -> str:
        return line(
            cell.rjust(width) if numbers and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )

    rule = line(
        "-" * (width - 1) + (":" if numbers and i else "-") for i, width in enumerate(widths)
    )
    return "\n".join([padded(rows[0]), rule, *map(padded, rows[1:])])


def summary(runs: list[Run]) -> str:
    rows: list[tuple[str, ...]] = [
        ("Python", "engine", "preempt", "passed", "not passed", "skipped", "declined")
    ]
    for run in runs:
        counts = Counter(run.outcomes.values())
        figures = (counts["passed"], len(run.bad), counts["skipped"], counts["declined"])
        preempt = (
            run.preempt if run.preempt == "default" else f"{run.preempt}, {run.quantum * 1e3:g} ms"
        )
        rows.append((run.python, run.engine, preempt, *map(str, figures)))
    return (
        table(rows)
        + "\n\n*not passed*: failed, hung, crashed or without a result. *skipped*: by us, *declined*: by the test"
        "\nitself; all of both are listed below. `preempt` default is mode `report`; in mode `on` a step that"
        "\noverruns its slice is suspended and the others go on."
    )


def modules(runs: list[Run]) -> str:
    names = sorted({test.partition(".")[0] for run in runs for test in run.outcomes})
    rows: list[tuple[str, ...]] = [("passed of those run", *(run.name for run in runs))]
    for name in names:
        cells = []
        for run in runs:
            counts = Counter(
                outcome for test, outcome in run.outcomes.items() if test.startswith(name + ".")
            )
            ran = counts.total() - counts["skipped"] - counts["declined"]
            passed = str(counts["passed"])
            all_of_it = passed if ran else "·"
            cells.append(all_of_it if counts["passed"] == ran else f"{passed} of {ran}")
        rows.append((f"`{name}`", *cells))
    return table(rows)


def skipped(runs: list[Run], outcome: str) -> str:
    """Every test that did not run, once, under its reason, and on which Pythons if not on all."""
    by_reason: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for test, reason in run.reasons.items():
            if run.outcomes[test] == outcome:
                by_reason[reason][test].append(run.name)
    parts = []
    for reason, tests in sorted(by_reason.items(), key=lambda item: min(item[1])):
        parts.append(f"- {reason}:")
        for test, names in sorted(tests.items()):
            parts.append(f"  - `{test}`{where(names, runs)}")
    return "\n".join(parts) or "None."


def where(names: list[str], runs: list[Run]) -> str:
    """The runs in which it was so, in the shortest words; nothing when in all of them."""
    if len(names) == len(runs):
        return ""
    whole = [
        version
        for version in versions(runs)
        if all(run.name in names for run in runs if run.version == version)
    ]
    rest = [run.name for run in runs if run.name in names and run.version not in whole]
    return f" ({', '.join(whole + rest)})"


def left_out(runs: list[Run]) -> str:
    by_reason: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, reason in run.left_out.items():
            by_reason[reason][name].append(run.name)
    parts = []
    for reason, found in sorted(by_reason.items()):
        names = (f"`{name}`{where(runs_, runs)}" for name, runs_ in sorted(found.items()))
        parts.append(f"- {reason}: {', '.join(names)}")
    return "\n".join(parts)


def not_passed(runs: list[Run]) -> str:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        for test in run.bad:
            found[test, run.outcomes[test]].append(run.name)
    return "\n".join(
        f"- `{test}`: {outcome} ({', '.join(names)})"
        for (test, outcome), names in sorted(found.items())
    )


def page(runs: list[Run]) -> str:
    """All of docs/conformance.md. It holds no times: the same results make the same page."""
    differing = [
        f"- `{test}`: {text}. {why or 'NOT EXPLAINED.'}" for test, text, why in differences(runs)
    ]
    modes = {run.preempt for run in runs}
    none = "None: on each Python every test ends the same way" + (
        f" in every run (engines {', '.join(dict.fromkeys(run.engine for run in runs))}; "
        f"preempt {', '.join(sorted(modes))})."
    )
    sections = [
        ("", summary(runs)),
        ("Not passed", not_passed(runs) or "None."),
        (
            "Differences between engines and modes",
            "\n".join(differing) or none,
        ),
        ("By module", modules(runs)),
        (
            "Skipped by us",
            "These look at something private to the standard library's own loop, so that no other loop can pass\n"
            "them (`tests/conformance/skips.py`).\n\n" + skipped(runs, "skipped"),
        ),
        (
            "Skipped by the tests themselves",
            "A reason that is not known to be harmless counts as a failure.\n\n"
            + skipped(runs, "declined"),
        ),
        (
            "Modules and classes without a loop to test",
            "Everything else that the interpreter ships is run (`tests/conformance/suites.py`).\n\n"
            + left_out(runs),
        ),
    ]
    return "\n".join(
        [HEAD, *(f"## {title}\n\n{text}\n" if title else f"{text}\n" for title, text in sections)]
    )


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m tests.conformance.publish", description=__doc__)
    p.add_argument("files", nargs="+", metavar="FILE", help="results written with --json")
    p.add_argument("--output", metavar="FILE", default=str(PAGE), help="docs/conformance.md")
    args = p.parse_args(argv)
    try:
        runs = sorted((read(path) for path in args.files), key=lambda run: run.order)
    except (OSError, ValueError) as error:
        warn(str(error))
        return 2
    twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if twice:
        warn(f"more than one file is about {', '.join(twice)}")
        return 2
    text = page(runs)
    print(text, end="")
    Path(args.output).write_text(text)
    problems = [f"{run.name}: {problem}" for run in runs for problem in run.problems]
    differing = differences(runs)
    known = {test for test, _, why in differing if why}
    for run in runs:
        if not run.outcomes:
            problems.append(f"{run.name}: no test at all")
        if unexplained := [test for test in run.bad if test not in known]:
            problems.append(f"{run.name}: {len(unexplained)} tests did not pass")
    problems += [f"{test}: {text}, not explained" for test, text, why in differing if not why]
    for problem in problems:
        warn(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
