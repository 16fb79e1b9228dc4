"""Progress, the table, the JSON file and the verdict."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from . import skips
from .pool import Result

COLUMNS = ("passed", "failed", "hung", "crashed", "lost", "skipped", "declined")
BAD = frozenset({"failed", "hung", "crashed", "lost"})
MEANING = (
    "hung: killed at the time-out · crashed: its process died · lost: listed, but no result · "
    "skipped: tests/conformance/skips.py · declined: skipped by upstream itself"
)


class Progress:
    """A line that is redrawn on a terminal, a line every 5 % elsewhere; failures stand alone."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream = total, stream
        self.counts: Counter[str] = Counter()
        self.terminal = stream.isatty()
        self.step = max(1, total // 20)
        self.began = time.monotonic()

    def add(self, result: Result) -> None:
        self.counts[result.outcome] += 1
        done = self.counts.total()
        if result.outcome in BAD:
            clear = "\r\x1b[K" if self.terminal else ""
            print(f"{clear}{result.outcome:8} {result.id}", file=self.stream)
        if self.terminal or done % self.step == 0 or done == self.total:
            bad = sum(self.counts[outcome] for outcome in BAD)
            line = (
                f"{done:5}/{self.total} {100 * done // self.total:3} %  passed "
                f"{self.counts['passed']}  bad {bad}  {time.monotonic() - self.began:.0f} s"
            )
            end = "" if self.terminal and done < self.total else "\n"
            print(f"\r\x1b[K{line}" if self.terminal else line, end=end, file=self.stream)
        self.stream.flush()


@dataclass
class Report:
    """Everything one run found out.

    Parameters: ``listed`` are the ids that should have a result, ``problems`` what was wrong with
    the run itself (stale skips, hooks without a class), ``complete`` whether each class was run
    with all its tests.
    """

    loop: str
    options: dict[str, Any]
    python: str
    listed: list[str]
    left_out: dict[str, str]
    problems: list[str]
    complete: bool = True
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    def close(self) -> None:
        """Draw the conclusions that need all results. Call once, at the end."""
        known = Counter(result.id for result in self.results)
        for identifier in self.listed:
            if identifier not in known:
                self.results.append(Result(identifier, "lost", "no process reported it"))
        for identifier, count in known.items():
            if count > 1:
                self.problems.append(f"{identifier} has {count} results")
        for result in self.results:
            if result.outcome == "declined" and not skips.upstream_reason_known(result.detail):
                result.outcome = "failed"
                result.detail = f"skipped by upstream for a reason not in skips.py: {result.detail}"
            if result.outcome == "passed" and result.escaped and not result.loops:
                result.outcome = "failed"
                result.detail = "ran on the standard library's loop: suites.py needs a hook for it"
        self._check_classes()
        self.results.sort(key=lambda result: result.id)

    def _check_classes(self) -> None:
        """Say which classes ran without ever asking for a loop: a hook is missing there."""
        loops: dict[str, int] = defaultdict(int)
        for result in self.results:
            if result.outcome not in ("skipped", "declined", "lost"):
                # A test that was killed told nothing of its loops.
                silent = result.outcome in ("hung", "crashed")
                loops[result.id.rpartition(".")[0]] += result.loops or silent
        if self.complete:
            self.problems += [
                f"{name}: no test made a loop; give it one or leave it out, in suites.py"
                for name, count in loops.items()
                if not count
            ]

    @property
    def counts(self) -> Counter[str]:
        return Counter(result.outcome for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether every listed test passed or was skipped for a reason that is written down."""
        return bool(self.results) and not self.problems and not BAD & set(self.counts)

    def table(self) -> str:
        """One line per module and a total."""
        rows: dict[str, Counter[str]] = defaultdict(Counter)
        for result in self.results:
            row = rows[result.id.partition(".")[0]]
            row[result.outcome] += 1
            row["on_loop"] += bool(result.loops)
            row["altered"] += result.altered
            row["ms"] += round(result.seconds * 1000)
        total: Counter[str] = sum(rows.values(), Counter())
        head: tuple[str, ...] = ("module", *COLUMNS, "on loop", "leaks", "s")
        lines = [head]
        for name, row in [*sorted(rows.items()), ("total", total)]:
            cells = [str(row[column] or "·") for column in (*COLUMNS, "on_loop", "altered")]
            lines.append((name, *cells, f"{row['ms'] / 1000:.1f}"))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def skipped(self) -> str:
        """The tests that did not run, by reason."""
        lines = []
        for outcome, title in (("skipped", "not run (skips.py)"), ("declined", "upstream's skips")):
            reasons: dict[str, list[str]] = defaultdict(list)
            for result in self.results:
                if result.outcome == outcome:
                    reasons[result.detail].append(result.id)
            if reasons:
                lines.append(f"{title}:")
            for reason, ids in reasons.items():
                lines.append(f"  {reason}")
                lines += [f"    {identifier}" for identifier in ids]
        return "\n".join(lines)

    def failures(self, *, full: bool) -> str:
        """Each bad result with its last line, or with everything its process said."""
        parts = []
        for result in self.results:
            if result.outcome not in BAD:
                continue
            if full:
                rule = "-" * 80
                parts.append(
                    f"{rule}\n{result.outcome}: {result.id}\n{result.detail}\n{result.output}"
                )
            else:
                lines = [line for line in result.detail.splitlines() if line.strip()]
                # An exception's message may have several lines; its first says the most.
                starts = [line for line in lines if line[0] not in " ~^" and ": " in line]
                why = (starts or lines or [""])[-1]
                parts.append(f"{result.outcome:8} {result.id}\n         {why[:150]}")
        return "\n".join(parts)

    def write_json(self, path: str) -> None:
        document = asdict(self) | {"counts": self.counts, "ok": self.ok}
        with open(path, "w") as file:
            json.dump(document, file, indent=1)
            file.write("\n")


def compare(report: Report, path: str) -> str:
    """What differs from an earlier run's JSON file: one line per test.

    Raises OSError and ValueError when the file cannot be read.
    """
    with open(path) as file:
        before = {item["id"]: item["outcome"] for item in json.load(file)["results"]}
    lines = []
    for result in report.results:
        was = before.pop(result.id, None)
        if was is not None and was != result.outcome:
            lines.append(f"  {was} -> {result.outcome}  {result.id}")
    return "\n".join(lines) or "  no difference"


def warn(message: str) -> None:
    print(f"conformance: {message}", file=sys.stderr)
