"""Blocking calls in tasks: others run meanwhile, and several of them wait together."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .host import Host, run

# Each call blocks until `release` is called, which another task of the same loop does: without preemption
# inside the call that never happens.
Blocking = tuple[Callable[[], Any], Callable[[], Any]]


def _recv() -> Blocking:
    a, b = socket.socketpair()
    return lambda: a.recv(1), lambda: b.send(b"x")


def _accept() -> Blocking:
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    return (
        lambda: server.accept()[0].close() or server.close(),
        lambda: socket.create_connection(address).close(),
    )


def _lock() -> Blocking:
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire, lock.release


def _event() -> Blocking:
    event = threading.Event()
    return event.wait, event.set


def _condition() -> Blocking:
    condition = threading.Condition()

    def wait() -> None:
        with condition:
            condition.wait()

    def notify() -> None:
        with condition:
            condition.notify_all()

    return wait, notify


def _semaphore() -> Blocking:
    semaphore = threading.Semaphore(0)
    return semaphore.acquire, semaphore.release


def _os_read() -> Blocking:
    reader, writer = os.pipe()
    return lambda: os.read(reader, 1), lambda: os.write(writer, b"x")


def _select() -> Blocking:
    reader, writer = os.pipe()
    return lambda: select.select([reader], [], []), lambda: os.write(writer, b"x")


def _poll() -> Blocking:
    reader, writer = os.pipe()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return poll.poll, lambda: os.write(writer, b"x")


def _queue() -> Blocking:
    q: queue.Queue[int] = queue.Queue()
    return q.get, lambda: q.put(1)


def _full_queue() -> Blocking:
    q: queue.Queue[int] = queue.Queue(1)
    q.put(0)
    return lambda: q.put(1), q.get


if sys.version_info >= (3, 13):  # see rules.suspendable_waits

    def _simple_queue() -> Blocking:
        q: queue.SimpleQueue[int] = queue.SimpleQueue()
        return q.get, lambda: q.put(1)


def _thread_join() -> Blocking:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    return thread.join, event.set


def _future() -> Blocking:
    event = threading.Event()
    pool = ThreadPoolExecutor(1)
    future = pool.submit(event.wait)
    return lambda: future.result() and pool.shutdown(), event.set


def _process() -> Blocking:
    reader, writer = os.pipe()
    process = subprocess.Popen(["cat"], stdin=reader)
    os.close(reader)
    return process.wait, lambda: os.close(writer)


def _communicate() -> Blocking:
    reader, writer = os.pipe()
    # Two pipes: with one, communicate() reads from a buffered file, and those are never suspended.
    pipe = subprocess.PIPE
    process = subprocess.Popen(["cat"], stdin=reader, stdout=pipe, stderr=pipe)
    os.close(reader)
    return process.communicate, lambda: os.close(writer)


def _process_lock() -> Blocking:
    lock = multiprocessing.Lock()
    lock.acquire()
    return lock.acquire, lock.release


def _process_event() -> Blocking:
    event = multiprocessing.Event()
    return event.wait, event.set


def _process_queue() -> Blocking:
    q: Any = multiprocessing.Queue()
    return lambda: (q.get(), q.close()), lambda: q.put(1)


def _process_queue_with_a_reader() -> Blocking:
    q: Any = multiprocessing.Queue()
    q._rlock.acquire()

    def release() -> None:
        q._rlock.release()
        q.put(1)

    return lambda: (q.get(), q.close()), release


CALLS = [
    value
    for name, value in list(globals().items())
    if name.startswith("_")
    and name[1:2].islower()
    and getattr(value, "__annotations__", {}).get("return") == "Blocking"
]


@pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__[1:])
def test_another_task_ends_the_wait(make: Callable[[], Blocking]) -> None:
    async def main(host: Host) -> None:
        block, release = make()

        async def other() -> None:
            await asyncio.sleep(0.001)
            release()

        task = asyncio.create_task(other())
        block()  # only the other task can end it
        await task

    run(main)


def test_a_pool_that_waits_for_its_first_thread_is_not_suspended() -> None:
    """It holds a lock that every other pool needs, in code that cannot be suspended."""

    class Slow(queue.SimpleQueue):  # type: ignore[type-arg]
        asked = threading.Event()
        go_on = threading.Event()

        def put(self, *args: Any) -> None:
            self.asked.set()
            self.go_on.wait()
            super().put(*args)

    async def main(host: Host) -> None:
        slow, other = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        work = slow._work_queue = Slow()
        order = []

        def release() -> None:
            work.asked.wait()
            while not host._scheduler.declined[7]:
                pass
            work.go_on.set()

        async def submit(pool: ThreadPoolExecutor) -> None:
            order.append(pool)
            future = pool.submit(int)
            order.append(pool)
            while not future.done():
                await asyncio.sleep(0)

        thread = threading.Thread(target=release)
        thread.start()
        await asyncio.gather(submit(slow), submit(other))
        assert order == [slow, slow, other, other]
        thread.join()
        slow.shutdown()
        other.shutdown()

    run(main)


def test_a_step_that_makes_work_and_then_blocks_is_asked_again() -> None:
    async def main(host: Host) -> None:
        scheduler = host._scheduler
        lock = threading.Lock()
        lock.acquire()
        # Alone first: the monitor is told that nobody waits ...
        while not scheduler.declined[0]:
            pass
        # ... and now somebody does.
        host.call_soon(lock.release)
        lock.acquire()

    run(main)


def test_sleeping_tasks_sleep_together() -> None:
    async def main(host: Host) -> None:
        awake: list[int] = []
        ends: list[list[int]] = []

        async def sleeper(number: int) -> None:
            time.sleep(0.1)
            awake.append(number)
            ends.append(list(awake))

        ticks = 0
        tasks = [asyncio.create_task(sleeper(i)) for i in range(3)]
        while not all(task.done() for task in tasks):
            # A timer in between: the loop itself goes on.
            await asyncio.sleep(0.005)
            ticks += 1
        # One after the other would be 60 ticks or none at all; together they are about 20.
        assert 0 < ticks < 40
        assert sorted(awake) == [0, 1, 2]

    run(main)


def test_waiting_steps_do_not_spin() -> None:
    async def main(host: Host) -> None:
        reader, writer = os.pipe()
        turns = 0

        async def wait() -> None:
            os.read(reader, 1)

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        timer = threading.Timer(0.2, os.write, (writer, b"xxx"))
        await asyncio.sleep(0)
        turns = host.turns
        cpu = time.thread_time()
        timer.start()
        await asyncio.gather(*tasks)
        # 0.2 s at 2 ms a slice are 100 rotations; a loop that spins makes tens of thousands.
        assert host.turns - turns < 1000
        assert time.thread_time() - cpu < 0.1
        os.close(reader)
        os.close(writer)

    run(main)


def test_a_wait_that_is_over_is_noticed_while_others_compute() -> None:
    async def main(host: Host) -> None:
        reader, writer = os.pipe()
        done: list[bool] = []

        async def wait() -> None:
            os.read(reader, 1)
            done.append(True)

        async def hog() -> None:
            while not done:
                pass

        async def write() -> None:
            os.write(writer, b"x")

        await asyncio.gather(*(asyncio.create_task(each()) for each in (wait, hog, hog, write)))
        os.close(reader)
        os.close(writer)

    run(main)


def test_a_lock_held_by_a_suspended_step_heals() -> None:
    async def main(host: Host) -> None:
        lock = threading.Lock()
        order: list[str] = []
        inside: list[bool] = []
        waiting: list[bool] = []

        async def holder() -> None:
            with lock:
                inside.append(True)
                while not waiting:
                    pass
                order.append("holder")

        async def waiter() -> None:
            while not inside:
                await asyncio.sleep(0)
            waiting.append(True)
            with lock:
                order.append("waiter")

        await asyncio.gather(asyncio.create_task(holder()), asyncio.create_task(waiter()))
        assert order == ["holder", "waiter"]

    run(main)


def test_a_buffered_file_is_never_suspended_inside() -> None:
    async def main(host: Host) -> None:
        reader, writer = os.pipe()
        got: list[bytes] = []

        async def read() -> None:
            # Were the first suspended inside, the second would fail: "reentrant call".
            got.append(file.readline())

        def write() -> None:
            for _ in range(2):
                time.sleep(0.03)
                os.write(writer, b"line\n")

        threading.Thread(target=write).start()
        with open(reader, "rb") as file:
            await asyncio.gather(asyncio.create_task(read()), asyncio.create_task(read()))
            assert got == [b"line\n"] * 2
            assert host._scheduler.declined[4] > 0
        os.close(writer)

    run(main)
