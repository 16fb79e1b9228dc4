"""Locks under preemption: exclusion between steps of one thread, inheritance, and threading's protocol."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from clearway.scheduler import domains, locks
from clearway.scheduler.policies import Priority

from .host import Host, run


@pytest.mark.parametrize("make", [threading.RLock, locks.Lock], ids=["RLock", "Lock"])
def test_two_steps_exclude_each_other(make: Any) -> None:
    async def main(host: Host) -> None:
        # Made in mode "on": a lock owned by the thread would let the second step in.
        lock = make() if make is locks.Lock else threading.RLock()
        inside: list[str] = []
        most: list[int] = []
        begun: list[str] = []

        async def worker(name: str) -> None:
            begun.append(name)
            with lock:
                inside.append(name)
                for _ in range(3):
                    most.append(len(inside))
                    before = host._scheduler.suspensions
                    while len(begun) < 2 or host._scheduler.suspensions < before + 1:
                        pass
                inside.remove(name)

        await asyncio.gather(*(asyncio.create_task(worker(name)) for name in "ab"))
        assert set(most) == {1}

    # The last worker is alone at the end: a timer keeps others coming.
    async def with_company(host: Host) -> None:
        async def tick() -> None:
            while True:
                await asyncio.sleep(0.0005)

        ticker = asyncio.create_task(tick())
        await main(host)
        ticker.cancel()

    run(with_company)


def test_an_rlock_is_re_entrant_within_a_step() -> None:
    async def main(host: Host) -> None:
        lock = threading.RLock()
        assert isinstance(lock, locks.RLock)
        with lock, lock:
            assert lock._is_owned()
            assert lock._recursion_count() == 2
        assert not lock.locked()
        with pytest.raises(RuntimeError, match="un-acquired"):
            lock.release()

    run(main)


def test_an_rlock_held_across_an_await_belongs_to_the_thread() -> None:
    async def main(host: Host) -> None:
        lock = threading.RLock()
        lock.acquire()
        await asyncio.sleep(0)
        assert lock.acquire(blocking=False)
        lock.release()
        lock.release()
        assert not lock.locked()

    run(main)


def test_an_rlock_keeps_other_threads_out() -> None:
    async def main(host: Host) -> None:
        lock = threading.RLock()
        got: list[bool] = []
        with lock:
            thread = threading.Thread(target=lambda: got.append(lock.acquire(blocking=False)))
            thread.start()
            thread.join()
        assert got == [False]

    run(main)


def test_a_condition_works_between_steps() -> None:
    async def main(host: Host) -> None:
        condition = threading.Condition()
        items: list[int] = []
        got: list[int] = []

        async def consumer() -> None:
            with condition:
                while not items:
                    condition.wait()
                got.append(items.pop())

        async def producer() -> None:
            with condition:
                items.append(1)
                condition.notify()

        await asyncio.gather(asyncio.create_task(consumer()), asyncio.create_task(producer()))
        assert got == [1]

    run(main)


def test_a_lock_taken_twice_by_one_step_is_an_error_and_not_a_hang() -> None:
    async def main(host: Host) -> None:
        lock = locks.Lock()
        with lock, pytest.raises(RuntimeError, match="wait for itself"):
            lock.acquire()
        assert not lock.locked()
        with pytest.raises(RuntimeError, match="unlocked"):
            lock.release()

    run(main)


def test_lock_outside_a_loop_is_an_ordinary_lock() -> None:
    lock = locks.Lock()
    assert lock.acquire()
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=0.001)
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(blocking=False, timeout=1)
    lock.release()


def test_a_waiter_lends_its_priority_to_the_holder() -> None:
    """Low holds the lock, several of middle priority compute, high waits for the lock: without inheritance
    low gets one slice in a hundred."""

    async def main(host: Host) -> None:
        scheduler = host._scheduler
        lock = locks.Lock()
        order: list[str] = []
        held: list[bool] = []
        asked: list[bool] = []
        lent: list[int] = []

        async def low() -> None:
            with lock:
                held.append(True)
                while not asked:
                    pass
                # Three more slices' worth of work with the lock.
                entry = scheduler.current()
                assert entry is not None
                start = entry.used_ns
                while entry.used_ns < start + 3 * scheduler.quantum_ns:
                    pass
                order.append("low")
                lent.append(entry.boost)

        async def middle() -> None:
            while "high" not in order:
                pass

        async def high() -> None:
            while not held:
                await asyncio.sleep(0)
            asked.append(True)
            with lock:
                order.append("high")

        def task(coroutine: Any, priority: int) -> asyncio.Task[Any]:
            context = contextvars.copy_context()
            domains.prepare_context(context, priority=priority)
            return asyncio.create_task(coroutine, context=context)

        tasks = [task(low(), 0), task(middle(), 5), task(middle(), 5), task(high(), 9)]
        await asyncio.gather(*tasks)
        assert order == ["low", "high"]
        assert scheduler.lent > 0
        # What a policy makes of it is tested with the policies.
        assert lent == [9]

    run(main, policy=Priority(guarantee=100))
