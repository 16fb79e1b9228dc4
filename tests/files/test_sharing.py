"""Files among tasks, loops and processes: fair to others, exact when cancelled, closed when all is over."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import sys
import time

import pytest

from clearway.files import open_file

from ..support.loops import finish, no_descriptor_left, run
from ..support.net import settle
from ..support.programs import python, succeeded


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def test_reads_that_complete_at_once_yield_to_others(factory, tmp_path):
    """A task that reads nothing but cached data lets the others run: at least once in 128 reads."""
    path = tmp_path / "file"
    path.write_bytes(b"line\n" * 40_000)

    async def main():
        turns = 0
        over = False

        async def other():
            nonlocal turns
            while not over:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        await settle()
        async with open_file(path, "rb") as file:
            for read in (lambda: file.read(16), lambda: file.pread(16, 0), file.readline):
                before = turns
                for _ in range(2000):
                    assert await read()
                assert turns - before >= 2000 // 130
        async with open_file(path) as text:
            before = turns
            async for _ in text:
                pass
            assert turns - before >= 40_000 // 130
        over = True
        await task

    run(factory, main)


async def started(awaitable):
    """A task that has begun and waits."""
    task = asyncio.ensure_future(awaitable)
    await settle()
    assert not task.done()
    return task


async def opened(held, *arguments):
    """Open a file although everything is held back."""
    task = await started(opening(*arguments))
    held.release()
    return await task


async def opening(*arguments):
    return await open_file(*arguments)


async def closed(held, file):
    task = await started(file.close())
    held.release()
    await task


def test_a_cancelled_task_stays_until_its_memory_is_free(factory, path, held_back):
    path.write_bytes(b"0123456789")

    async def main():
        file = await opened(held_back, path, "r+b")
        buffer = bytearray(4)
        for way, position in ((file.readinto(buffer), 0), (file.write(b"abc"), 3)):
            task = await started(way)
            task.cancel()
            await settle()
            assert not task.done()
            task.cancel()  # insisting does not help
            held_back.release()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await file.tell() == position
        assert buffer == b"0123"
        buffer.clear()  # which an export would forbid
        assert path.read_bytes() == b"abc3456789"
        await closed(held_back, file)

    run(factory, main)


def test_closing_waits_for_what_is_in_flight(factory, path, held_back):
    path.write_bytes(b"0123456789")

    async def main():
        file = await opened(held_back, path, "r+b")
        flying = await started(file.write(b"abc"))
        waiting = await started(file.read(2))
        closing = await started(file.close())
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.read(1)
        with pytest.raises(ValueError, match="closed"):
            file.fileno()
        closing.cancel()  # it closes all the same
        await settle()
        held_back.release()
        assert await flying == 3
        with pytest.raises(ValueError, match="closed"):
            await waiting
        await settle()
        held_back.release()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await file.close()
        assert path.read_bytes() == b"abc3456789"

    run(factory, main)


def test_a_cancelled_open_leaves_no_descriptor(factory, path, held_back):
    path.write_bytes(b"x")

    async def main():
        with no_descriptor_left():
            task = await started(opening(path, "rb"))
            task.cancel()
            await settle()
            held_back.release()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(factory, main)


def test_cancelled_where_the_ring_or_a_thread_has_it(factory, path):
    """The same without a stand-in: cancelled before and while the kernel works, over and over."""
    path.write_bytes(bytes(4_000_000))

    async def main():
        for turns in range(12):
            task = asyncio.ensure_future(opening(path, "r+b"))
            for _ in range(turns % 4):
                await asyncio.sleep(0)
            task.cancel()
            try:
                file = await task
            except asyncio.CancelledError:
                continue
            buffer = bytearray(100_000)
            for way in (file.readinto(buffer), file.write(buffer), file.flush(fsync=True)):
                task = asyncio.ensure_future(way)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            buffer.clear()
            assert 0 <= await file.tell() <= 200_000
            await file.close()

    run(factory, main)


def test_a_loop_closed_with_operations_in_flight(clearway_factory, path):
    """What was in flight ends by itself; the file is closed by its finaliser, which says so."""
    loop = clearway_factory()

    async def main():
        file = await open_file(path, "wb")
        tasks = [
            asyncio.ensure_future(file.pwrite(b"x" * 100_000, at * 100_000)) for at in range(8)
        ]
        await asyncio.sleep(0)
        return file, tasks

    file, tasks = loop.run_until_complete(main())
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # tasks that never end are the test's point
    with pytest.warns(ResourceWarning, match="unclosed file") as caught:
        del task, tasks, file
        while not caught:  # a thread may be writing for it still
            gc.collect()
            time.sleep(0.001)


def test_a_closed_file_is_let_go_of(factory, path):
    """What the kernel ties to the open file, here a lock, is free once ``close`` has returned.

    The kernel was late about once in 1,000 times.
    """

    async def main():
        with path.open("wb") as other:
            for _ in range(1000):
                file = await open_file(path, "wb")
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                await file.close()
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(other, fcntl.LOCK_UN)

    run(factory, main)


def test_an_unclosed_file_warns(factory, path):
    async def main():
        file = await open_file(path, "wb")
        name = repr(file)
        with pytest.warns(ResourceWarning, match="unclosed file") as caught:
            del file
            gc.collect()
        assert name in str(caught[0].message)

    run(factory, main)


def test_a_file_belongs_to_its_loop(clearway_factory, path):
    path.write_bytes(b"x")
    first, second = clearway_factory(), clearway_factory()
    file = first.run_until_complete(opening(path, "rb"))
    try:
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run_until_complete(file.read())
        # Stopped and run again, perhaps by another thread, it is the same loop.
        assert first.run_until_complete(file.read()) == b"x"
    finally:
        first.run_until_complete(file.close())
        finish(first)
        finish(second)


FORKED = """
import asyncio, os, sys, warnings, clearway
from clearway.files import open_file
warnings.simplefilter("ignore", DeprecationWarning)

