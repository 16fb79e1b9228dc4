"""asyncio's own tools, threads, and everything that waits for something."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

variable: contextvars.ContextVar[int] = contextvars.ContextVar("concurrent", default=-1)


def compute(seed: int) -> int:
    total = 0
    for i in range(10):
        total = (total * 31 + i * seed) % 10007
    return total


async def with_async_generators(seed: int) -> Any:
    log: list[Any] = []

    async def numbers(n: int) -> AsyncIterator[int]:
        try:
            for i in range(n):
                if i % 3 == 2:
                    await asyncio.sleep(0)
                yield i * seed
        except LookupError as error:
            log.append(repr(error))
            yield -1
        finally:
            log.append(f"end {n}")
            await asyncio.sleep(0)

    async def pairs() -> AsyncIterator[tuple[int, int]]:
        async with contextlib.aclosing(numbers(4)) as ones:
            async for one in ones:
                async for other in numbers(2):
                    yield one, other

    seen = [pair async for pair in pairs()]
    thrown = numbers(3)
    await thrown.__anext__()
    seen.append((await thrown.athrow(LookupError(seed)), 0))  # type: ignore[attr-defined]
    await thrown.aclose()  # type: ignore[attr-defined]
    closed = numbers(5)
    await closed.__anext__()
    await closed.aclose()  # type: ignore[attr-defined]
    try:
        async for value in numbers(9):
            if value > 3 * seed:
                raise KeyError(value)
    except KeyError as error:
        seen.append((error.args[0], 1))
    return seen, [entry for entry in log if entry != "end 9"], sys.exc_info()


async def with_async_exits(seed: int) -> Any:
    log: list[Any] = []

    @contextlib.asynccontextmanager
    async def step(name: str, *, swallow: bool = False) -> AsyncIterator[str]:
        log.append(f"enter {name}")
        try:
            await asyncio.sleep(0)
            yield name
        except ValueError as error:
            log.append((name, repr(error), sys.exc_info()[1] is error))
            await asyncio.sleep(0)
            log.append(sys.exc_info()[1] is error)
            if not swallow:
                raise
        finally:
            log.append(f"leave {name}")

    class Raises:
        async def __aenter__(self) -> None:
            await asyncio.sleep(0)

        async def __aexit__(self, kind: Any, error: Any, trace: Any) -> bool:
            await asyncio.sleep(0)
            raise KeyError(compute(seed)) from error

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(step("outer", swallow=True))
        async with step("a") as a, step("b") as b:
            log.append(a + b)
        try:
            async with Raises(), step("inner"):
                raise ValueError(seed)
        except KeyError as error:
            log.append((error.args, repr(error.__cause__)))
        raise ValueError("last")
    return log, sys.exc_info()


async def with_failing_groups(seed: int) -> Any:
    log: list[Any] = []
    begun: list[int] = []

    async def member(i: int) -> int:
        try:
            begun.append(i)
            compute(i)
            await asyncio.sleep(0)
            if i == 2:
                # whoever makes the group may be suspended halfway: a member that never began catches nothing
                while len(begun) < 6:
                    await asyncio.sleep(0)
                raise ValueError(seed)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            compute(i)
            if i == 4:
                raise TypeError(i) from None
            raise
        finally:
            log.append(i)
        return i

    caught: list[str] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(member(i)) for i in range(6)]
    except* ValueError as errors:
        caught += map(repr, errors.exceptions)
    except* TypeError as errors:
        caught += map(repr, errors.exceptions)
    return (
        sorted(caught),
        sorted(log),
        [task.cancelled() for task in tasks],
    )


async def with_timeouts(seed: int) -> Any:
    log: list[Any] = []
    try:
        async with asyncio.timeout(60) as outer:
            try:
                async with asyncio.timeout(0.001) as inner:
                    await asyncio.sleep(60)
            except TimeoutError:
                log.append((inner.expired(), outer.expired()))
            inner = asyncio.timeout(None)
            async with inner:
                compute(seed)
                inner.reschedule(asyncio.get_running_loop().time() + 100)
            outer.reschedule(0)
            await asyncio.sleep(60)
    except TimeoutError:
        log.append("outer")
    log.append(await asyncio.wait_for(asyncio.sleep(0, seed), 60))
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)
    except TimeoutError:
        log.append("wait_for")
    return log


async def with_queues(seed: int) -> Any:
    items: asyncio.Queue[int] = asyncio.Queue(2)
    urgent: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
    results: list[int] = []

    async def producer(n: int) -> None:
        for i in range(4):
            compute(i)
            await items.put(n * 10 + i)

    async def consumer() -> None:
        while True:
            item = await items.get()
            results.append(compute(item * seed))
            urgent.put_nowait(-item)
            items.task_done()

    consumers = [asyncio.create_task(consumer()) for _ in range(2)]
    await asyncio.gather(*(producer(n) for n in range(3)))
    await items.join()
    for task in consumers:
        task.cancel()
    ends = await asyncio.gather(*consumers, return_exceptions=True)
    order = [urgent.get_nowait() for _ in range(urgent.qsize())]
    return sorted(results), order, [type(end).__name__ for end in ends]


async def with_locks(seed: int) -> Any:
    """asyncio's primitives, held over an await: nobody else may be inside."""
    lock = asyncio.Lock()
    places = asyncio.Semaphore(2)
    condition = asyncio.Condition()
    begun = asyncio.Event()
    barrier = asyncio.Barrier(3)
    inside = most = 0
    value = 0

    async def worker(n: int) -> int:
        nonlocal inside, most, value
        await begun.wait()
        async with places:
            inside += 1
            most = max(most, inside)
            compute(n)
            await asyncio.sleep(0)
            inside -= 1
        async with lock:
            before = value
            compute(n)
            await asyncio.sleep(0)
            value = before + 1
        async with condition:
            await condition.wait_for(lambda: value == 3)
            condition.notify_all()
        return await barrier.wait()

    async def waker() -> None:
        begun.set()
        while value < 3:
            await asyncio.sleep(0)
        async with condition:
            condition.notify_all()

    waking = asyncio.create_task(waker())
    places_taken = await asyncio.gather(*(worker(n) for n in range(3)))
    await waking
    return value, most <= 2, inside, sorted(places_taken), lock.locked()


