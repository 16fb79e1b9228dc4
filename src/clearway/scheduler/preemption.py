"""Suspending a step in the middle of a line, on the loop's own thread.

The problem
    A loop runs one step at a time. A step that computes for a second, or calls something that blocks, stops
    everything else for that second. Threads would cure it and bring everything asyncio users left behind.

The mechanism
    The loop runs inside a *runner*, a greenlet started from a shallow root (the greenlet in which
    ``run_forever`` was called). A monitor thread that never takes the GIL watches a step counter; when one
    step has run for a quantum it sends the thread a signal, and CPython calls ``Scheduler._on_kick`` *on the
    stack of the overrunning step*, between two bytecodes or inside a blocking call. If somebody else has
    something to do and this is a safe point, the handler puts the step aside as a ``Suspended`` entry and
    switches to another runner, which goes on with the loop's turn. Later a runner picks the entry at the end
    of its turn, parks itself, and switches back; the handler returns, and the step goes on where it was.

    So *whoever executes is the runner*. A step that was resumed and ends simply goes on as one: its pass of
    the ready queue sees that the epoch has changed and leaves, and the next turn begins on that stack. While
    nothing overruns there is one runner, no switch and no bookkeeping beyond the step counter.

A safe point
    is one at which no rule of ``rules`` objects: it is a bytecode boundary or a wait that CPython would go
    on with after a signal anyway, no foreign C code, finaliser or import is on the stack, and the Python
    code in the middle of something is not known to need run-to-completion. Otherwise the step goes on and is
    asked again within a millisecond. A point is never forced: what stays unsafe is counted and reported.

Rejected
    * The loop in another thread while the hog goes on: breaks thread identity (sqlite3, thread locals, RLock,
      the current task) and brings back data races in C extensions.
    * A thread per task: the GIL's convoy effect, and a stack for every task.
    * ``PyThreadState_SetAsyncExc``: can only raise; the work done so far is lost.
    * Rewriting code to insert yields: misses synchronous helpers and everything in C.
    * A greenlet per task: pays on every step for what one in ten thousand needs.
    * Switching from a pending call or a trace function: one suspended pending call blocks all later ones, and
      the interpreter does not save ``tracing`` per stack.
"""

from __future__ import annotations

import sys
from asyncio import tasks
from typing import Any

import greenlet

from clearway.scheduler import _native, domains, rules, timeouts
from clearway.scheduler.availability import is_compiled, refusal
from clearway.scheduler.runners import VIRTUAL_SIGNAL
from clearway.scheduler.slices import PROBE_NS, Slices
from clearway.scheduler.statistics import SchedulerStatistics
from clearway.scheduler.suspended import Suspended

__all__ = ["SUSPENDED_MAX", "VIRTUAL_SIGNAL", "Scheduler", "is_compiled", "refusal"]

#: Steps that may be suspended at a time; each holds a stack. More than that is not overload but a bug
#: somewhere, and the loop then runs as asyncio does.
SUSPENDED_MAX = 64

#: Ask again after a refusal: first after this long, then twice as long each time ...
RETRY_MIN_NS = 250_000
#: ... up to this.
RETRY_MAX_NS = 1_000_000


