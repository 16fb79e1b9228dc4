"""The turn of the loop: reap completions, expire timers, run what was ready, submit and wait.

*Reap first, run later.* A call into user code may be suspended there for seconds while another runner goes on
with the loop. So the ready queue's position (``_head``) lives in the object, never in a local across a call;
a pass that finds ``_epoch`` changed after a step leaves at once, because its ``end`` means nothing any more.

The ready queue is a list and an index: appending is the one operation on it that other threads and signal
handlers may do, and it is atomic; only the pass moves ``_head`` and trims the front.
"""

from __future__ import annotations

from asyncio import Future, base_events
from collections.abc import Callable
from contextvars import Context
from types import MethodType
from typing import Any

from clearway.kernel.sysio import monotonic, receive_some
from clearway.scheduler.cancelling import tasks_to_cancel
from clearway.scheduler.domains import domain_var
from clearway.scheduler.preemption import VIRTUAL_SIGNAL, Scheduler
from clearway.steps import Handle, Step
from clearway.timers.heap import TimerHandle, TimerHeap

#: A loop that is asked to wait longer looks again after a day (asyncio: MAXIMUM_SELECT_TIMEOUT).
WAIT_MAX_S = 24 * 3600.0

#: Clock resolution of CLOCK_MONOTONIC on Linux, in seconds: a timer this close is due.
CLOCK_RESOLUTION_S = 1e-9

#: Operations of one step that may complete inline before it has to yield (tokio's coop budget is 128).
INLINE_BUDGET = 128

#: What is written to the wake-up descriptor for a kick (the scheduler's virtual signal), and by ourselves.
KICKS = bytes([VIRTUAL_SIGNAL, 0])


