"""The synthetic hogs that teach the unwinder what a safe point looks like on this interpreter.

This module is never compiled: the whole point is to be interrupted between two bytecodes. One function
per kind of place where CPython looks at its signals.
"""

from __future__ import annotations

import _queue
import functools
import os
import secrets
import select
import sys
from collections.abc import Callable
from typing import Any

from clearway.scheduler import _native, locks, rules

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
    """Teach the unwinder, once per process; costs about a millisecond.

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
    _learn_lru_cache()
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


class _Key:
    """Makes a full ``lru_cache`` compare keys in each way in which it does, and looks at the native stack there."""

    def __init__(self, number: int, observe: Callable[[], None]) -> None:
        self.number = number
        self.observe = observe

    def __hash__(self) -> int:
        self.observe()
        return 0

    def __eq__(self, other: object) -> bool:
        self.observe()
        return isinstance(other, _Key) and other.number == self.number


def _learn_lru_cache() -> None:
    """Learn where ``functools.lru_cache`` is when it calls the user's function, and where when it compares keys.

    Called from the same place, the native stacks are equal up to the function of CPython that makes these calls,
    counted from outside; there the return addresses part.
    """
    if type(functools.lru_cache(_nothing)).__module__ != "functools":
        return  # written in Python
    observed: set[tuple[tuple[int, int], ...]] = set()
    watching = False

    def observe() -> None:
        if watching:
            observed.add(tuple(reversed(_native.native_addresses())))

    @functools.lru_cache(maxsize=2)
    def in_function(number: int) -> None:
        observe()

    watching = True
    _native.call_from_c(in_function, 1)
    (safe,) = observed
    observed.clear()

    @functools.lru_cache(maxsize=2)
    def cached(key: _Key) -> None:
        pass

    # The oldest in use is not the oldest in the dictionary: only then is it compared when it is thrown out.
    one, two, three = (_Key(number, observe) for number in range(3))
    watching = False
    for key in (one, two, one):
        cached(key)
    watching = True
    _native.call_from_c(cached, three)
    watching = False
    for stack in observed:
        for unsafe_frame, safe_frame in zip(stack, safe, strict=False):
            if unsafe_frame != safe_frame:
                _native.add_fragile(unsafe_frame[0], safe_frame[1])
                break
        else:
            raise RuntimeError(
                "calibration failed: functools.lru_cache was not found on the native stack"
            )
    if not observed:
        raise RuntimeError("calibration failed: functools.lru_cache compared no keys")


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
