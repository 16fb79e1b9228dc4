"""Slices: putting a step aside in the middle, and giving suspended steps their turns.

Fresh work (ready steps and a poll) gets a round, then one suspended step gets a slice, chosen by the policy.
Steps that wait in a blocking call are apart: while others compute, each is only looked at now and then, for
as long as it takes to see whether its wait is over; when nothing but waits is left, the loop sits in one of
them until its time is up or the loop itself has something to do.
"""

from __future__ import annotations

import sys
from asyncio import tasks
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import greenlet

from clearway.scheduler import _native, domains
from clearway.scheduler.policies import find_policy
from clearway.scheduler.runners import Runners
from clearway.scheduler.statistics import Histogram
from clearway.scheduler.suspended import Suspended

#: How long a step that waits in a blocking call gets to show that its wait is over, while others compute.
PROBE_NS = 50_000
#: It is probed at growing intervals, up to this many quanta.
PROBE_GAP_MAX_QUANTA = 4

#: While I/O or a timer waits behind steps that were ready before it, the first slice of each of these is the
#: quantum divided by this: several that overrun one after the other would else hold it up for a quantum each.
HURRY_PARTS = 8

#: The shortest slice, whatever a policy says: a switch costs a tenth of it.
SLICE_MIN_NS = 50_000

_SWAPS = sys.version_info >= (3, 12)