class LoopCore:
    """The hot half of the event loop; ``clearway.EventLoop`` adds the rest of asyncio to it.

    :ivar _steps: the ready queue.
    :ivar _head: index of the next step to run.
    :ivar _behind: index one past the last step that I/O or a timer has put behind older ones; 0 when none is.
    :ivar _hurried: whether the scheduler shortens the slices of steps because of that.
    :ivar _epoch: changes whenever a step was suspended or resumed.
    :ivar _sleeping: the thread is in, or about to enter, a wait: whoever queues from outside must wake it.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._clock = scheduler.clock
        self._steps: list[Step] = []
        self._head = 0
        self._epoch = 0
        self._behind = 0
        self._hurried = False
        self._timers = TimerHeap()
        self._held: list[Step] = []
        self._thread_id = None
        self._stopping = False
        self._closed = False
        self._debug = False
        self._sleeping = False
        self._signal_fd = -1
        self._forked = False
        self._turns = 0
        self._inline_step = 0
        self._inline_count = 0
        self._inline_since = 0.0

    # -- time and callbacks ------------------------------------------------------------------------------

    def time(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return monotonic()

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        if self._closed or self._forked or self._debug:
            self._check_call(callback, "call_soon")
        return self._soon(callback, args, context)

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        if self._closed or self._forked:
            self._refuse()
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self._soon(callback, args, context)
        if self._sleeping:
            # One wake-up is enough until it looks again. Noted before it is sent: noted afterwards it could fall
            # into the next sleep, from which nobody would wake it then.
            self._sleeping = False
            self._engine.wake()
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        if delay is None:
            raise TypeError("delay must not be None")
        if self._closed or self._forked or self._debug:
            self._check_call(callback, "call_later")
        return self._at(self.time() + delay, callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        if when is None:
            raise TypeError("when cannot be None")
        if self._closed or self._forked or self._debug:
            self._check_call(callback, "call_at")
        return self._at(when, callback, args, context)

    def create_future(self) -> Future[Any]:
        return Future(loop=self)  # type: ignore[arg-type]

    def _soon(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None
    ) -> Handle:
        handle = Handle(callback, args, self, context, self._debug)
        self._steps.append(handle)
        return handle

    def _at(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> TimerHandle:
        if when != when:
            when = self.time()  # not a number: at once, and in no order a heap could not keep
        timer = TimerHandle(when, callback, args, self, context, self._debug)
        self._timers.push(timer)
        return timer

    def _check_call(self, callback: Callable[..., Any], method: str) -> None:
        if self._closed or self._forked:
            self._refuse()
        self._check_thread()  # type: ignore[attr-defined]
        self._check_callback(callback, method)  # type: ignore[attr-defined]

    def _refuse(self) -> None:
        if self._forked:
            raise RuntimeError(
                "this event loop belongs to the parent process: a loop does not survive fork(); "
                "create a new one in the child"
            )
        raise RuntimeError("Event loop is closed")

    def _add_step(self, step: Step) -> None:
        """Queue a step from the loop's own code."""
        self._steps.append(step)

    # -- the turn ------------------------------------------------------------------------------------------

    def run_turns(self) -> None:
        """Turn after turn until ``stop()``: the life of a runner."""
        scheduler = self._scheduler
        while True:
            self._run_once()
            if self._stopping:
                break
            if scheduler.has_suspended:
                scheduler.end_of_turn()

    def _run_once(self) -> None:
        self._turns += 1
        timers = self._timers
        # Set before looking at the queue: whoever appends after the look sees it and wakes us.
        self._sleeping = True
        scheduler = self._scheduler
        if self._head < len(self._steps) or self._stopping or scheduler.has_suspended or self._held:
            timeout_ns = 0
        elif timers.is_empty():
            timeout_ns = -1
        else:
            wait_s = timers.first_when() - self.time()
            if wait_s <= 0.0:
                timeout_ns = 0
            else:
                timeout_ns = int(min(wait_s, WAIT_MAX_S) * 1e9) + 1
        older = len(self._steps) - self._head
        try:
            self._engine.turn(timeout_ns)
        finally:
            self._sleeping = False
        if not timers.is_empty():
            self._expire_timers()
        if older:
            self._note_arrivals(older)
        if scheduler.has_suspended or self._hurried:
            self._set_hurry()
            if scheduler.orders_ready and scheduler.has_suspended:
                scheduler.order_ready(self._steps, self._head)
        self._run_ready()

    def _note_arrivals(self, older: int) -> None:
        """Remember whether I/O or timers came behind the ``older`` steps that were ready before them."""
        ready = len(self._steps)
        if ready - self._head > older:
            self._behind = ready

    def _set_hurry(self) -> bool:
        """While steps are suspended: have those that I/O and timers wait behind be given less time each."""
        hurried = self._behind > self._head and self._scheduler.has_suspended
        if hurried != self._hurried:
            self._hurried = hurried
            self._scheduler.hurry(hurried)
        return hurried

    def _expire_timers(self) -> None:
        timers = self._timers
        now = self.time() + CLOCK_RESOLUTION_S
        while True:
            timer = timers.pop_due(now)
            if timer is None:
                break
            self._steps.append(timer)

    def _run_ready(self) -> None:
        """Run a pass. A step reports its callback's exception itself; what still comes out of one is an error of
        ours, and even that must not stop the others."""
        clock = self._clock
        clock.c.word += 1  # odd: a step runs
        clock.unpark_if_parked()
        try:
            if self._debug:
                self._run_pass_debug()
            else:
                self._run_pass()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.call_exception_handler(  # type: ignore[attr-defined]
                {"message": "Internal error in a step of the event loop", "exception": exc}
            )
        finally:
            clock.c.word += 1  # even: none does
            if self._epoch:
                self._scheduler.settle()

    def _run_pass(self) -> None:
        """Run the steps that are ready now; those they make ready wait for the next pass."""
        steps = self._steps
        clock = self._clock
        if self._head:  # the last pass was left early
            self._trim()
        if self._held:
            self._release_held()
        end = len(steps)
        epoch = self._epoch
        while self._head < end:
            step = steps[self._head]
            self._head += 1
            if self._scheduler.has_suspended and self._cancels_suspended(step):
                continue
            if self._scheduler.looks_at_steps and self._hold_back(step):
                continue
            clock.c.word += 2
            step.run()
            if clock.c.critical.depth:
                self._scheduler.left_open(step)
            if self._epoch != epoch:
                return
            # Kept in its place while it runs, for current_step(); let go of at once after that.
            steps[self._head - 1] = None
        self._trim()

    def _run_pass_debug(self) -> None:
        """The same with asyncio's slow-callback report."""
        steps = self._steps
        clock = self._clock
        if self._head:
            self._trim()
        if self._held:
            self._release_held()
        end = len(steps)
        epoch = self._epoch
        while self._head < end:
            step = steps[self._head]
            self._head += 1
            if self._scheduler.has_suspended and self._cancels_suspended(step):
                continue
            if self._scheduler.looks_at_steps and self._hold_back(step):
                continue
            clock.c.word += 2
            start = self.time()
            # For the log of an error: where the handle was made. The engine's steps were made by nobody.
            self._current_handle = step if isinstance(step, Handle) else None
            try:
                step.run()
            finally:
                self._current_handle = None
            if clock.c.critical.depth:
                self._scheduler.left_open(step)
            if self._epoch != epoch:
                return  # it was suspended, and others ran meanwhile: it held up nobody
            took = self.time() - start
            if took >= self.slow_callback_duration:  # type: ignore[attr-defined]
                base_events.logger.warning(  # type: ignore[attr-defined]
                    "Executing %s took %.3f seconds", self._describe_step(step), took
                )
            steps[self._head - 1] = None
        self._trim()

    def _trim(self) -> None:
        """Let go of the steps that have been run."""
        del self._steps[: self._head]
        if self._behind:
            self._behind = max(self._behind - self._head, 0)
        self._head = 0

    def _hold_back(self, step: Step) -> bool:
        """Rule U9: whether ``step`` must wait because another step of its domain is suspended.

        One that need not, and whose task is in a critical section, goes on in it.
        """
        context = step.context()
        if context is None or not self._scheduler.holds(context.get(domain_var)):
            self._scheduler.enter_open_section(step)
            return False
        self._steps[self._head - 1] = None
        self._held.append(step)
        return True

    def _cancels_suspended(self, step: Step) -> bool:
        """Whether ``step`` must wait because it would cancel a task that is suspended: see scheduler.cancelling."""
        if not isinstance(step, Handle) or type(step._callback) is not MethodType:
            return False
        for task in tasks_to_cancel(step._callback):
            if self._scheduler.is_suspended(task):
                self._steps[self._head - 1] = None
                self._held.append(step)
                return True
        return False

    def _hold(self, step: Step) -> bool:
        """Keep ``step``, whose context is entered, for the next pass if a suspended step can be what entered it."""
        if not self._scheduler.has_suspended:
            return False
        self._held.append(step)
        return True

    def _release_held(self) -> None:
        """Put the steps that were held back at the front of the queue: they were there first."""
        held = self._held
        self._held = []
        self._steps[0:0] = held
        if self._behind:
            self._behind += len(held)

    # -- what the scheduler asks for -----------------------------------------------------------------------

    def current_step(self) -> Step | None:
        """The step that runs now."""
        if 0 < self._head <= len(self._steps):
            return self._steps[self._head - 1]
        return None

    def has_ready(self) -> bool:
        return self._head < len(self._steps)

    def arrivals_wait(self) -> bool:
        """Take in what I/O and timers have ready; whether any of it waits behind steps that were ready before."""
        older = len(self._steps) - self._head
        # Reaping calls no user code.
        self._engine.turn(0)
        if not self._timers.is_empty():
            self._expire_timers()
        if older:
            self._note_arrivals(older)
        return self._set_hurry()

    def has_other_work(self) -> bool:
        """Whether anybody else could run now: a ready step, a due timer or a completion."""
        if self._head < len(self._steps):
            return True
        if not self._timers.is_empty() and self._timers.first_when() <= self.time():
            return True
        # Reaping calls no user code.
        self._engine.turn(0)
        return self._head < len(self._steps)

    def drain_wakeups(self) -> None:
        """Take what the interpreter's signal handler wrote, so that a kick does not look like work to do.

        Called in the handler, so it must not run a line of Python as long as nothing but kicks arrived: the
        interpreter would look at its signals in there and call the handler again, on our frames.
        """
        if self._signal_fd < 0:
            return
        while True:
            data = receive_some(self._signal_fd)
            if not data:
                return
            if data.strip(KICKS):
                self._process_self_data(data)  # type: ignore[attr-defined]

    def flush(self) -> None:
        self._engine.flush()

    def next_deadline_ns(self) -> int:
        return 0 if self._timers.is_empty() else int(self._timers.first_when() * 1e9)

    def engine_fd(self) -> int:
        return self._engine.fileno()

    def is_stopping(self) -> bool:
        return self._stopping

    # -- budgets -------------------------------------------------------------------------------------------

    def _over_budget(self) -> bool:
        """Count an operation that completed inline; True when the running step should yield first."""
        if self._inline_step != self._clock.c.word:
            self._inline_step = self._clock.c.word
            self._inline_count = 0
            self._inline_since = self.time()
        self._inline_count += 1
        if self._inline_count > INLINE_BUDGET:
            return True
        if self._scheduler.shuffler is not None:
            return False  # a replay must not depend on the speed of the machine
        return (self.time() - self._inline_since) * 2e9 > self._scheduler.quantum_ns
