"""Callbacks, timers, running and stopping: what the loop itself promises."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import math
import weakref

import pytest

from ...support.loops import run
from ...support.net import settle
from .harness import Scenarios, Trace, compare

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    if function is running_twice and not asyncio_survives_a_second_run():
        pytest.skip("run_forever() of this asyncio (3.13.0) forgets that the loop runs already")
    compare(factories, function)


def asyncio_survives_a_second_run() -> bool:
    async def main() -> bool:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError):
            loop.run_forever()
        return loop.is_running()

    return asyncio.run(main())


@scenario
async def odd_deadlines(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for delay in (-5, 0, -math.inf):
        loop.call_later(delay, trace, "delay", str(delay))
    far = loop.call_later(math.inf, trace, "never")
    loop.call_later(0.02, done.set_result, None)
    await done
    far.cancel()
    trace.call("later None", loop.call_later, None, trace)
    trace.call("at None", loop.call_at, None, trace)


def test_a_deadline_that_is_not_a_number_is_now(clearway_factory):
    async def main() -> None:  # asyncio of 3.11 and 3.12 agrees; later ones fail in the selector
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        order: list[str] = []
        loop.call_later(0.001, order.append, "later")
        loop.call_later(math.nan, order.append, "nan")
        loop.call_later(0.002, done.set_result, None)
        await done
        assert order == ["nan", "later"]

    run(clearway_factory, main)


@scenario
async def order_of_timers(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    when = loop.time() + 0.01
    done = loop.create_future()
    handles = [loop.call_at(when + shift / 1000, trace, "timer", shift) for shift in (3, 1, 2, 0)]
    handles[1].cancel()
    loop.call_at(when + 0.005, done.set_result, None)
    trace("when", handles[0].when() == when + 0.003, handles[1].cancelled())
    trace("order", handles[3] < handles[0], handles[0] > handles[2], handles[0] == handles[0])
    twins = [loop.call_at(when + 1, trace, "twin") for _ in range(2)]
    trace("twins", twins[0] == twins[1], hash(twins[0]) == hash(twins[1]), twins[0] <= twins[1])
    twins[0].cancel()
    trace("twins", twins[0] == twins[1], twins[0] == 7)
    twins[1].cancel()
    await done


@scenario
async def handles(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    handle = loop.call_soon(trace, "ran")
    timer = loop.call_later(10, trace, "never")
    trace("kinds", isinstance(handle, asyncio.Handle), isinstance(timer, asyncio.TimerHandle))
    trace("kinds", isinstance(timer, asyncio.Handle), isinstance(handle, asyncio.TimerHandle))
    trace("weak", weakref.ref(handle)() is handle)
    trace("repr", repr(handle)[:8], repr(timer)[:18])
    timer.cancel()
    timer.cancel()
    trace("cancelled", timer.cancelled(), repr(timer)[:23])
    await settle()
    handle.cancel()
    trace("cancelled", handle.cancelled())
    trace(
        "context",
        type(handle.get_context()).__name__ if hasattr(handle, "get_context") else "Context",
    )


@scenario
async def failing_callbacks(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    class Base(BaseException):
        pass

    def fail(exc):
        raise exc

    for exc in (
        ValueError("one"),
        Base("two"),
        asyncio.CancelledError("three"),
        GeneratorExit("four"),
    ):
        loop.call_soon(fail, exc)
    loop.call_soon(trace, "and on")
    await settle()

    def bad_handler(loop, context):
        trace("bad handler", context["message"])
        raise RuntimeError("handler")

    before = loop.get_exception_handler()
    loop.set_exception_handler(bad_handler)
    loop.call_soon(fail, ValueError("five"))
    await settle()
    trace.call("set", loop.set_exception_handler, "no callable")
    loop.set_exception_handler(None)
    trace("none", loop.get_exception_handler())
    loop.call_exception_handler({"message": "plain", "extra": 7})
    loop.set_exception_handler(before)


@scenario
async def running_twice(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    trace.call("forever", loop.run_forever)
    future = loop.create_future()
    trace.call("until", loop.run_until_complete, future)
    trace.call("close", loop.close)
    trace.call("until coroutine", loop.run_until_complete, 7)
    other = asyncio.new_event_loop()
    foreign = other.create_future()
    trace.call("forever", other.run_forever)
    trace.call("foreign", loop.run_until_complete, foreign)
    other.close()
    trace("running", loop.is_running(), "closed", loop.is_closed())


@scenario
async def contexts(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    own = contextvars.copy_context()
    own.run(var.set, 5)
    loop.call_soon(lambda: trace("soon", var.get()), context=own)
    loop.call_later(0, lambda: trace("later", var.get()), context=own)
    loop.call_soon_threadsafe(lambda: trace("threadsafe", var.get()), context=own)
    await settle()
    var.set(1)
    loop.call_soon(lambda: trace("default", var.get()))
    await settle()


@scenario
async def executors(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    await trace.wait("result", loop.run_in_executor(None, pow, 2, 5))
    await trace.wait("error", loop.run_in_executor(None, int, "x"))
    trace.call("set", loop.set_default_executor, 7)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        await trace.wait("own", loop.run_in_executor(executor, len, "abc"))
    await trace.wait("shut", loop.shutdown_default_executor())
    await trace.wait("after", _in_executor(loop))


async def _in_executor(loop: asyncio.AbstractEventLoop) -> int:
    return await loop.run_in_executor(None, len, "abc")


@scenario
async def tasks(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    async def named() -> str:
        return asyncio.current_task().get_name()  # type: ignore[union-attr]

    await trace.wait("named", loop.create_task(named(), name="n"))
    trace.call("factory", loop.set_task_factory, 7)
    trace("factory", loop.get_task_factory())
    seen = []

    def factory(loop, coro, **kwargs):
        seen.append(sorted(kwargs))
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    await loop.create_task(named())
    await loop.create_task(named(), context=context)
    loop.set_task_factory(None)
    trace("kwargs", seen)
    trace.call("unknown", _unknown_option, loop, named())


def _unknown_option(loop, coro):
    try:
        loop.create_task(coro, nonsense=1)
    finally:
        coro.close()


@scenario
async def closed_loop(trace: Trace) -> None:
    kind = type(asyncio.get_running_loop())
    loop = kind()
    loop.close()
    loop.close()
    for name in ("call_soon", "call_soon_threadsafe"):
        trace.call(name, getattr(loop, name), print)
    trace.call("call_later", loop.call_later, 1, print)
    trace.call("call_at", loop.call_at, 1, print)
    trace.call("executor", loop.run_in_executor, None, print)
    trace.call("forever", loop.run_forever)
    trace("closed", loop.is_closed(), loop.is_running())
    trace.call("stop", loop.stop)
    trace.call("reader", loop.add_reader, 0, print)
