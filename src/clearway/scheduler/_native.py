"""The stand-in for ``_native.pyx`` when nothing is compiled: modes "off" and "report", nothing more.

A Python thread takes the monitor's place. It needs the GIL to look at the step counter, which is good enough to
report a step that takes a tenth of a second, and no good for suspending one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

PLAN_WATCH, PLAN_WAITS = 1, 2
MODE_OFF, MODE_REPORT, MODE_ON = 0, 1, 2
AT_BOUNDARY, AT_WAIT, AT_C_CALL, AT_FOREIGN, AT_DEEP, AT_FINALISER, AT_UNKNOWN = range(7)

now_ns = time.monotonic_ns


class _Critical(threading.local):
    depth = 0
    since_ns = 0
    maximum_ns = 0


#: The critical sections of the calling thread; ``_native.pyx`` describes what follows.
_critical = _Critical()


def enter_section(maximum_ns: int) -> None:
    _critical.depth += 1
    if _critical.depth == 1:
        _critical.maximum_ns = maximum_ns
        _critical.since_ns = now_ns()


def leave_section() -> int:
    if _critical.depth == 0:
        return 0
    _critical.depth -= 1
    if _critical.depth:
        return 0
    took = now_ns() - _critical.since_ns
    return took if took > _critical.maximum_ns else 0


def section_depth() -> int:
    return _critical.depth


def set_section_depth(value: int) -> None:
    _critical.depth = value


def set_sections_aside() -> tuple[int, int, int]:
    aside = (_critical.depth, now_ns() - _critical.since_ns, _critical.maximum_ns)
    _critical.depth = 0
    return aside


def take_sections_up(aside: tuple[int, int, int]) -> None:
    _critical.depth, used, _critical.maximum_ns = aside
    _critical.since_ns = now_ns() - used


_stall_receiver: Callable[[], None] | None = None
_clocks: list[StepClock] = []
_wanted = threading.Event()
_watcher: threading.Thread | None = None


class StepClock:
    """The step counter of one loop: even between passes, odd while a step runs, 2 more for each step."""

    def __init__(self) -> None:
        self.c = self  # compiled, the counter lies in a C structure of this name
        self.word = 0
        self.critical = _critical
        self.deadline_ns = 0
        self.alarm_ns = 0
        self.hurry_ns = 0
        self.kick_word = 0
        self.kick_ns = 0
        self.kicks = (0, 0)
        self.registered = False
        self.stall = (0, 0)
        self._report_ns = 0
        self._mode = MODE_OFF
        self._seen = (0, 0)

    def configure(
        self, *, mode: int, quantum_ns: int, report_ns: int = 0, engine_fd: int = -1
    ) -> None:
        self._mode = mode
        self._report_ns = report_ns

    def adopt_thread(self) -> None:
        pass

    def leave_thread(self) -> None:
        pass

    def register(self) -> None:
        if not self.registered:
            self.registered = True
            if self._mode == MODE_REPORT and self._report_ns:
                _clocks.append(self)
                _start_watcher()

    def unregister(self) -> None:
        self.registered = False
        if self in _clocks:
            _clocks.remove(self)

    def unpark_if_parked(self) -> None:
        pass

    def plan_slice(self, due_ns: int, flags: int) -> None:
        pass

    def answered(self) -> None:
        pass

    def poke(self) -> None:
        pass

    def look(self, now: int) -> bool:
        """Whether one step has run for longer than the threshold; once per step."""
        word = self.word
        if not word & 1 or self._seen[0] != word:
            self._seen = (word, now)
            return False
        if now - self._seen[1] < self._report_ns or self.stall[0] == word:
            return False
        self.stall = self._seen
        return True


def _start_watcher() -> None:
    global _watcher
    _wanted.set()
    if _watcher is None or not _watcher.is_alive():
        _watcher = threading.Thread(target=_watch, name="clearway-monitor", daemon=True)
        _watcher.start()


def _watch() -> None:
    while True:
        _wanted.wait()
        clocks = list(_clocks)
        if not clocks:
            _wanted.clear()
            if _clocks:
                _wanted.set()
            continue
        stalled = [clock for clock in clocks if clock.look(now_ns())]
        if stalled and _stall_receiver is not None:
            _stall_receiver()
        time.sleep(min(clock._report_ns for clock in clocks) / 4e9)


def set_stall_receiver(receiver: Callable[[], None] | None) -> None:
    """Have ``receiver`` called in a thread of its own when a step has run for too long."""
    global _stall_receiver
    _stall_receiver = receiver


def stack_mark() -> int:
    return 0


def set_receiver(receiver: Any) -> Any:
    return None


def remove_kick() -> None:
    pass


def is_traced() -> bool:
    return False


def error_is_set() -> bool:
    return False
