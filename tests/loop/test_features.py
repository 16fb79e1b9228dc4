"""Executor, asynchronous generators, exception handler, debug mode, tasks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import warnings

import pytest

from ..support.loops import caught_errors, in_thread, run
from ..support.net import settle


def test_run_in_executor(factory):
    from concurrent.futures import ThreadPoolExecutor

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
        assert await asyncio.to_thread(max, 3, 5) == 5
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        with ThreadPoolExecutor(1, thread_name_prefix="ours") as pool:
            name = await loop.run_in_executor(pool, lambda: threading.current_thread().name)
            assert name.startswith("ours")
            loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="default"))
            name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
            assert name.startswith("default")
        with pytest.raises(TypeError):
            loop.set_default_executor(object())
        results = await asyncio.gather(*(in_thread(pow, 2, n) for n in range(100)))
        assert results == [2**n for n in range(100)]

    run(factory, main)


def test_shutdown_default_executor_waits_and_then_refuses(factory):
    loop = factory()
    try:
        release = threading.Event()
        seen = []

        def slow():
            assert release.wait(20)
            seen.append("finished")

        async def main():
            running = loop.run_in_executor(None, slow)
            closing = loop.create_task(loop.shutdown_default_executor())
            await settle()
            assert not closing.done()
            release.set()
            await closing
            assert seen == ["finished"]
            await running
            with pytest.raises(RuntimeError, match="shutdown"):
                loop.run_in_executor(None, print)

        loop.run_until_complete(main())
    finally:
        loop.close()


def test_asynchronous_generators_are_closed(factory):
    finished = []

    async def count(name):
        try:
            while True:
                yield name
        finally:
            await asyncio.sleep(0)  # needs a running loop
            finished.append(name)

    async def main():
        async for _ in count("left"):
            break
        gc.collect()
        await settle()
        assert finished == ["left"], "the finaliser hook closes what was dropped"
        main.kept = count("kept")
        await anext(main.kept)

    loop = factory()
    try:
        loop.run_until_complete(main())
        assert finished == ["left"]
        loop.run_until_complete(loop.shutdown_asyncgens())
        assert finished == ["left", "kept"]
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")

            async def late():
                async for _ in count("late"):
                    break

            loop.run_until_complete(late())
        assert any("shutdown_asyncgens" in str(warning.message) for warning in seen)
    finally:
        loop.close()


def test_the_exception_handler(factory, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        seen = []
        loop.set_exception_handler(lambda *arguments: seen.append(arguments))
        context = {"message": "by hand"}
        loop.call_exception_handler(context)
        assert seen == [(loop, context)]

        def broken(loop, context):
            raise ArithmeticError("in the handler")

        loop.set_exception_handler(broken)
        with caplog.at_level(logging.ERROR, "asyncio"):
            loop.call_exception_handler(context)
        assert "Unhandled error in exception handler" in caplog.text
        caplog.clear()

        loop.set_exception_handler(None)
        assert loop.get_exception_handler() is None
        with caplog.at_level(logging.ERROR, "asyncio"):
            loop.call_soon(lambda: 1 / 0)
            await settle()
        assert "ZeroDivisionError" in caplog.text and "Exception in callback" in caplog.text
        with pytest.raises(TypeError):
            loop.set_exception_handler("no function")
        loop.set_exception_handler(before)

    run(factory, main)


def test_an_exception_that_nobody_retrieved_is_reported(factory):
    async def main():
        async def fail():
            raise ArithmeticError("nobody asks")

        with caught_errors() as errors:
            task = asyncio.create_task(fail())
            await settle()
            del task
            gc.collect()
            await settle()
        assert len(errors) == 1
        assert "never retrieved" in errors[0]["message"]

    run(factory, main)


def test_debug_reports_a_slow_callback_by_name(factory, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        assert loop.get_debug()
        loop.slow_callback_duration = 0.001

        def dawdle():
            time.sleep(0.002)

        with caplog.at_level(logging.WARNING, "asyncio"):
            loop.call_soon(dawdle)
            await settle()
        assert "dawdle" in caplog.text and "took" in caplog.text
        loop.set_debug(False)
        await settle()  # this very step began in debug mode, and may be slow itself
        caplog.clear()
        with caplog.at_level(logging.WARNING, "asyncio"):
            loop.call_soon(dawdle)
            await settle()
        assert not caplog.text

    # Where it could be suspended while others run, how long it took in all says nothing.
    run(factory, main, preempt="report")


def test_debug_refuses_calls_from_the_wrong_thread(factory):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)

        def outside():
            for call in (
                lambda: loop.call_soon(print),
                lambda: loop.call_later(1, print),
                lambda: loop.call_at(1, print),
            ):
                with pytest.raises(RuntimeError, match=r"[Nn]on-thread-safe"):
                    call()
            loop.call_soon_threadsafe(int)

        await in_thread(outside)
        with pytest.raises(TypeError):
            loop.call_soon(settle)  # a coroutine function is no callback
        with pytest.raises(TypeError):
            loop.call_soon("no function")
        with pytest.raises(TypeError):
            loop.call_later(0, "no function")

    run(factory, main)


def test_debug_shows_where_a_handle_was_made(factory):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with caught_errors() as errors:

            def clumsy():
                raise ArithmeticError

            loop.call_soon(clumsy)
            await settle()
        assert "test_features.py" in str(errors[0].get("source_traceback", ""))

    run(factory, main)


def test_the_environment_turns_debug_on():
    from ..support.programs import environment, loop_program, succeeded

    for name in ("asyncio", "epoll"):
        env = environment(PYTHONASYNCIODEBUG="1")
        done = loop_program(name, "print(make_loop().get_debug())", env=env)
        assert succeeded(done).strip() == "True"


def test_tasks_have_names_contexts_and_a_factory(factory):
    var = contextvars.ContextVar("var", default=0)

    async def main():
        loop = asyncio.get_running_loop()

        async def current():
            return asyncio.current_task().get_name(), var.get()

        context = contextvars.copy_context()
        context.run(var.set, 5)
        assert await loop.create_task(current(), name="mine", context=context) == ("mine", 5)
        assert (await loop.create_task(current()))[0].startswith("Task-")

        made = []

        def task_factory(loop, coro, **options):
            made.append(options)
            return asyncio.Task(coro, loop=loop, **options)

        loop.set_task_factory(task_factory)
        assert loop.get_task_factory() is task_factory
        assert await loop.create_task(current(), context=context) is not None
        assert made and "context" in made[0]
        with pytest.raises(TypeError):
            loop.set_task_factory("no function")
        loop.set_task_factory(None)

    run(factory, main)


def test_task_groups_and_timeouts(factory):
    async def main():
        results = []

        async def work(number):
            await asyncio.sleep(0.001 * number)
            results.append(number)

        async with asyncio.TaskGroup() as group:
            for number in (3, 1, 2):
                group.create_task(work(number))
        assert results == [1, 2, 3]

        async def fail():
            raise ArithmeticError

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(asyncio.sleep(3600))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    run(factory, main)


def test_names_are_looked_up_without_stopping_the_loop(factory):
    import socket

    async def main():
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 80)
        host, service = await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
        assert host == "127.0.0.1" and service
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("127.0.0.1", "no such service")

    run(factory, main)


def test_time_is_monotonic(factory):
    async def main():
        loop = asyncio.get_running_loop()
        assert abs(loop.time() - time.monotonic()) < 1
        times = [loop.time() for _ in range(1000)]
        assert times == sorted(times)

    run(factory, main)


def test_a_library_that_turns_the_loop_itself_is_told_that_it_cannot(clearway_factory):
    """As nest_asyncio does: it asks the selector between the steps it takes from ``_ready``."""
    loop = clearway_factory()
    try:
        with pytest.raises(RuntimeError, match=r"nest_asyncio.*Await instead"):
            loop._process_events(loop._selector.select(None))
    finally:
        loop.close()
