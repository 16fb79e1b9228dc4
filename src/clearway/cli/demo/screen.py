"""What the user sees: progress while it runs, the table when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clearway.cli.demo.figures import Round, Summary, summarize
from clearway.cli.demo.picture import cells_of
from clearway.cli.demo.slow import Outcome

#: Columns: what the table needs; a pipe or a file has no width of its own.
_TABLE_WIDTH = 100

_TITLES = {
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "uring": "clearway uring",
    "epoll": "clearway epoll",
}

#: Redraws per second: seldom, because they run on the load generator's core.
_REFRESH_HZ = 2


def title(loop: str) -> str:
    """The name of a loop for people."""
    return _TITLES[loop]


def console(*, stderr: bool = False) -> Console:
    """A console that is wide enough for the table even when it is not a terminal."""
    screen = Console(stderr=stderr, highlight=False)
    if not screen.is_terminal:
        screen.width = max(screen.width, _TABLE_WIDTH)
    return screen


class Display:
    """Progress on standard error: a live table on a terminal, a line per measurement elsewhere."""

    def __init__(self, loops: Sequence[str], total: int) -> None:
        self._loops = loops
        self._console = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("starting", total=total)
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress for the length of the block; leaves nothing behind on the screen."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            self._progress,
            console=self._console,
            refresh_per_second=_REFRESH_HZ,
            transient=True,
        ) as self._live:
            yield

    def begin(self, text: str) -> None:
        """Say what is being done now."""
        self._progress.update(self._task, description=text)

    def expect(self, steps: int) -> None:
        """There will be so many steps more than was said at first."""
        total = self._progress.tasks[0].total or 0
        self._progress.update(self._task, total=total + steps)

    def tried(self) -> None:
        """Count a step that has nothing to show."""
        self._progress.advance(self._task)

    def add(self, rounds: Sequence[Round]) -> None:
        """Show a new measurement, the last of ``rounds``."""
        self._progress.advance(self._task)
        latest = rounds[-1]
        if self._live is None:
            self._console.print(
                f"round {latest.number + 1}  {title(latest.loop):<20}"
                f"{latest.requests_per_s:>10,.0f} requests/s  p99 {latest.load.p99_s * 1e3:.2f} ms"
            )
            return
        summaries = [summarize(loop, rounds) for loop in self._loops]
        shown = [summary for summary in summaries if summary is not None]
        self._live.update(Group(table("so far", shown), self._progress))


def table(heading: str, summaries: Sequence[Summary]) -> Table:
    """The comparison: one row per loop, medians over the rounds."""
    result = Table(title=heading, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    result.add_column("event\nloop", no_wrap=True)
    for name in (
        "requests\n/s",
        "x asyncio\n(range)",
        "p50\nms",
        "p99\nms",
        "p99.9\nms",
        "CPU us/req.\n(user)",
        "switches\n/req.",
    ):
        result.add_column(name, justify="right")
    best = max((summary.requests_per_s for summary in summaries), default=0.0)
    for summary in summaries:
        result.add_row(
            title(summary.loop),
            f"{summary.requests_per_s:,.0f}",
            _ratio(summary),
            f"{summary.p50_s * 1e3:.2f}",
            f"{summary.p99_s * 1e3:.2f}",
            f"{summary.p999_s * 1e3:.2f}",
            f"{summary.cpu_us:.1f} ({summary.cpu_user_us:.1f})",
            f"{summary.switches:.3f}",
            style="bold" if summary.requests_per_s == best else "",
        )
    return result


def _ratio(summary: Summary) -> str:
    if summary.ratio is None:
        return "-"
    return f"{summary.ratio:.2f} ({summary.ratio_min:.2f}-{summary.ratio_max:.2f})"


def slow_table(heading: str, outcomes: Sequence[Outcome]) -> Table:
    """The second act: what the fast requests waited, and what became of the slow ones."""
    result = Table(title=heading, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    result.add_column("event\nloop", no_wrap=True)
    for name in (
        "p50\nms",
        "p99\nms",
        "p99.9\nms",
        "longest\nms",
        "/cpu\nmedian ms",
        "/block\nmedian ms",
        "suspen-\nsions",
    ):
        result.add_column(name, justify="right")
    for item in outcomes:
        style = "bold" if item.contestant.preempt == "on" else ""
        result.add_row(item.contestant.title, *cells_of(item), style=style)
    return result