async def with_combinators(seed: int) -> Any:
    async def value(i: int) -> int:
        for _ in range(i % 3):
            await asyncio.sleep(0)
        if i == 3:
            raise LookupError(seed)
        return compute(i)

    gathered = await asyncio.gather(*(value(i) for i in range(5)), return_exceptions=True)
    done, pending = await asyncio.wait([asyncio.create_task(value(i)) for i in range(3)])
    completed = [await each for each in asyncio.as_completed([value(i) for i in range(3)])]
    shielded = asyncio.create_task(value(1))
    outer = asyncio.ensure_future(asyncio.shield(shielded))
    await asyncio.sleep(0)
    outer.cancel()
    ended = await asyncio.gather(outer, return_exceptions=True)
    return (
        list(map(repr, gathered)),
        sorted(task.result() for task in done),
        len(pending),
        sorted(completed),
        [type(each).__name__ for each in ended],
        await shielded,
    )


async def with_cancellation(seed: int) -> Any:
    log: list[Any] = []

    async def stubborn() -> str:
        for i in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError as error:
                log.append((i, compute(i), error.args))
        return "survived"

    task = asyncio.create_task(stubborn())
    for i in range(3):
        await asyncio.sleep(0)
        task.cancel(f"number {i * seed}")
        await asyncio.sleep(0)
        while task.cancelling() and not task.done() and len(log) <= i:
            await asyncio.sleep(0)
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: log.append(("done", done.cancelled())))
    future.cancel()
    await asyncio.sleep(0)
    while log[-1][0] != "done":
        await asyncio.sleep(0)
    return await task, log


async def with_contexts(seed: int) -> Any:
    variable.set(seed)

    async def child(n: int) -> int:
        variable.set(variable.get() + n)
        await asyncio.sleep(0)
        compute(n)
        return variable.get()

    async def generator() -> AsyncIterator[int]:
        for i in range(3):
            variable.set(i)
            yield variable.get()

    seen: list[Any] = []
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    context = contextvars.copy_context()
    context.run(variable.set, 77)
    loop.call_soon(lambda: arrived.set_result(variable.get()), context=context)
    seen.append(await arrived)
    children = await asyncio.gather(*(child(n) for n in range(4)))
    seen.append(variable.get())
    async for each in generator():
        seen.append((each, variable.get()))
    variable.set(seed)
    in_thread = await asyncio.to_thread(variable.get)
    return children, seen, in_thread


