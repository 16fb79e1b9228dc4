"""Loops as a whole: running, stopping, closing, what is left at the end, threads, signals."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings

import pytest

from ...support.net import settle, tcp_pair, unix_pair
from .harness import DatagramTracer, Scenarios, StreamTracer, Trace, compare, same_kind

scenario = Scenarios()

#: run_forever() of 3.13.0, refused because another loop runs, cleans up after it.
ASYNCIO_BREAKS_THE_RUNNING_LOOP = sys.version_info[:3] == (3, 13, 0)


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


def another() -> asyncio.AbstractEventLoop:
    """A second loop of the same kind, for any thread."""
    return same_kind()()


def outside(function):
    """A scenario that runs without a running loop of its own: in a thread, with a new loop of the same kind."""

    async def run(trace):
        loop = another()
        try:
            await asyncio.to_thread(function, trace, loop)
        finally:
            if not loop.is_closed():
                loop.close()

    run.__name__ = function.__name__
    scenario(run)
    return function


@outside
def stopping(trace, loop):
    def soon(label):
        trace(label)

    loop.call_soon(soon, "one")
    loop.call_soon(loop.stop)
    loop.call_soon(soon, "two")
    loop.run_forever()
    trace("ran", loop.is_running())
    loop.stop()
    loop.call_soon(soon, "three")
    loop.run_forever()
    trace("stopped before it ran")

    def and_on():
        loop.call_soon(soon, "left over")
        loop.stop()

    loop.call_soon(and_on)
    loop.run_forever()
    trace("next")
    loop.call_soon(loop.stop)
    loop.run_forever()


@outside
def run_until_complete(trace, loop):
    async def value():
        return 5

    async def fail():
        raise ArithmeticError("of the coroutine")

    async def stop():
        loop.stop()
        await asyncio.sleep(10)

    async def nest():
        try:
            loop.run_until_complete(value_coroutine)
        except RuntimeError as exc:
            return str(exc)

    trace.call("value", loop.run_until_complete, value())
    trace.call("fail", loop.run_until_complete, fail())
    stopping = stop()
    trace.call("stop", loop.run_until_complete, stopping)
    trace("tasks", len(asyncio.all_tasks(loop)))
    for task in asyncio.all_tasks(loop):
        task.cancel()
        trace.call("cancelled", loop.run_until_complete, task)
    value_coroutine = value()
    trace.call("nest", loop.run_until_complete, nest())
    value_coroutine.close()
    future = loop.create_future()
    loop.call_later(0.001, future.set_result, 7)
    trace.call("future", loop.run_until_complete, future)
    trace.call("again", loop.run_until_complete, future)
    for wrong in (None, 7, "x", value):
        trace.call("wrong", loop.run_until_complete, wrong)
    trace.call(
        "gather", loop.run_until_complete, asyncio.gather(*[_sleep(loop)], return_exceptions=True)
    )


def _sleep(loop):
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    return future


@outside
def exceptions_that_leave_the_loop(trace, loop):
    for kind in (SystemExit, KeyboardInterrupt):

        def leave(kind=kind):
            raise kind("leaving")

        async def leave_in_task(kind=kind):
            raise kind("leaving a task")

        loop.call_soon(leave)
        loop.call_soon(trace, "behind it")
        trace.call("callback", loop.run_forever)
        loop.call_soon(loop.stop)
        trace.call("go on", loop.run_forever)
        trace.call("task", loop.run_until_complete, leave_in_task())
        trace.call("next", loop.run_until_complete, asyncio.sleep(0, 5))
        task = loop.create_task(leave_in_task())
        trace.call("other task", loop.run_until_complete, asyncio.sleep(10))
        trace("task", task.done(), type(task.exception()).__name__)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()


@outside
def closing(trace, loop):
    loop.call_soon(trace, "never")
    loop.call_later(0, trace, "never")
    loop.close()
    trace("closed", loop.is_closed(), loop.is_running())
    for name, args in (
        ("call_soon", (print,)),
        ("call_soon_threadsafe", (print,)),
        ("call_later", (1, print)),
        ("call_at", (1, print)),
        ("run_forever", ()),
        ("run_in_executor", (None, print)),
        ("add_reader", (0, print)),
        ("remove_reader", (0,)),
        ("add_writer", (0, print)),
        ("remove_writer", (0,)),
        ("stop", ()),
        ("close", ()),
        ("set_debug", (True,)),
        ("get_debug", ()),
        ("time", ()),
        ("get_task_factory", ()),
        ("set_exception_handler", (None,)),
    ):
        try:
            result = getattr(loop, name)(*args)
        except Exception as exc:
            trace(name, exc)
        else:
            trace(name, type(result).__name__)

    async def nothing():
        pass

    coroutine = nothing()
    trace.call("create_task", loop.create_task, coroutine)
    coroutine.close()
    coroutine = nothing()
    trace.call("run", loop.run_until_complete, coroutine)
    coroutine.close()
    trace("future", type(loop.create_future()).__name__)


@outside
def closing_with_tasks(trace, loop):
    async def wait():
        try:
            await asyncio.sleep(3600)
        finally:
            trace("finally")

    task = loop.create_task(wait())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    trace("pending", task.done())
    task._log_destroy_pending = False
    del task
    gc.collect()


@outside
def transports_left_at_the_end(trace, loop):
    async def leave():
        for pair in (tcp_pair, unix_pair):
            ours, peer = pair()
            p = StreamTracer(trace)
            await loop.connect_accepted_socket(lambda p=p: p, ours)
            peer.close()
            p.transport.pause_reading()
            p.transport.write(b"x")
        d = DatagramTracer(trace, "d")
        await loop.create_datagram_endpoint(lambda: d, local_addr=("127.0.0.1", 0))
        r, w = os.pipe()
        p = StreamTracer(trace, "r")
        await loop.connect_read_pipe(lambda: p, os.fdopen(r, "rb", 0))
        q = StreamTracer(trace, "w")
        await loop.connect_write_pipe(lambda: q, os.fdopen(w, "wb", 0))

    loop.run_until_complete(leave())
    loop.close()
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
        gc.collect()
    trace("closed", before - len(os.listdir("/proc/self/fd")))
    kinds = [str(warning.message).split()[:2] for warning in caught]
    trace(sorted(" ".join(kind) for kind in kinds if kind[-1] == "transport"))


@outside
def a_server_left_at_the_end(trace, loop):
    async def leave():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        return server.sockets[0].getsockname()

    address = loop.run_until_complete(leave())
    loop.close()
    gc.collect()
    try:
        socket.create_connection(address, 1).close()
    except OSError as exc:
        trace(type(exc).__name__)
    else:
        trace("listens")


@outside
def a_loop_that_was_not_closed(trace, loop):
    other = type(loop)()
    other.call_soon(other.stop)
    other.run_forever()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del other
        gc.collect()
    trace([str(w.message).split("<")[0] for w in caught if "loop" in str(w.message)])


@outside
def asyncgens(trace, loop):
    async def count(name):
        try:
            while True:
                yield name
        finally:
            await asyncio.sleep(0)
            trace("end of", name)

    async def main():
        kept.append(count("kept"))
        await anext(kept[0])
        async for _ in count("dropped"):
            break
        gc.collect()
        await settle()

    kept: list = []
    loop.run_until_complete(main())
    trace("hooks", sys.get_asyncgen_hooks() == (None, None))
    loop.run_until_complete(loop.shutdown_asyncgens())

    async def failing():
        try:
            yield 1
        finally:
            raise ArithmeticError("in the end of a generator")

    async def late():
        kept.append(failing())
        await anext(kept[1])

    loop.set_exception_handler(lambda _, context: trace("handler", context["message"][:40]))
    loop.run_until_complete(late())
    loop.run_until_complete(loop.shutdown_asyncgens())


@outside
def executors_at_the_end(trace, loop):
    async def main():
        release = threading.Event()
        job = loop.run_in_executor(None, release.wait, 20)
        closing = loop.create_task(loop.shutdown_default_executor())
        await settle()
        trace("closing", closing.done())
        trace.call("more", loop.run_in_executor, None, print)
        release.set()
        await trace.wait("closed", closing)
        await trace.wait("job", job)
        await trace.wait("again", loop.shutdown_default_executor())

    loop.run_until_complete(main())


@outside
def executor_timeout(trace, loop):
    if sys.version_info < (3, 13):
        return  # 3.12 takes the argument and waits all the same
    release = threading.Event()

    async def main():
        loop.run_in_executor(None, release.wait, 20)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await trace.wait("closed", loop.shutdown_default_executor(timeout=0.01))
        trace([str(w.message) for w in caught])

    loop.run_until_complete(main())
    release.set()


@outside
def from_other_threads(trace, loop):
    got = []

    def feed():
        for number in range(200):
            loop.call_soon_threadsafe(got.append, number)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=feed)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    trace("in order", got == list(range(200)))

    async def work(x):
        await asyncio.sleep(0)
        return x * 2

    def submit():
        future = asyncio.run_coroutine_threadsafe(work(21), loop)
        trace("result", future.result(10))
        begun, ended = threading.Event(), threading.Event()

        async def sleep():
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(sleep(), loop)
        trace("begun", begun.wait(20))
        trace("cancel", future.cancel())
        # A stop in the turn of the cancellation would leave the task pending.
        trace("ended", ended.wait(20))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=submit)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


@outside
def in_a_thread(trace, loop):
    trace.call("signals", _name_of_error, loop.add_signal_handler, signal.SIGUSR1, print)

    async def main():
        loop.set_debug(True)
        ours, peer = unix_pair()
        with ours, peer:
            peer.send(b"x")
            trace(await loop.sock_recv(ours, 1))
        trace(await loop.run_in_executor(None, len, "abc"))
        loop.set_debug(False)

    loop.run_until_complete(main())


def _name_of_error(function, *args):
    try:
        return function(*args)
    except Exception as exc:
        return type(exc).__name__


@outside
def running_in_two_threads(trace, loop):
    if ASYNCIO_BREAKS_THE_RUNNING_LOOP:
        return
    started = threading.Event()
    loop.call_soon(started.set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    started.wait(10)
    trace.call("second", loop.run_forever)
    trace.call("second", loop.run_until_complete, loop.create_future())
    trace.call("close", loop.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@scenario
async def running_two(trace: Trace) -> None:
    if ASYNCIO_BREAKS_THE_RUNNING_LOOP:
        return
    other = another()
    trace.call("forever", other.run_forever)
    coroutine = asyncio.sleep(0)
    trace.call("until", other.run_until_complete, coroutine)
    coroutine.close()
    future = other.create_future()
    await trace.wait("foreign future", _await(future))
    trace.call("ensure", asyncio.ensure_future, future, loop=asyncio.get_running_loop())
    await trace.wait("gather", asyncio.gather(_await(asyncio.sleep(0, 3))))
    other.close()


async def _await(awaitable):
    return await awaitable


@scenario
async def signal_handlers(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
    var.set("added")
    seen = asyncio.Event()

    def handler(*args):
        trace("signal", args, var.get())
        seen.set()

    async def coroutine():
        pass

    trace.call("add", loop.add_signal_handler, signal.SIGUSR1, handler, 1, 2)
    var.set("later")
    os.kill(os.getpid(), signal.SIGUSR1)
    await seen.wait()
    for sig, callback in (
        (signal.SIGKILL, handler),
        (signal.SIGSTOP, handler),
        (0, handler),
        (-1, handler),
        (65, handler),
        ("SIGUSR1", handler),
        (1.5, handler),
        (None, handler),
        (signal.SIGUSR2, coroutine),
        (signal.SIGUSR2, coroutine()),
        (32, handler),
    ):
        trace.call(f"add {sig!r}", loop.add_signal_handler, sig, callback)
    for sig in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGKILL, 0, 65, "x", None):
        trace.call(f"remove {sig!r}", loop.remove_signal_handler, sig)
    trace("default", signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
    loop.add_signal_handler(signal.SIGINT, handler)
    trace("int", loop.remove_signal_handler(signal.SIGINT))
    trace("int", signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    def fail():
        seen.set()
        raise ArithmeticError("in a signal handler")

    seen.clear()
    loop.add_signal_handler(signal.SIGUSR1, fail)
    os.kill(os.getpid(), signal.SIGUSR1)
    await seen.wait()
    await settle()
    # Not a callable: nobody looks until it is called.
    trace.call("add", loop.add_signal_handler, signal.SIGUSR1, None)
    trace.call("remove", loop.remove_signal_handler, signal.SIGUSR1)


@scenario
async def time_goes_on(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    times = [loop.time() for _ in range(100)]
    trace("sorted", times == sorted(times), type(times[0]).__name__)
    trace("monotonic", abs(loop.time() - time.monotonic()) < 1)


@scenario
async def debug_mode(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    for value in (True, False):
        loop.set_debug(value)
        trace(loop.get_debug())
    loop.set_debug(True)
    trace.call("soon", loop.call_soon, 7)
    trace.call("soon", loop.call_soon, settle)
    coroutine = settle()
    trace.call("soon", loop.call_soon, coroutine)
    trace.call("at", loop.call_at, 0, coroutine)
    trace.call("threadsafe", loop.call_soon_threadsafe, coroutine)
    trace.call("executor", loop.run_in_executor, None, coroutine)
    trace.call("executor", loop.run_in_executor, None, settle)
    trace.call("executor", loop.run_in_executor, None, 7)
    coroutine.close()
    trace("origin", sys.get_coroutine_origin_tracking_depth() > 0)
    loop.set_debug(False)
    await settle()
    trace("origin", sys.get_coroutine_origin_tracking_depth() > 0)


@scenario
async def not_in_debug_mode(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    trace.call("soon", _kind, loop.call_soon, 7)
    coroutine = settle()
    trace.call("soon", _kind, loop.call_soon, coroutine)
    await settle()
    coroutine.close()
    trace.call("later", loop.call_later, "x", print)


def _kind(function, *args):
    return type(function(*args)).__name__


@scenario
async def huge_deadlines(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    handles = []
    for delay in (1e9, 1e18, 1e300, float("inf"), 10**30):
        try:
            handles.append(loop.call_later(delay, trace, "never"))
        except Exception as exc:
            trace(f"{delay}", type(exc).__name__)
    try:
        handles.append(loop.call_at(2**70, trace, "never"))
    except Exception as exc:
        trace("int", type(exc).__name__)
    await settle()
    loop.call_later(-1e300, trace, "at once")
    loop.call_later(-float("inf"), trace, "at once")
    loop.call_later(True, trace, "not in this test").cancel()
    await asyncio.sleep(0.001)
    trace(len(handles), [handle.cancelled() for handle in handles])
    for handle in handles:
        handle.cancel()
