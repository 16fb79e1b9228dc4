"""Which suspended step gets the next slice.

A policy sees only steps that overran their slice: everything else runs in the order in which it became
ready, as asyncio promises. It is chosen by name or given as an object; see ``Policy`` for what an object
of your own needs.

Fair follows the idea of EEVDF (Stoica and Abdel-Wahab, "Earliest Eligible Virtual Deadline First", 1995;
Linux's scheduler since 6.6): among the steps that have had no more than their share, the one whose next
slice would be over first in virtual time. With one slice length that is weighted fair queueing with a
bounded lag; a step that asks for less is served sooner.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from clearway.scheduler.suspended import Suspended

#: A step of lower priority gets one slice in this many while higher ones compete (Erlang runs its low
#: priority once in 8): a suspended step may hold a lock that a higher one waits for.
PRIORITY_GUARANTEE = 8


@runtime_checkable
class Policy(Protocol):
    """What a scheduling policy must offer. Every method runs on the loop's thread, between steps, and must
    neither block nor await; ``candidates`` is never empty and must not be changed.

    A policy with a true attribute ``orders_ready`` also has the ready steps sorted by priority while others
    are suspended."""

    name: str

    def suspended(self, step: Suspended) -> None:
        """``step`` has just been suspended for the first time in its life."""

    def choose(self, candidates: Sequence[Suspended], now_ns: int) -> int:
        """Index of the step that gets the next slice."""

    def slice_ns(self, step: Suspended, quantum_ns: int) -> int:
        """Length of that slice; at least 50,000 ns are given."""

    def charge(self, step: Suspended, used_ns: int) -> None:
        """``step`` has used this much of the processor (waiting in a blocking call is not charged)."""

    def finished(self, step: Suspended) -> None:
        """``step`` has come to its end and will not be seen again."""


class RoundRobin:
    """Each suspended step in turn, a quantum each."""

    name = "round-robin"

    def suspended(self, step: Suspended) -> None:
        pass

    def choose(self, candidates: Sequence[Suspended], now_ns: int) -> int:
        best = 0
        for i in range(1, len(candidates)):
            if _earlier(candidates[i], candidates[best]):
                best = i
        return best

    def slice_ns(self, step: Suspended, quantum_ns: int) -> int:
        return quantum_ns

    def charge(self, step: Suspended, used_ns: int) -> None:
        pass

    def finished(self, step: Suspended) -> None:
        pass


class Priority(RoundRobin):
    """The highest priority first, round robin among equals; every ``guarantee``-th slice goes to the step
    that has waited longest, whatever its priority.

    :param guarantee: 1 slice in this many is given without regard to priority; at least 2.
    """

    name = "priority"
    #: While steps are suspended the ready ones are run by priority too, not in the order they became ready.
    orders_ready = True

    def __init__(self, guarantee: int = PRIORITY_GUARANTEE) -> None:
        if guarantee < 2:
            raise ValueError(f"guarantee must be at least 2 slices, not {guarantee!r}")
        self.guarantee = guarantee
        self._count = 0

    def choose(self, candidates: Sequence[Suspended], now_ns: int) -> int:
        self._count += 1
        if self._count % self.guarantee == 0:
            return RoundRobin.choose(self, candidates, now_ns)
        best = 0
        for i in range(1, len(candidates)):
            a, b = candidates[i], candidates[best]
            level_a, level_b = max(a.priority, a.boost), max(b.priority, b.boost)
            if level_a > level_b or (level_a == level_b and _earlier(a, b)):
                best = i
        return best


class Fair(RoundRobin):
    """Processor time in proportion to weight, with a bound on how far anybody falls behind."""

    name = "fair"

    def __init__(self) -> None:
        # Per task, so that a task which is suspended again in a later step is still accounted for.
        self._virtual: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._floor = 0.0
        self._quantum_ns = 0

    def suspended(self, step: Suspended) -> None:
        virtual = self._floor
        if step.task is not None:
            # Time spent elsewhere earns no credit beyond the floor, or a sleeper could then hold the
            # processor for as long as it slept.
            virtual = max(virtual, self._virtual.get(step.task, 0.0))
        step.virtual_ns = virtual

    def choose(self, candidates: Sequence[Suspended], now_ns: int) -> int:
        total = 0.0
        weights = 0.0
        lowest = candidates[0].virtual_ns
        for step in candidates:
            total += step.virtual_ns * step.weight
            weights += step.weight
            if step.virtual_ns < lowest:
                lowest = step.virtual_ns
        if lowest > self._floor:
            self._floor = lowest
        # One nanosecond of slack: with equal values the average may round to just below all of them.
        average = total / weights + 1.0
        best = -1
        best_deadline = 0.0
        for i in range(len(candidates)):
            step = candidates[i]
            if step.virtual_ns > average:
                continue
            deadline = step.virtual_ns + self._quantum_ns / step.weight
            if step.boost > step.priority:
                deadline = 0.0  # somebody waits for a lock that it holds
            if (
                best < 0
                or deadline < best_deadline
                or (deadline == best_deadline and _earlier(step, candidates[best]))
            ):
                best = i
                best_deadline = deadline
        return best if best >= 0 else RoundRobin.choose(self, candidates, now_ns)

    def slice_ns(self, step: Suspended, quantum_ns: int) -> int:
        self._quantum_ns = quantum_ns
        return quantum_ns

    def charge(self, step: Suspended, used_ns: int) -> None:
        step.virtual_ns += used_ns / step.weight
        if step.task is not None:
            self._virtual[step.task] = step.virtual_ns


def _earlier(a: Suspended, b: Suspended) -> bool:
    if a.since_ns != b.since_ns:
        return bool(a.since_ns < b.since_ns)
    return bool(a.order < b.order)


_BY_NAME: dict[str, type[RoundRobin]] = {
    "fair": Fair,
    "priority": Priority,
    "round-robin": RoundRobin,
    "roundrobin": RoundRobin,
    "rr": RoundRobin,
}


def find_policy(policy: Any) -> Policy:
    """The policy of that name, or the object itself when it is one.

    :raises ValueError: no policy has that name. :raises TypeError: the object lacks a method.
    """
    if isinstance(policy, str):
        try:
            return _BY_NAME[policy.lower().replace("_", "-")]()
        except KeyError:
            raise ValueError(
                f"policy must be one of fair, priority, round-robin or an object, not {policy!r}"
            ) from None
    if isinstance(policy, type):
        policy = policy()
    missing = [
        name
        for name in ("suspended", "choose", "slice_ns", "charge", "finished")
        if not callable(getattr(policy, name, None))
    ]
    if missing:
        raise TypeError(f"a policy needs the method {missing[0]}(); {policy!r} has none")
    return policy  # type: ignore[no-any-return]
