"""Telling the user which line holds up the loop.

No signal is sent and nothing is added to a step: the monitor notices that the step counter stands still, and
a thread made for the purpose takes the GIL and looks at the frames of the loop's thread. A
step in C code that holds the GIL is therefore seen when that code returns, with the line that called it.

Each place is reported once; what it costs later is in the statistics.
"""

from __future__ import annotations

import atexit
import linecache
import logging
import sys
import threading
import traceback
import weakref
from asyncio import tasks
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from clearway.scheduler import _native, critical, rules

logger = logging.getLogger("clearway.scheduler")

#: Places that are remembered so as not to be reported again.
PLACES_MAX = 1000
#: Frames of a report; the innermost are kept.
FRAMES_MAX = 40

# Modules whose frames end the part of the stack that is of interest: below them is the loop itself.
_LOOP_MODULES = (
    "asyncio.base_events",
    "asyncio.events",
    "asyncio.runners",
    "clearway.loop",
    "clearway.scheduler.runner",
)


@dataclass(frozen=True)
class StallReport:
    """A step that ran for longer than the threshold.

    :ivar task: name of the task, or a description of the callback, or "" when the step was already over.
    :ivar seconds: how long it had run when the stack was taken.
    :ivar stack: the Python stack, innermost call last; empty when the step was already over.
    :ivar ended: the step was over by the time the stack could be taken.
    :ivar rule: in mode "on", the rule that kept it from being suspended ("U7 ..."), else "".
    :ivar detail: what the rule found.
    """

    task: str
    seconds: float
    stack: tuple[str, ...]
    ended: bool
    rule: str = ""
    detail: str = ""

    def __str__(self) -> str:
        who = f" of {self.task!r}" if self.task else ""
        if self.ended:
            return (
                f"a step{who} held up the event loop for more than {self.seconds:.3f} s in code that let no "
                "other Python thread run; it is over, so its stack is not known"
            )
        text = f"a step{who} has been holding up the event loop for {self.seconds:.3f} s"
        if self.rule:
            text += f"; it could not be suspended: {self.rule}"
            if self.detail:
                text += f" ({self.detail})"
        else:
            text += "; move the work to a thread or process, or run with preempt='on' so that others can go on"
        return text + "\n" + "".join(self.stack).rstrip()


class Reporter:
    """Reports stalls, on a native thread that exists only while there is one to report."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # id -> (weak scheduler, thread, word of the stall that was dealt with last)
        self._watched: dict[int, list[Any]] = {}
        self._places: set[tuple[str, int]] = set()
        self.hooks: list[Callable[[StallReport], None]] = []

    def watch(self, scheduler: Any) -> None:
        """Report stalls of ``scheduler``, whose loop runs in the calling thread."""
        with self._lock:
            self._watched[id(scheduler)] = [weakref.ref(scheduler), threading.get_ident(), 0]
        _native.set_stall_receiver(self._look)

    def unwatch(self, scheduler: Any) -> None:
        with self._lock:
            self._watched.pop(id(scheduler), None)

    def forget_places(self) -> None:
        """Report places again that were reported before."""
        self._places.clear()

    def _look(self) -> None:
        with self._lock:
            watched = list(self._watched.values())
        for row in watched:
            scheduler = row[0]()
            if scheduler is None:
                continue
            word, since_ns = scheduler.clock.stall
            if word and row[2] != word:
                row[2] = word
                try:
                    self._report(scheduler, row[1], word, since_ns)
                except Exception:
                    logger.exception("the report of a stalled step failed")

    def _report(self, scheduler: Any, thread: int, word: int, since_ns: int) -> None:
        # Both at once, before anything that could let the loop's thread go on.
        who = _who(scheduler)
        frame = sys._current_frames().get(thread)
        seconds = (_native.now_ns() - since_ns) / 1e9
        if scheduler.clock.word != word or frame is None:
            report = StallReport("", scheduler.watched_ns() / 1e9, (), True)
            place = ("", 0)
        else:
            if scheduler.mode == "on":
                if scheduler.last_rule == rules.U0:
                    return  # it holds up nobody
                rule, detail = rules.RULES[scheduler.last_rule], str(scheduler.last_detail)
                if scheduler.last_rule < 0:
                    rule = "native code neither returned nor looked at its signals"
            else:
                rule = detail = ""
            place = (frame.f_code.co_filename, frame.f_lineno)
            calls = _calls_of_step(frame)
            # A frame keeps its variables alive: let go of it before the source files are read.
            del frame
            for call in calls:
                linecache.checkcache(call.filename)
            report = StallReport(
                who, seconds, tuple(traceback.format_list(calls)), False, rule, detail
            )
        scheduler.reports += 1
        if place in self._places:
            return
        if len(self._places) < PLACES_MAX:
            self._places.add(place)
        logger.warning("%s", report)
        for hook in list(self.hooks):
            hook(report)


def _who(scheduler: Any) -> str:
    host = scheduler._host
    try:
        task = tasks.current_task(host)
        if task is not None:
            return str(task.get_name())
        return repr(host.current_step())
    except Exception:  # the loop's thread goes on meanwhile
        return ""


def _calls_of_step(frame: FrameType | None) -> list[traceback.FrameSummary]:
    """The calls of the step that ``frame`` belongs to, innermost last; their lines are not read yet."""
    calls: list[traceback.FrameSummary] = []
    while frame is not None and len(calls) < FRAMES_MAX:
        module = frame.f_globals.get("__name__", "")
        if calls and isinstance(module, str) and module.startswith(_LOOP_MODULES):
            break
        code = frame.f_code
        linecache.lazycache(code.co_filename, frame.f_globals)
        calls.append(
            traceback.FrameSummary(
                code.co_filename, frame.f_lineno, code.co_name, lookup_line=False
            )
        )
        frame = frame.f_back
    calls.reverse()
    return calls


def _is_ours(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("clearway.scheduler.")


def _critical_too_long(took: float, maximum: float) -> None:
    # Who entered it: not the section itself, which has no frame when it is compiled, nor its decorator.
    caller: Any = sys._getframe(1)
    while caller.f_back is not None and _is_ours(caller):
        caller = caller.f_back
    where = f"{caller.f_code.co_filename}:{caller.f_lineno} in {caller.f_code.co_name}"
    logger.warning(
        "a critical section held up the event loop for %.3f s (maximum %.3f s) at %s",
        took,
        maximum,
        where,
    )


critical.on_too_long = _critical_too_long

#: The process's reporter.
reporter = Reporter()

# A report that comes while the interpreter is being taken apart would find half of it.
atexit.register(_native.set_stall_receiver, None)
