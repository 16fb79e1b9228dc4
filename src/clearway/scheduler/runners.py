"""Runners: the stacks on which the loop's turns run, and the root that starts them.

A runner is a greenlet that runs the host's turns. There is one until a step is suspended on it; then another
one goes on. All are children of the root, the greenlet in which ``run_forever`` was called, so that each
starts at a shallow depth and can end without unwinding another. See ``preemption`` for the whole picture.
"""

from __future__ import annotations

import functools
import signal
import threading
from asyncio import CancelledError, events
from typing import Any

import greenlet

from clearway.scheduler import _native, ambient, calibration, domains, locks, rules, runner
from clearway.scheduler._native import StepClock
from clearway.scheduler.availability import refusal, refusal_of_thread
from clearway.scheduler.report import logger, reporter
from clearway.scheduler.suspended import Suspended

#: The signal that CPython is told has arrived. Nobody sends it: the C handler of SIGURG trips it. High,
#: because pending handlers run in ascending order and one that parks strands those above it.
VIRTUAL_SIGNAL = signal.SIGRTMAX - 1

#: Tests put a mock in the place of ``signal.signal``, and mean their own handlers, not ours.
_set_handler = signal.signal

#: On close(), a step that is still running this long after CancelledError was raised in it ignores it.
CLOSE_GRACE_NS = 200_000_000

#: A day: whoever is told of steps that take longer (infinity, say) does not want to be told.
DEBUG_MAX_S = 24 * 3600.0

#: Stacks of steps that ignored CancelledError on close(): dropping one would raise GreenletExit in it.
_abandoned: list[Any] = []


_said: set[str] = set()


def _say_once(asked: str, mode: str, reason: str) -> None:
    """A program may run thousands of short loops in threads."""
    if asked not in _said:
        _said.add(asked)
        logger.warning(
            "preempt=%r was asked for the whole process, but the loop in thread %r runs in mode %r, and so will others "
            "outside the main thread: %s",
            asked,
            threading.current_thread().name,
            mode,
            reason,
        )


