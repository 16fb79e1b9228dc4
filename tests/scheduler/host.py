"""The smallest event loop that a scheduler can run: asyncio's selector loop with the turn taken apart.

The scheduler's tests use it so that they test the scheduler and not the engines.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import signal
import threading
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

from clearway.scheduler import domains
from clearway.scheduler._native import set_section_depth
from clearway.scheduler.preemption import VIRTUAL_SIGNAL, Scheduler


class Host(asyncio.SelectorEventLoop):
    def __init__(self, scheduler: Scheduler | None = None, **options: Any) -> None:
        super().__init__()
        self._scheduler = scheduler if scheduler is not None else Scheduler(**options)
        self._epoch = 0
        self._step: Any = None
        self._held: list[Any] = []
        self.turns = 0

    # -- what the scheduler asks for ---------------------------------------------------------------------------

    def run_turns(self) -> None:
        while True:
            self._turn()
            if self._stopping:
                break
            if self._scheduler.has_suspended:
                self._scheduler.end_of_turn()

    def current_step(self) -> Any:
        return self._step

    def has_ready(self) -> bool:
        return bool(self._ready)

    def arrivals_wait(self) -> bool:
        return False

    def has_other_work(self) -> bool:
        if self._ready or (self._scheduled and self._scheduled[0]._when <= self.time()):
            return True
        return bool(self._selector.select(0))

    def drain_wakeups(self) -> None:
        # CPython announces every signal here, the scheduler's own kick as well.
        try:
            data = self._ssock.recv(4096)
        except BlockingIOError:
            return
        for number in data:
            if number != VIRTUAL_SIGNAL:
                self._handle_signal(number)

    def flush(self) -> None:
        pass

    def next_deadline_ns(self) -> int:
        return int(self._scheduled[0]._when * 1e9) if self._scheduled else 0

    def engine_fd(self) -> int:
        return self._selector.fileno()

    # -- the turn ------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        scheduler = self._scheduler
        set_section_depth(1)
        self.turns += 1
        if self._held and not scheduler.has_domains:
            self._ready.extendleft(reversed(self._held))
            self._held.clear()
        timeout: float | None = None
        if self._ready or self._stopping or scheduler.has_suspended:
            timeout = 0
        elif self._scheduled:
            timeout = max(0.0, self._scheduled[0]._when - self.time())
        self._process_events(self._selector.select(timeout))
        end = self.time() + self._clock_resolution
        while self._scheduled and self._scheduled[0]._when < end:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self._ready.append(handle)
        if scheduler.has_suspended and scheduler.orders_ready:
            ready = list(self._ready)
            scheduler.order_ready(ready, 0)
            self._ready.clear()
            self._ready.extend(ready)
        count = len(self._ready)
        epoch = self._epoch
        clock = scheduler.clock
        clock.word += 1
        clock.unpark()
        for _ in range(count):
            handle = self._ready.popleft()
            if handle._cancelled:
                continue
            if scheduler.has_domains and scheduler.holds(
                handle._context.get(domains.domain_var, None)
            ):
                self._held.append(handle)
                continue
            clock.word += 2
            self._step = handle
            # A loop in Python could itself be suspended between two of its lines; the real one, being
            # compiled, cannot. Absolute values, because other turns may run meanwhile.
            set_section_depth(0)
            handle._run()
            set_section_depth(1)
            if self._epoch != epoch:
                break
        clock.word += 1
        scheduler.settle()
        set_section_depth(0)

    def run_forever(self) -> None:
        self._check_closed()
        self._check_running()
        try:
            self._thread_id = threading.get_ident()
            events._set_running_loop(self)
            if threading.current_thread() is threading.main_thread():
                signal.set_wakeup_fd(self._csock.fileno())
            self._scheduler.enter(self)
        finally:
            set_section_depth(0)
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            if threading.current_thread() is threading.main_thread():
                signal.set_wakeup_fd(-1)

    def close(self) -> None:
        if not self.is_closed() and not self.is_running():
            self._stopping = True
            self.ignored = self._scheduler.close()
            self._stopping = False
        super().close()


def run(main: Callable[[Host], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run ``main(host)`` under a scheduler with these options (mode "on", 2 ms by default)."""
    options.setdefault("mode", "on")
    options.setdefault("quantum", 0.002)
    host = Host(**options)
    try:
        asyncio.set_event_loop(host)
        return host.run_until_complete(main(host))
    finally:
        asyncio.set_event_loop(None)
        try:
            _cancel_all(host)
        finally:
            host.close()


def _cancel_all(host: Host) -> None:
    pending = asyncio.all_tasks(host)
    for task in pending:
        task.cancel()
    if pending:
        host.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    host.run_until_complete(host.shutdown_asyncgens())


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def declines(rule: int, step: Callable[[Host, Callable[[], None]], Any], **options: Any) -> None:
    """Run ``step(host, spin)`` as a step; ``spin()`` computes, while another is ready, until the rule has
    refused three times. It must not have been suspended meanwhile, and must be afterwards."""

    async def main(host: Host) -> None:
        scheduler = host._scheduler
        ended: list[bool] = []

        def spin() -> None:
            # Not before: on the way here the step may well be suspended, and then nobody would have anything to do.
            others: list[bool] = []
            host.call_soon(others.append, True)
            before = scheduler.declined[rule]
            suspensions = scheduler.suspensions
            while scheduler.declined[rule] < before + 3:
                pass
            assert scheduler.suspensions == suspensions
            assert not others
            ended.append(True)

        step(host, spin)
        # What is raised in a finaliser or a native callback is reported and forgotten: it must have come to its end.
        assert ended
        flags: list[bool] = []
        host.call_soon(flags.append, True)
        while not flags:
            pass

    run(main, **options)