class Slices(Runners):
    """Suspends the running step and resumes suspended ones."""

    def __init__(
        self, mode: str, quantum: float, policy: Any, report_after: float, elsewhere: str | None
    ) -> None:
        Runners.__init__(self, mode, quantum, report_after, elsewhere)
        self.policy = find_policy(policy)
        self.orders_ready = bool(getattr(self.policy, "orders_ready", False))
        self.has_domains = False
        # Whether the host must ask about each step before it runs it: a domain is held, or a section open.
        self.looks_at_steps = False
        # Of tasks that await something inside a critical section.
        self._open_sections: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._held_domains: dict[Any, int] = {}
        self._where = 0
        self._busy = False
        # The debt of fresh work to suspended work, in ns: see _after_suspension.
        self._debt_ns = 0
        self._slice_began_ns = 0
        self._due_ns = 0
        self._fresh_since_ns = 0
        self.on_switch: Callable[[str, Any, int], None] | None = None
        # Decides instead of the clock who goes on, when a test is shuffled: see clearway.testing.
        self.shuffler: Any = None
        self.resumes = 0
        self.interrupted = 0
        self.longest_ns = 0
        self.latency = Histogram()
        self.waited = Histogram()
        self.time_by_task: dict[str, int] = {}
        self.time_by_priority: dict[int, int] = {}
        self._interrupts: list[Any] = []

    def _suspend(self, frame: Any) -> None:
        clock = self.clock
        host = self._host
        now = _native.now_ns()
        me = greenlet.getcurrent()
        word = clock.c.word
        task = tasks.current_task(host)
        entry = self._current
        fresh = entry is None or entry.word != word
        if fresh:
            entry = Suspended(me, host.current_step(), task, word)
            self._settle(now)
            began = clock.c.kick_ns - (clock.c.hurry_ns or self.quantum_ns)
            self.policy.suspended(entry)
        else:
            began = self._slice_began_ns
        entry.waits = self._where == _native.AT_WAIT
        entry.task = task
        entry.priority = domains.priority_of(task)
        entry.weight = domains.weight_of(task)
        entry.frame = frame
        entry.since_ns = now
        used = now - began
        if used > self.longest_ns:
            self.longest_ns = used
        entry.used_ns += used
        if not entry.waits:
            self.policy.charge(entry, used)
            self._account(entry, used)
            entry.probe_gap_ns = 0
        else:
            entry.probe_gap_ns = min(
                max(2 * entry.probe_gap_ns, self.quantum_ns), PROBE_GAP_MAX_QUANTA * self.quantum_ns
            )
            entry.probe_at_ns = now + entry.probe_gap_ns
        if not fresh:
            if not entry.waits:
                self.latency.add(now - self._due_ns)
            self._debt_ns = max(self._debt_ns - used, -self.quantum_ns)
        else:
            self.latency.add(now - clock.c.kick_ns)
            self._debt_ns = min(self._debt_ns + used, 2 * self.quantum_ns)
        if fresh:
            domain = domains.domain_var.get()
            if domain is not None:
                entry.domain = domain
                self._held_domains[domain] = self._held_domains.get(domain, 0) + 1
                self.has_domains = True
                self.looks_at_steps = True
        self.suspensions += 1
        self._fresh_since_ns = now
        if self.on_switch is not None:
            self.on_switch("suspend", entry, now)
        # What it wrote is on its way while it waits.
        host.flush()
        if task is not None:
            _leave(host, task)
        host._epoch += 1
        clock.c.word = word + 1
        self._busy = False
        clock.answered()
        self._current = None
        self._suspended.append(entry)
        self.has_suspended = True
        entry.strand = me
        shown = _native.set_representations_aside()
        # Nothing of this call is used before it is resumed: any number of other steps may run meanwhile.
        self._after_suspension(fresh, now)
        # Here again, on the hog's stack: _activate has made us the runner and the word odd.
        if shown is not None:
            _native.take_representations_up(shown)
        if task is not None:
            _enter(host, task)
        entry = self._current
        entry.frame = None
        if entry.error is not None:
            error = entry.error
            entry.error = None
            self.interrupted += 1
            try:
                raise error
            finally:
                error = None

    def _after_suspension(self, fresh: bool, now: int) -> None:
        """Choose who goes on, and switch.

        Fresh work (ready steps and a poll) goes first. But when fresh steps overrun one after the other the
        suspended ones would starve, and one of them may hold a lock that all the others want: once fresh
        steps have used a quantum more than suspended ones, a suspended step gets its slice first.
        """
        if self._closing:
            self._finished = True
            self._switch(self._root)
            return
        if self.shuffler is not None:
            # Not drawn for a wait: how often one is suspended is up to the clock, not to the seed.
            suspended_first = self._where != _native.AT_WAIT and self.shuffler.suspended_first()
        else:
            suspended_first = fresh and self._debt_ns > self.quantum_ns
            if suspended_first and self._host.arrivals_wait():
                # Those would wait for that slice too, and before them are more that may overrun: one more quantum.
                suspended_first = self._debt_ns >= 2 * self.quantum_ns
        if suspended_first and len(self._suspended) > 1:
            entry = self._choose(
                now, [e for e in self._suspended if e.strand is not greenlet.getcurrent()]
            )
            if entry is not None:
                self._activate(entry, now)
                self._switch(entry.strand)
                return
        if self._idle:
            parked = self._idle.pop()
            self._running = parked
            self._switch(parked)
        else:
            self._switch(self._root)

    def hurry(self, hurried: bool) -> None:
        """The host calls this when it changes: I/O or timers wait behind ready steps, and a step has overrun.

        The order stays; the first slice of a step is shorter.
        """
        clock = self.clock
        if not hurried or self.shuffler is not None:
            clock.c.hurry_ns = 0
            return
        clock.c.hurry_ns = max(self.quantum_ns // HURRY_PARTS, SLICE_MIN_NS)
        clock.poke()

    def end_of_turn(self) -> None:
        """Give one suspended step one slice, if any; returns when it is this runner's turn again.

        Called by the host between two turns, when its structures are consistent and no step runs.
        """
        if not self._suspended:
            return
        now = _native.now_ns()
        self._settle(now)
        if self._host.has_ready():
            if self.shuffler is not None:
                if not self.shuffler.suspended_first():
                    return
            elif now - self._fresh_since_ns < self.quantum_ns:
                return  # fresh work may use a quantum, as suspended work does
        if self._interrupts:
            self._hand_over_due(now)
        entry = self._choose(now, self._suspended)
        if entry is None:
            return
        me = greenlet.getcurrent()
        root = self._root
        # What this turn's steps wrote must not wait for a slice.
        self._host.flush()
        self._idle.append(me)
        self._activate(entry, now)
        self._switch(entry.strand)
        if self._root is not root:
            self._adopt(me)

    def _choose(self, now: int, among: list[Suspended]) -> Suspended | None:
        """The entry for the next slice, with the slice in ``_slice_ns`` and its flags in ``_flags``.

        What it decides by the clock is drawn when a test is shuffled: equal seeds must choose alike on a slow
        machine and on a fast one.
        """
        computing = [entry for entry in among if not entry.waits or entry.error is not None]
        self._flags = 0
        for entry in computing:
            if entry.error is not None:
                self._slice_ns = self.quantum_ns
                return entry
        busy = bool(computing) or self._host.has_ready()
        if busy and self.shuffler is not None:
            entry = among[self.policy.choose(among, now)]
            self._slice_ns = self.quantum_ns
            if entry.waits:
                self._slice_ns = PROBE_NS
                self._flags = _native.PLAN_WAITS
            return entry
        if busy:
            # A wait is looked at now and then, briefly: its time may have come.
            for entry in among:
                if entry.waits and entry.error is None and now >= entry.probe_at_ns:
                    self._slice_ns = PROBE_NS
                    self._flags = _native.PLAN_WAITS
                    return entry
            if not computing:
                return None
            entry = computing[self.policy.choose(computing, now)]
            self._slice_ns = max(self.policy.slice_ns(entry, self.quantum_ns), SLICE_MIN_NS)
            return entry
        # Only waits are left and nothing is ready: sit in one of them until something is due. Each in turn.
        entry = among[0]
        for other in among:
            if other.since_ns < entry.since_ns:
                entry = other
        self._slice_ns = self.quantum_ns
        self._flags = _native.PLAN_WAITS | _native.PLAN_WATCH
        return entry

    def _activate(self, entry: Suspended, now: int) -> None:
        """Make ``entry`` the running step; the caller switches to it next."""
        clock = self.clock
        self._suspended.remove(entry)
        self.has_suspended = bool(self._suspended)
        self._running = entry.strand
        self._current = entry
        self._host._epoch += 1
        clock.c.word += 1
        entry.word = clock.c.word
        self.resumes += 1
        self.waited.add(now - entry.since_ns)
        self._slice_began_ns = now
        self._due_ns = now + self._slice_ns
        if self._flags & _native.PLAN_WATCH:
            clock.c.deadline_ns = self._host.next_deadline_ns()
        clock.plan_slice(self._due_ns, self._flags)
        clock.unpark_if_parked()
        if self._slice_ns * 4 < self.quantum_ns:
            clock.poke()
        if self.on_switch is not None:
            self.on_switch("resume", entry, now)

    def _settle(self, now: int) -> None:
        """If the step that was resumed last has come to its end since, close its account."""
        entry = self._current
        if entry is None:
            return
        self._current = None
        used = now - self._slice_began_ns
        if not entry.waits:
            self.policy.charge(entry, used)
            self._account(entry, used)
        self._debt_ns = max(self._debt_ns - used, -self.quantum_ns)
        entry.used_ns += used
        if entry.domain is not None:
            count = self._held_domains.get(entry.domain, 0) - 1
            if count > 0:
                self._held_domains[entry.domain] = count
            else:
                self._held_domains.pop(entry.domain, None)
            self.has_domains = bool(self._held_domains)
            self.looks_at_steps = self.has_domains or bool(self._open_sections)
        self.policy.finished(entry)
        if self.on_switch is not None:
            self.on_switch("finish", entry, now)

    def _account(self, entry: Suspended, used: int) -> None:
        name = entry.name() if entry.task is not None else "callbacks"
        if len(self.time_by_task) < 1000 or name in self.time_by_task:
            self.time_by_task[name] = self.time_by_task.get(name, 0) + used
        level = entry.priority
        self.time_by_priority[level] = self.time_by_priority.get(level, 0) + used

    def settle(self) -> None:
        """The host calls this at the end of a turn when nothing is suspended any more."""
        if self._current is not None:
            self._settle(_native.now_ns())

    def holds(self, domain: Any) -> bool:
        """U9: must a step of ``domain`` wait because another one of it is suspended?"""
        return domain in self._held_domains

    def left_open(self, step: Any) -> None:
        """The host calls this when a step has ended inside of a critical section, at an ``await``.

        It is not the others' section: they must neither be kept from being suspended nor end it. The rest of
        it begins with the task's next step.
        """
        section = _native.set_sections_aside()
        task = domains.task_of_step(step)
        if task is not None and not task.done():
            self._open_sections[task] = section
            self.looks_at_steps = True

    def enter_open_section(self, step: Any) -> None:
        """The host calls this before it runs a step, while ``looks_at_steps`` is set."""
        if self._open_sections:
            task = domains.task_of_step(step)
            section = None if task is None else self._open_sections.pop(task, None)
            if section is not None:
                _native.take_sections_up(section)
        self.looks_at_steps = self.has_domains or bool(self._open_sections)

    def order_ready(self, steps: list[Any], head: int) -> None:
        """Put the urgent ones of ``steps[head:]`` first, keeping the order among equals.

        The host calls this before a pass while steps are suspended and ``orders_ready`` is set: several
        unimportant steps that are about to overrun must not stand before an urgent one, a quantum each.
        """
        if len(steps) - head > 1:
            rest = steps[head:]
            rest.sort(key=domains.priority_of_step, reverse=True)
            steps[head:] = rest

    def _hand_over_due(self, now: int) -> None:
        """Give suspended steps the exceptions that are due in them (``Scheduler`` knows which)."""


def _leave(loop: Any, task: Any) -> None:
    if _SWAPS:
        tasks._swap_current_task(loop, None)  # type: ignore[attr-defined]
    else:
        tasks._leave_task(loop, task)


def _enter(loop: Any, task: Any) -> None:
    if _SWAPS:
        tasks._swap_current_task(loop, task)  # type: ignore[attr-defined]
    else:
        tasks._enter_task(loop, task)