async def with_eager_tasks(seed: int) -> Any:
    """Tasks that begin inside of the step that makes them (3.12)."""
    if sys.version_info < (3, 12):
        return None
    log: list[Any] = []
    loop = asyncio.get_running_loop()

    async def child(n: int) -> int:
        log.append((n, asyncio.current_task().get_name()))  # type: ignore[union-attr]
        compute(n)
        assert asyncio.current_task().get_name() == f"eager {n}"  # type: ignore[union-attr]
        if n:
            await asyncio.sleep(0)
            inner = asyncio.Task(child(n - 1), loop=loop, name=f"eager {n - 1}", eager_start=True)
            assert asyncio.current_task().get_name() == f"eager {n}"  # type: ignore[union-attr]
            return await inner + 1
        return compute(seed)

    me = asyncio.current_task()
    task = asyncio.Task(child(3), loop=loop, name="eager 3", eager_start=True)
    assert asyncio.current_task() is me
    result = await task
    return result, log


async def with_threads(seed: int) -> Any:
    loop = asyncio.get_running_loop()
    values = await asyncio.gather(*(asyncio.to_thread(compute, seed * i) for i in range(4)))

    async def answer(n: int) -> int:
        await asyncio.sleep(0)
        return n + seed

    def asks() -> list[int]:
        futures = [asyncio.run_coroutine_threadsafe(answer(n), loop) for n in range(3)]
        return [future.result(60) for future in futures]

    answers = await loop.run_in_executor(None, asks)
    arrived: list[int] = []
    done = asyncio.Event()

    def tells() -> None:
        for i in range(5):
            loop.call_soon_threadsafe(arrived.append, i)
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=tells)
    thread.start()
    await done.wait()
    await asyncio.to_thread(thread.join)
    return values, answers, arrived


def with_executors(seed: int) -> Any:
    """Blocking waits for threads, in a step of the loop."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        values = list(pool.map(compute, range(seed, seed + 6)))
        futures = [pool.submit(compute, i) for i in range(4)]
        done, waiting = concurrent.futures.wait(futures)
        ordered = sorted(future.result() for future in concurrent.futures.as_completed(futures))
        failing = pool.submit(int, "no number")
        error = failing.exception()
    return values, len(done), len(waiting), ordered, repr(error)


def with_blocking_queues(seed: int) -> Any:
    requests: queue.Queue[int | None] = queue.Queue(2)
    replies: queue.SimpleQueue[int] = queue.SimpleQueue()

    def serve() -> None:
        while (item := requests.get()) is not None:
            replies.put(compute(item * seed))

    thread = threading.Thread(target=serve)
    thread.start()
    for i in range(6):
        requests.put(i)
    requests.put(None)
    results = [replies.get() for _ in range(6)]
    thread.join()
    return results


def with_thread_locks(seed: int) -> Any:
    lock, again = threading.Lock(), threading.RLock()
    condition = threading.Condition()
    begun = threading.Event()
    counts = {"value": 0}

    def add() -> None:
        begun.wait()
        for _ in range(5):
            with lock, again, again:
                value = counts["value"]
                compute(value)
                counts["value"] = value + 1
        with condition:
            condition.notify_all()

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.set()
    add()
    with condition:
        condition.wait_for(lambda: counts["value"] == 15, 60)
    for thread in threads:
        thread.join()
    return counts, lock.locked()


def with_sleeps(seed: int) -> Any:
    began = time.monotonic()
    time.sleep(0.001)
    reader, writer = os.pipe()
    timer = threading.Timer(0.001, os.write, (writer, b"%d" % seed))
    timer.start()
    ready = bool(select.select([reader], [], [], 60)[0])
    data = os.read(reader, 100)
    timer.join()
    os.close(reader)
    os.close(writer)
    one, other = socket.socketpair()
    with one, other:
        timer = threading.Timer(0.001, one.sendall, (b"x" * 10,))
        timer.start()
        received = other.recv(100)
        timer.join()
    return ready, data, received, time.monotonic() > began


async def with_streams(seed: int) -> Any:
    one, other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=one)
    far_reader, far_writer = await asyncio.open_connection(sock=other)

    async def serve() -> None:
        while line := await far_reader.readline():
            far_writer.write(b"%d\n" % compute(int(line)))
        far_writer.close()

    serving = asyncio.create_task(serve())
    results = []
    for i in range(4):
        writer.write(b"%d\n" % (i * seed))
        results.append(await reader.readline())
    writer.write_eof()
    rest = await reader.read()
    await serving
    writer.close()
    await writer.wait_closed()
    return results, rest


async def with_asyncio_processes(seed: int) -> Any:
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(b"%d" % seed)
    return out, process.returncode
