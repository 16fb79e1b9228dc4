"""The synthetic hogs that teach the unwinder what a safe point looks like on this interpreter.

This module is never compiled: the whole point is to be interrupted between two bytecodes. One function
per kind of place where CPython looks at its signals.
"""

from __future__ import annotations

import _queue
import os
import secrets
import select
import sys
from collections.abc import Callable
from typing import Any

from clearway.scheduler import _native, fragile, locks, rules

_calibrated = False

# One method for each way in which the interpreter calls C: no argument, one, some, with keywords, old style.
_EVERY_CONVENTION = (
    *(
        list.clear,
        list.append,
        list.insert,
        list.sort,
        dict.update,
        dict.pop,
        str.format,
        str.split,
    ),
    *(locks.Lock.acquire, locks.Lock.__enter__, locks.RLock.acquire, locks.RLock.__enter__),
)


def calibrate() -> None:
    """Teach the unwinder, once per process; costs a few milliseconds.

    :raises RuntimeError: the native stack of this interpreter makes no sense to us, so that nothing may
        be suspended; the caller refuses preemption and says so.
    """
    global _calibrated, _taken
    if _calibrated:
        return
    _native.seed(
        rules.suspendable_waits(),
        rules.denied_calls(),
        _EVERY_CONVENTION,
        rules.ALLOWED_EXTENSIONS,
    )
    _native.calibrate(_direct, (_at_back_edge, _at_entry, _in_while, _after_call))
    _taken = _take_a_semaphore()
    _native.learn_waits(_WAITS if _taken is None else (*_WAITS, _in_semaphore))
    _taken = None
    fragile.learn()
    _calibrated = True


def _direct(probe: Callable[[], None]) -> None:
    probe()


def _at_back_edge(trip: Callable[[], None]) -> None:
    trip()
    for _ in range(3):
        pass


def _at_entry(trip: Callable[[], None]) -> None:
    trip()
    _nothing()


def _nothing() -> None:
    pass


def _in_while(trip: Callable[[], None]) -> None:
    trip()
    i = 0
    while i < 3:
        i += 1


def _after_call(trip: Callable[[], None]) -> None:
    trip()
    len(())
    abs(0)


def _in_select(_: Any) -> None:
    # The argument parsers of these end in a jump, so the entries that Python knows are not on the stack
    # while they wait.
    select.select((), (), (), 0.001)


def _in_simple_queue(_: Any) -> None:
    try:
        _EMPTY.get(True, 0.001)
    except _queue.Empty:
        pass


def _in_semaphore(_: Any) -> None:
    _taken.acquire(True, 0.001)


def _take_a_semaphore() -> Any:
    """One as processes share; None where there can be none (no /dev/shm), and so no wait for one either."""
    try:
        from _multiprocessing import SemLock  # type: ignore[import-not-found]

        return SemLock(1, 0, 1, f"/clearway-{os.getpid()}-{secrets.token_hex(4)}", True)
    except (ImportError, OSError):
        return None


_taken: Any = None
_EMPTY: _queue.SimpleQueue[Any] = _queue.SimpleQueue()
# Before 3.13 it must not be suspended: see rules.suspendable_waits.
_WAITS = (_in_select, _in_simple_queue) if sys.version_info >= (3, 13) else (_in_select,)
