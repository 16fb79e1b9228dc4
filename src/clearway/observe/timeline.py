"""Who ran when: a recorder of the intervals in which chosen pieces of code had the thread.

A program marks what it wants to see, on any event loop; on a clearway loop that preempts, the
recorder also learns from the scheduler when a marked piece was suspended and resumed, so that one
span becomes the slices it really ran in::

    timeline = Timeline()
    timeline.attach(asyncio.get_running_loop())

    async def handler():
        with timeline.span("report"):
            build_report()

    for piece in timeline.slices:
        print(piece.name, piece.number, piece.began_ns, piece.ended_ns, piece.waits)

Nothing is installed in a loop that is not attached to, and between two suspensions an attached loop
runs as it does without: the scheduler calls the recorder only when it switches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

#: Slices kept unless told otherwise: about 100 bytes each, so 10 MB at most. At a quantum of 1 ms a
#: loop that does nothing but compute fills it in 100 s.
SLICES_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Slice:
    """An interval in which one piece of code had the thread.

    :ivar name: of the span; of the task or callback for what was suspended outside any span.
    :ivar number: of the span, from 1 in the order in which they began; 0 outside any span.
    :ivar began_ns, ended_ns: CLOCK_MONOTONIC, nanoseconds.
    :ivar waits: it was spent in a blocking call, at least at its end.
    """

    name: str
    number: int
    began_ns: int
    ended_ns: int
    waits: bool


class Timeline:
    """Records slices; belongs to one thread.

    :param limit: how many slices to keep. Later ones are counted in ``lost`` and not kept.
    :ivar slices: what was recorded, in the order in which the slices ended.
    :ivar lost: slices over the limit.
    """

    def __init__(self, limit: int = SLICES_MAX) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1 slice, not {limit!r}")
        self.slices: list[Slice] = []
        self.lost = 0
        self._limit = limit
        self._count = 0
        #: The innermost open span of a task; None stands for plain callbacks.
        self._open: dict[Any, Span] = {}
        #: Since when what has no span runs, by the id() of its entry in the run queue.
        self._strays: dict[int, int] = {}
        self._scheduler: Any = None
        self._next: Callable[[str, Any, int], None] | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Listen to the scheduler of ``loop``; another listener goes on being called.

        :returns: False when the loop has none, as asyncio's: spans are recorded all the same.
        :raises RuntimeError: this recorder is attached already.
        """
        if self._scheduler is not None:
            raise RuntimeError("this timeline is attached to a loop already: detach it first")
        scheduler = getattr(loop, "_scheduler", None)
        if scheduler is None:
            return False
        self._scheduler = scheduler
        self._next = scheduler.on_switch
        scheduler.on_switch = self._on_switch
        return True

    def detach(self) -> None:
        """Stop listening. Without effect when not attached."""
        if self._scheduler is not None:
            self._scheduler.on_switch = self._next
            self._scheduler = None
            self._next = None

    def span(self, name: str) -> Span:
        """A context manager that records its block under ``name``; one block, used once."""
        return Span(self, name)

    def _enter(self, span: Span) -> None:
        task = _current_task()
        span._task = task
        span._outer = self._open.get(task)
        self._count += 1
        span._number = self._count
        span._since_ns = time.monotonic_ns()
        self._open[task] = span

    def _exit(self, span: Span) -> None:
        self._add(span.name, span._number, span._since_ns, time.monotonic_ns(), False)
        if span._outer is None:
            self._open.pop(span._task, None)
        else:
            self._open[span._task] = span._outer

    def _on_switch(self, kind: str, entry: Any, now_ns: int) -> None:
        # Runs on the stack of the step that is being switched: it must neither raise nor wait.
        span = self._open.get(entry.task)
        if kind == "suspend":
            if span is not None:
                self._add(span.name, span._number, span._since_ns, now_ns, entry.waits)
            else:
                # The first time it has run since its step began, and nobody has told us when.
                began_ns = self._strays.pop(id(entry), now_ns - entry.used_ns)
                self._add(entry.name(), 0, began_ns, now_ns, entry.waits)
        elif kind == "resume":
            if span is not None:
                span._since_ns = now_ns
            else:
                self._strays[id(entry)] = now_ns
        else:
            since_ns = self._strays.pop(id(entry), 0)
            if since_ns and span is None:
                self._add(entry.name(), 0, since_ns, now_ns, False)
        if self._next is not None:
            self._next(kind, entry, now_ns)

    def _add(self, name: str, number: int, began_ns: int, ended_ns: int, waits: bool) -> None:
        if len(self.slices) < self._limit:
            self.slices.append(Slice(name, number, began_ns, ended_ns, bool(waits)))
        else:
            self.lost += 1


class Span:
    """One marked block; see ``Timeline.span``."""

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.name = name
        self._timeline = timeline
        self._task: Any = None
        self._outer: Span | None = None
        self._number = 0
        self._since_ns = 0

    def __enter__(self) -> Span:
        self._timeline._enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timeline._exit(self)


def _current_task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # no loop runs