class Runners:
    """Runs a host's turns on stacks that can be left and taken up again.

    The base of ``Scheduler``, which adds when that happens (``_on_kick``) and to whom (``Slices``).
    """

    def __init__(
        self, mode: str, quantum: float, report_after: float, elsewhere: str | None
    ) -> None:
        self.mode = mode
        self._asked = mode
        self._elsewhere = elsewhere
        self.quantum_ns = int(quantum * 1e9)
        self.report_ns = int(report_after * 1e9)
        self.debug_ns = 0
        self.clock = StepClock()
        self.has_suspended = False
        self._host: Any = None
        self._root: Any = None
        self._root_base = 0
        self._running: Any = None
        self._idle: list[Any] = []
        self._suspended: list[Suspended] = []
        self._current: Suspended | None = None
        self._runners = 0
        self._finished = False
        self._failure: BaseException | None = None
        self._closing = False
        # The switch that is being made is one of ours.
        self._arrived = False
        self._context: Any = None
        self._collector = rules.CollectorWatch()
        self._old_signal: Any = None
        self._old_receiver: Any = None
        self._old_active: Any = None
        self._locks = False
        self._kicked = False
        self._slice_ns = 0
        self._flags = 0
        self.suspensions = 0
        self.switch_cost_ns = 0

    def check(self) -> None:
        """Settle the mode for a run in this thread.

        :raises RuntimeError: the mode cannot work in this thread or interpreter, and there is no other to run in.
        """
        reason = refusal(self._asked)
        if reason is None:
            self.mode = self._asked
        elif self._elsewhere is None or reason != refusal_of_thread(self._asked):
            raise RuntimeError(f"preempt={self._asked!r} is not possible here: {reason}")
        elif self.mode != self._elsewhere:
            self.mode = self._elsewhere
            _say_once(self._asked, self._elsewhere, reason)

    def enter(self, host: Any) -> None:
        """Run the host's turns until it stops; called by ``run_forever``."""
        if self._root is not None:
            raise RuntimeError("this scheduler is already running")
        self.check()
        self._host = host
        self._arm(host)
        try:
            if self.mode == "on":
                self._drive(None)
            else:
                self._running = greenlet.getcurrent()
                self._root = self._running
                self._root_base = _native.stack_mark() + 512
                host.run_turns()
        finally:
            self._root = None
            self._running = None
            self._disarm()

    def _arm(self, host: Any) -> None:
        self.clock.adopt_thread()
        if self.mode in ("io", "on"):
            self._install_kick()
        self._watch()

    def _watch(self) -> None:
        """Have the monitor do what the mode, and asyncio's debug mode, want of it."""
        mode = _native.MODE_OFF
        if self.mode in ("io", "on"):
            mode = _native.MODE_ON
        elif self.mode == "report" or self.debug_ns:
            mode = _native.MODE_REPORT
        report_ns = self.watched_ns()
        self.clock.configure(
            mode=mode,
            quantum_ns=self.quantum_ns,
            report_ns=report_ns,
            engine_fd=self._host.engine_fd(),
        )
        if mode == _native.MODE_OFF:
            if not self._kicked:  # else a time limit counts on it
                self.clock.unregister()
        elif not self.clock.registered:
            self.clock.register()
        if report_ns:
            reporter.watch(self)
        else:
            reporter.unwatch(self)

    def watched_ns(self) -> int:
        """Nanoseconds after which a step is reported; 0 for never."""
        report_ns = 0 if self.mode == "off" else self.report_ns
        if self.debug_ns and (not report_ns or self.debug_ns < report_ns):
            report_ns = self.debug_ns
        return report_ns

    def debug(self, seconds: float) -> None:
        """asyncio's debug mode: report steps of more than so many seconds in every mode; 0 for no longer.

        To be called in the loop's thread while it runs, in any while it does not.
        """
        self.debug_ns = max(int(min(seconds, DEBUG_MAX_S) * 1e9), 1) if seconds > 0 else 0
        if self._root is not None:
            self._watch()

    def _install_kick(self) -> None:
        """Make kicks arrive at ``_on_kick``. Main thread only."""
        if self._kicked:
            return
        old = _set_handler(VIRTUAL_SIGNAL, _native.handle_signal)
        _native.install_kick(VIRTUAL_SIGNAL)
        try:
            calibration.calibrate()  # trips the very handler
            self._host.drain_wakeups()  # of those trips: they are nothing to do for the loop
        except BaseException:
            _native.remove_kick()
            _set_handler(VIRTUAL_SIGNAL, old or signal.SIG_DFL)
            raise
        self._old_signal = old
        self._old_receiver = _native.set_receiver(self._on_kick)
        self._collector.install()
        if self.mode == "on":
            if not self._locks:
                self._locks = True
                ambient.install()
                # Walks all objects once; later locks know their step.
                if locks.install():
                    rules.learn_locks()
                self.switch_cost_ns = _measure_switch()
            self._old_active = locks.activate(self)
        self._kicked = True

    def _disarm(self) -> None:
        self.clock.unregister()
        self.clock.leave_thread()
        reporter.unwatch(self)
        if self.clock.c.word & 1:
            self.clock.c.word += 1  # an exception left the pass in the middle of a step
        if self._kicked:
            self._kicked = False
            _native.set_receiver(self._old_receiver)
            self._collector.remove()
            if self.mode == "on":
                locks.activate(self._old_active)
            _native.remove_kick()
            _set_handler(VIRTUAL_SIGNAL, self._old_signal or signal.SIG_DFL)

    def _drive(self, target: Any) -> None:
        """The root: starts runners at its own shallow depth, and waits for the one that finishes.

        A greenlet inherits the recursion depth of whoever starts it and sits below its stack, so a runner
        must never be started from the step that is being suspended.
        """
        root = greenlet.getcurrent()
        self._root = root
        self._context = _current_context(root)
        self._finished = False
        self._failure = None
        if target is None and self._idle:
            target = self._idle.pop()
        while not self._finished:
            if target is None:
                target = greenlet.greenlet(functools.partial(runner.run, self._body), root)
                target.gr_context = self._context
                self._runners += 1
            self._running = target
            self._switch(target)
            target = None  # whoever came here without having finished wants a new runner
        self._running = None
        failure = self._failure
        self._failure = None
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None

    def _body(self) -> None:
        """A runner's life: turns until the host stops, then parked until it is wanted again."""
        self._arrived = False
        me = greenlet.getcurrent()
        # A little above this frame: what calls us is the root's.
        me.base = _native.stack_mark() + 512
        while True:
            try:
                self._host.run_turns()
            except greenlet.GreenletExit:
                raise
            except BaseException as error:
                self._failure = error
                if self.clock.c.word & 1:
                    self.clock.c.word += 1  # it left the pass in the middle of a step
            self._finished = True
            self._idle.append(me)
            root = self._root
            self._switch(root)
            if self._root is not root:
                self._adopt(me)

    def _switch(self, target: Any) -> None:
        """Leave this stack for ``target``, another of ours, and return when one of ours switches to this one.

        A program's own greenlets (SQLAlchemy's, playwright's) know the stack that they were made on, as their parent
        or because somebody kept it, and switch to it when they wait or end. On other loops that is always the
        stack which the loop runs on. Here the loop may have gone on to another meanwhile: what is meant for
        it is passed on, value or exception.
        """
        sent: Any = None
        error: BaseException | None = None
        passing_on = False
        self._arrived = True
        while True:
            try:
                if not passing_on:
                    sent = target.switch()
                elif error is not None:
                    sent = target.throw(error)
                else:
                    sent = target.switch(sent)
            except greenlet.GreenletExit:
                raise  # this stack is being unwound
            except BaseException as raised:
                error = raised
            else:
                error = None
            if self._arrived:
                break
            passing_on = True
            target = self._running
            if target is None:
                target = greenlet.getcurrent().parent  # the loop is not running: whoever ran it
        self._arrived = False
        if error is not None:
            try:
                raise error
            finally:
                error = None

    def _adopt(self, runner: Any) -> None:
        """``runner`` wakes in another ``run_forever`` than it was parked in. Only it can do this: greenlet
        takes a parked stack without Python frames for a running one."""
        runner.parent = self._root
        runner.gr_context = self._context

    def close(self) -> list[str]:
        """Raise CancelledError in every suspended step, in the order in which they were suspended.

        Called while the host is not running and after it says that it is closed. Returns the names of the
        steps that ignored it: they are abandoned where they stand.
        """
        ignored: list[str] = []
        if not self._suspended:
            self._drop_runners()
            self._give_locks_back()
            return ignored
        self._closing = True
        self._arm(self._host)
        running = events._get_running_loop()
        events._set_running_loop(self._host)
        try:
            while self._suspended:
                entry = min(self._suspended, key=_by_order)
                entry.error = CancelledError("the event loop is being closed")
                self._slice_ns = CLOSE_GRACE_NS
                self._flags = 0
                now = _native.now_ns()
                self._activate(entry, now)
                suspensions = self.suspensions
                try:
                    self._drive(entry.strand)
                except CancelledError:
                    pass
                self._settle(_native.now_ns())
                if self.suspensions != suspensions:
                    ignored.append(entry.name())
                    _abandoned.append(entry.strand)
                    self._suspended.remove(entry)
        finally:
            self.has_suspended = False
            self._closing = False
            self._root = None
            events._set_running_loop(running)
            self._disarm()
            self._drop_runners()
            self._give_locks_back()
        return ignored

    def _give_locks_back(self) -> None:
        if self._locks:
            self._locks = False
            ambient.uninstall()
            locks.uninstall()

    def _drop_runners(self) -> None:
        """Unwind the parked runners: GreenletExit is thrown in each as its last reference goes."""
        idle = self._idle
        self._idle = []
        for parked in idle:
            if not parked.dead:
                parked.parent = greenlet.getcurrent()
                parked.throw(greenlet.GreenletExit)
        self._runners = 0


def _measure_switch() -> int:
    """Nanoseconds for a switch to another stack and back (the bare greenlet, warm)."""
    main = greenlet.getcurrent()

    def bounce() -> None:
        while True:
            main.switch()

    other = greenlet.greenlet(bounce)
    other.switch()
    began = _native.now_ns()
    for _ in range(50):
        other.switch()
    return int((_native.now_ns() - began) // 50)


def _by_order(entry: Suspended) -> int:
    return int(entry.order)


def _current_context(root: Any) -> Any:
    """The root's context object, so that runners read and write the same variables as the caller of
    ``run_forever``."""
    if root.gr_context is None:
        # CPython makes a thread's context when a variable is first set.
        domains.domain_var.reset(domains.domain_var.set(None))
    return root.gr_context