async def child(path):
    async with open_file(path, "rb") as file:
        return await file.read()

async def main(path):
    async with open_file(path, "w+b") as file:
        await file.write(b"parent")
        await clearway.files.stat(path)  # a thread exists now
        pid = os.fork()
        if pid == 0:
            asyncio._set_running_loop(None)
            got = clearway.run(child(path), engine=sys.argv[2])
            os._exit(0 if got == b"parent" else 1)
        _, status = os.waitpid(pid, 0)
        await file.write(b" again")
        await file.seek(0)
        print(status, await file.read())

clearway.run(main(sys.argv[1]), engine=sys.argv[2])
"""


def test_after_a_fork_both_sides_have_files(clearway_factory, path):
    done = python("-c", FORKED, path, clearway_factory.name)
    assert succeeded(done).strip() == "0 b'parent again'"


def test_two_threads_run_the_same_loop_in_turn(clearway_factory, path):
    """A ring belongs to a thread: what is in flight when the loop stops is over before another goes on."""
    import threading

    path.write_bytes(bytes(1_000_000))
    loop = clearway_factory(preempt="report")
    tasks = []

    async def start():
        file = await open_file(path, "r+b")
        for at in range(16):
            tasks.append(asyncio.ensure_future(file.pwrite(bytes([at]) * 10_000, at * 10_000)))
        await asyncio.sleep(0)
        return file

    async def end(file):
        assert await asyncio.gather(*tasks) == [10_000] * 16
        data = await file.read(160_000)
        await file.close()
        return data

    file = loop.run_until_complete(start())
    got = []
    thread = threading.Thread(target=lambda: got.append(loop.run_until_complete(end(file))))
    thread.start()
    thread.join()
    finish(loop)
    assert got == [b"".join(bytes([at]) * 10_000 for at in range(16))]


@pytest.mark.skipif(sys.platform != "linux", reason="preemption needs Linux")
def test_beneath_suspended_steps(clearway_factory, path):
    """Tasks that compute are suspended in mid-line while others read: each gets its own bytes."""
    data = os.urandom(256 * 64)
    path.write_bytes(data)

    async def reader(file, number):
        for at in range(number, 256, 4):
            assert await file.pread(64, at * 64) == data[at * 64 : at * 64 + 64]
            sum(range(20_000))

    async def main():
        async with open_file(path, "rb") as file:
            await asyncio.gather(*(reader(file, number) for number in range(4)))
            got = []

            async def share():
                while part := await file.read(64):
                    got.append(part)
                    sum(range(5_000))

            await asyncio.gather(*(share() for _ in range(4)))
            assert sorted(got) == sorted(data[at : at + 64] for at in range(0, len(data), 64))

    run(clearway_factory, main, preempt="on", quantum=0.0005)