class Scheduler(Slices):
    """Runs a host (the event loop) so that its steps can be suspended.

    The host offers ``run_turns()``, ``_epoch``, ``current_step()``, ``has_ready()``, ``has_other_work()``,
    ``arrivals_wait()``, ``flush()``, ``next_deadline_ns()``, ``engine_fd()``, ``drain_wakeups()`` and ``is_closed()``;
    this class knows nothing of I/O.

    :param mode: "off", "report", "io" or "on".
    :param quantum: the time slice in seconds.
    :param policy: name or object, see ``policies``.
    :param report_after: seconds after which a step is reported; 0 for never.
    :param elsewhere: the mode to run in, and to say so, in a thread in which ``mode`` cannot work. None refuses to run.
    :raises RuntimeError: on ``enter`` when the mode cannot work here; the text says why.
    """

    def __init__(
        self,
        mode: str = "report",
        quantum: float = 0.005,
        policy: Any = "fair",
        report_after: float = 0.1,
        elsewhere: str | None = None,
    ) -> None:
        Slices.__init__(self, mode, quantum, policy, report_after, elsewhere)
        self._retry_ns = 0
        self._declined_word = 0
        self.last_rule = -1
        self.last_detail = ""
        self.lent = 0
        self.reports = 0
        self.declined = [0] * len(rules.RULES)

    # -- the kick --------------------------------------------------------------------------------------------

    def _on_kick(self, frame: Any) -> None:
        """The handler, on the stack of the step that overran. ``frame`` is where it stands."""
        clock = self.clock
        word = clock.c.word
        # CPython has written a byte to the wake-up descriptor for the trip: it must neither look like work
        # nor fill the pipe, or a real signal would be lost.
        self._host.drain_wakeups()
        if self._busy or not (word & 1) or clock.c.kick_word != word:
            return  # too late: that step is over (or we are in here already)
        self._busy = True
        suspend = False
        error: BaseException | None = None
        try:
            if self._interrupts and _native.now_ns() >= clock.c.alarm_ns:
                error = self._due_interrupt(frame)
            if error is None:
                if self.mode != "on" and self.mode != "io":
                    return
                rule = self._judge(frame)
                if rule >= 0:
                    self._decline(rule, word)
                    return
                if self.mode == "io":
                    self._pump(word)
                    return
                suspend = True
        finally:
            self._busy = suspend
        if error is not None:
            raise error
        # Busy until the step is put aside: a second kick meanwhile would find it in our own code.
        try:
            self._suspend(frame)
        finally:
            self._busy = False

    def _judge(self, frame: Any) -> int:
        """Number of the rule that objects to a suspension here and now; -1 if none does."""
        host = self._host
        if self._closing:
            if self._current is None or _native.now_ns() < self._due_ns:
                return rules.U1
        elif len(self._suspended) >= SUSPENDED_MAX or host.is_closed():
            return rules.U1
        if _native.section_depth() or not domains.preemptible_var.get():
            self.last_detail = ""
            return rules.U2
        if not self._closing and not self._anybody_waits():
            return rules.U0
        if self.mode == "io":
            return -1
        return self._objection(frame)

    def _objection(self, frame: Any) -> int:
        """The rules about the point itself: U2 to U8."""
        self.last_detail = ""
        if _native.section_depth():
            return rules.U2
        me = greenlet.getcurrent()
        if me is not self._running:
            return rules.U3
        if _native.is_traced() and not self._tracer_is_trusted():
            return rules.U3
        if rules.is_watched():
            return rules.U3
        if _native.error_is_set():
            return rules.U3
        where, self.last_detail, _depth = _native.classify(
            self._root_base if me is self._root else me.base
        )
        self._where = where
        if where == _native.AT_C_CALL or where == _native.AT_UNKNOWN:
            return rules.U4
        if where == _native.AT_FOREIGN or where == _native.AT_DEEP:
            return rules.U5
        if where == _native.AT_FINALISER or self._collector.collecting or rules.is_finaliser(frame):
            return rules.U6
        reason = rules.judge_frames(frame, where == _native.AT_WAIT)
        if reason is not None:
            self.last_detail = reason
            return rules.U7
        if rules.holds_known_lock():
            return rules.U8
        return -1

    def _tracer_is_trusted(self) -> bool:
        """A trace function that minds no switch (the shuffler's own) may be set; none may be running."""
        return (
            not _native.is_inside_tracer()
            and sys.getprofile() is None
            and any(sys.gettrace() is tracer for tracer in rules.trusted_tracers)
        )

    def _anybody_waits(self) -> bool:
        """U0: would a suspension do anybody any good?"""
        if self._suspended:
            if self.shuffler is not None:
                return True
            now = _native.now_ns()
            me = self._current
            sitting = me is not None and me.waits and me.word == self.clock.c.word
            for entry in self._suspended:
                if not entry.waits or sitting or now >= entry.probe_at_ns:
                    return True
        return bool(self._host.has_other_work())

    def _decline(self, rule: int, word: int) -> None:
        self.declined[rule] += 1
        self.last_rule = rule
        now = _native.now_ns()
        clock = self.clock
        if rule == rules.U0:
            # Nobody waits: go on, but be called as soon as somebody does. Asked again each quantum, also
            # while it waits, because the step itself may have made others ready just before.
            clock.c.deadline_ns = self._host.next_deadline_ns()
            self._slice_began_ns = now
            flags = _native.PLAN_WATCH
            entry = self._current
            if entry is not None and entry.waits and entry.word == word:
                flags |= _native.PLAN_WAITS
            clock.plan_slice(now + self.quantum_ns, flags)
            return
        if self._declined_word != word:
            self._declined_word = word
            self._retry_ns = RETRY_MIN_NS
        clock.plan_slice(now + self._retry_ns, 0)
        limit = RETRY_MAX_NS
        if rule == rules.U4 and limit < self.quantum_ns:
            # A long C call. Each kick interrupts a system call that it may be in, and not all code takes
            # that well (SimpleQueue.get before 3.13): bother it less.
            limit = self.quantum_ns
        self._retry_ns = min(2 * self._retry_ns, limit)

    def _pump(self, word: int) -> None:
        """Mode "io": what is to be sent goes out, what has arrived is taken in, and the step goes on."""
        self._host.flush()
        now = _native.now_ns()
        self.clock.plan_slice(now + self.quantum_ns, 0)

    def trip(self) -> None:
        """Have the running step looked at now, as if its slice were over (testing).

        To be called from that step's own thread. The switch happens at its next bytecode boundary.
        """
        self.clock.trip()

    # -- exceptions from outside -----------------------------------------------------------------------------

    def add_interrupt(self, interrupt: Any) -> None:
        """Raise ``interrupt.error`` in its task, or in the step ``interrupt.strand``, when its time comes.

        :raises RuntimeError: steps cannot be interrupted in this thread or interpreter.
        """
        if not self._kicked:
            reason = refusal("on")
            if reason is not None:
                raise RuntimeError(f"a running step cannot be interrupted here: {reason}")
            self._install_kick()
            if self._running is None:
                raise RuntimeError("the event loop is not running")
        self._interrupts.append(interrupt)
        self._set_alarm(0)
        if not self.clock.registered:
            self.clock.register()  # mode "off": only while there is something to watch for
        self.clock.poke()

    def remove_interrupt(self, interrupt: Any) -> None:
        if interrupt in self._interrupts:
            self._interrupts.remove(interrupt)
        self._set_alarm(0)
        if not self._interrupts and self.mode == "off" and not self.debug_ns:
            self.clock.unregister()

    def _set_alarm(self, not_before: int) -> None:
        alarm = 0
        for interrupt in self._interrupts:
            when = max(interrupt.when_ns, not_before)
            if alarm == 0 or when < alarm:
                alarm = when
        self.clock.c.alarm_ns = alarm

    def _due_interrupt(self, frame: Any) -> BaseException | None:
        """The exception that is due in the running step, if this is a point at which to raise it. Those of
        suspended steps are handed to them."""
        now = _native.now_ns()
        task = tasks.current_task(self._host)
        strand = self.strand()
        found: BaseException | None = None
        for interrupt in list(self._interrupts):
            if interrupt.when_ns > now:
                continue
            if interrupt.strand == strand or (task is not None and interrupt.task is task):
                if (
                    found is None
                    and not timeouts.is_cleaning_up(frame)
                    and self._objection(frame) < 0
                ):
                    self._interrupts.remove(interrupt)
                    interrupt.delivered = True
                    self.interrupted += 1
                    found = interrupt.error
            else:
                self._hand_over(interrupt)
        self._set_alarm(now + RETRY_MAX_NS)
        return found

    def _hand_over(self, interrupt: Any) -> None:
        """If its step is suspended where an exception may be raised, go on with it by the exception."""
        for entry in self._suspended:
            if (
                entry.task is interrupt.task
                if interrupt.task is not None
                else entry.serial == interrupt.strand
            ):
                if entry.error is None and not timeouts.is_cleaning_up(entry.frame):
                    self._interrupts.remove(interrupt)
                    interrupt.delivered = True
                    entry.error = interrupt.error
                return

    def _hand_over_due(self, now: int) -> None:
        for interrupt in list(self._interrupts):
            if interrupt.when_ns <= now:
                self._hand_over(interrupt)

    # -- for locks, reports and others -----------------------------------------------------------------------

    def suspended_steps(self) -> tuple[Suspended, ...]:
        return tuple(self._suspended)

    def current(self) -> Suspended | None:
        """The entry of the running step, if it has been suspended before."""
        entry = self._current
        if entry is not None and entry.word == self.clock.c.word:
            return entry
        return None

    def is_suspended(self, task: Any) -> bool:
        return any(entry.task is task for entry in self._suspended)

    def strand(self) -> int:
        """A number for the step that runs now, the same before and after a suspension; 0 between steps.

        Locks that must know which step owns them use it as the owner.
        """
        word = self.clock.c.word
        if not word & 1:
            return 0
        entry = self._current
        if entry is not None and entry.word == word:
            return int(entry.serial)
        return int(word)

    def strand_is_suspended(self, strand: int) -> bool:
        return any(entry.serial == strand for entry in self._suspended)

    def about_to_wait(self, strand: int) -> None:
        """The running step is about to block on a lock that ``strand`` holds: interrupt it soon, and if the
        holder is suspended lend it the waiter's priority."""
        task = tasks.current_task(self._host)
        level = domains.priority_of(task)
        entry = self._current
        if entry is not None and entry.word == self.clock.c.word and entry.boost > level:
            level = entry.boost  # what it was lent itself it passes on
        for entry in self._suspended:
            if entry.serial == strand:
                entry.boost = max(entry.boost, level, entry.priority + 1)
                entry.probe_at_ns = 0
                self.lent += 1
                self.clock.plan_slice(_native.now_ns() + PROBE_NS, _native.PLAN_WAITS)
                self.clock.poke()
                return

    def waiting_is_over(self) -> None:
        """The running step has given a lock back: what it was lent for that is over."""
        entry = self._current
        if entry is not None and entry.word == self.clock.c.word:
            entry.boost = 0

    def statistics(self) -> SchedulerStatistics:
        soft, hard = self.clock.kicks
        return SchedulerStatistics(
            mode=self.mode,
            policy=str(getattr(self.policy, "name", type(self.policy).__name__)),
            quantum=self.quantum_ns / 1e9,
            suspensions=self.suspensions,
            resumes=self.resumes,
            suspended=len(self._suspended),
            runners=self._runners,
            declined={f"U{i}": n for i, n in enumerate(self.declined) if n},
            kicks_soft=soft,
            kicks_hard=hard,
            interrupts=self.interrupted,
            reports=self.reports,
            longest_step=self.longest_ns / 1e9,
            latency_p50=self.latency.percentile(0.5),
            latency_p99=self.latency.percentile(0.99),
            latency_p999=self.latency.percentile(0.999),
            latency_max=self.latency.maximum_ns / 1e9,
            wait_p50=self.waited.percentile(0.5),
            wait_p99=self.waited.percentile(0.99),
            time_by_task={name: ns / 1e9 for name, ns in self.time_by_task.items()},
            time_by_priority={level: ns / 1e9 for level, ns in self.time_by_priority.items()},
            switch_cost=self.switch_cost_ns / 1e9,
        )
