"""Tasks, runners and what asyncio builds on a loop: each is asyncio's own, and must behave on ours as on its own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import warnings

import pytest

from ...support.net import settle
from .harness import Scenarios, Trace, compare, same_kind

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


async def value(result):
    await asyncio.sleep(0)
    return result


async def fail(text="failed"):
    await asyncio.sleep(0)
    raise ArithmeticError(text)


@scenario
async def eager_tasks(trace: Trace) -> None:
    if sys.version_info < (3, 12):
        return
    loop = asyncio.get_running_loop()

    async def eager(label, awaits):
        trace("begins", label, asyncio.current_task().get_name())  # type: ignore[union-attr]
        if awaits:
            await asyncio.sleep(0)
        trace("ends", label, asyncio.current_task().get_name())  # type: ignore[union-attr]
        return label

    async def outer():
        trace("outer", asyncio.current_task().get_name())  # type: ignore[union-attr]
        task = asyncio.create_task(eager("inner", False), name="inner")
        trace("after", asyncio.current_task().get_name(), task.done())  # type: ignore[union-attr]
        return await task

    loop.set_task_factory(asyncio.eager_task_factory)
    for awaits in (False, True):
        task = loop.create_task(eager("one", awaits), name="one")
        trace("made", task.done(), task in asyncio.all_tasks())
        trace(await task)
    await trace.wait("outer", loop.create_task(outer(), name="outer"))
    task = loop.create_task(_raise_now())
    trace("raised", task.done())
    await trace.wait("raised", task)
    task = loop.create_task(eager("cancelled", True))
    task.cancel()
    await trace.wait("cancelled", task)
    async with asyncio.TaskGroup() as group:
        group.create_task(eager("in a group", False))
        group.create_task(eager("in a group", True))
    trace(await asyncio.gather(eager("a", False), eager("b", True)))
    context = contextvars.copy_context()
    trace(await loop.create_task(eager("context", False), context=context))
    loop.set_task_factory(None)
    own = asyncio.create_eager_task_factory(lambda coro, **options: asyncio.Task(coro, **options))
    loop.set_task_factory(own)
    trace(await loop.create_task(eager("own", False)))
    loop.set_task_factory(None)


async def _raise_now():
    raise ArithmeticError("at once")


@scenario
async def introspection(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    trace("running", asyncio.get_running_loop() is loop, asyncio.get_event_loop() is loop)
    me = asyncio.current_task()
    task = asyncio.create_task(asyncio.sleep(3600), name="sleeper")
    trace(task in asyncio.all_tasks(), me in asyncio.all_tasks(), len(asyncio.all_tasks()))
    trace(task.get_loop() is loop, task.get_name(), task.get_coro().__name__)
    await settle()
    trace(repr(task).startswith("<Task pending name='sleeper'"))
    trace([frame.f_code.co_name for frame in task.get_stack()])
    seen = []
    loop.call_soon(lambda: seen.append(asyncio.current_task()))
    await settle()
    trace("in a callback", seen)
    task.cancel()
    await trace.wait("cancelled", task)
    trace(task in asyncio.all_tasks(), repr(task)[:16])


@scenario
async def groups_and_timeouts(trace: Trace) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(value(n)) for n in range(3)]
    trace([task.result() for task in tasks])
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("one"))
            group.create_task(fail("two"))
            sleeper = group.create_task(asyncio.sleep(3600))
    except BaseExceptionGroup as exc:
        trace(exc, sleeper.cancelled())
    try:
        async with asyncio.timeout(0) as limit:
            await asyncio.sleep(3600)
    except TimeoutError as exc:
        trace(exc, limit.expired())
    async with asyncio.timeout(None) as limit:
        limit.reschedule(asyncio.get_running_loop().time() + 3600)
        trace("when", limit.when() is not None)
    async with asyncio.timeout_at(asyncio.get_running_loop().time() + 3600):
        pass
    for seconds in (0, -1, 0.001, None):
        await trace.wait(f"wait_for {seconds}", asyncio.wait_for(value(5), seconds))
    await trace.wait("wait_for", asyncio.wait_for(asyncio.sleep(3600), 0.001))
    await trace.wait("wait_for", asyncio.wait_for(fail(), 3600))
    task = asyncio.create_task(asyncio.sleep(3600))
    done, pending = await asyncio.wait({task}, timeout=0)
    trace(len(done), len(pending))
    task.cancel()
    await trace.wait("shield", _shielded())
    results = []
    for future in asyncio.as_completed([value(1), value(2)]):
        results.append(await future)
    trace(sorted(results))


async def _shielded():
    inner = asyncio.ensure_future(value(7))
    outer = asyncio.ensure_future(asyncio.shield(inner))
    await asyncio.sleep(0)
    outer.cancel()
    try:
        await outer
    except asyncio.CancelledError:
        return await inner


@scenario
async def synchronisation(trace: Trace) -> None:
    barrier = asyncio.Barrier(3)

    async def arrive(number):
        await asyncio.sleep(0)
        position = await barrier.wait()
        trace("through", number, position)

    await asyncio.gather(*(arrive(n) for n in range(3)))
    waiting = asyncio.ensure_future(arrive(9))
    await settle()
    await barrier.abort()
    await trace.wait("broken", waiting)
    await barrier.reset()
    trace(barrier.broken, barrier.n_waiting, barrier.parties)
    lock = asyncio.Lock()
    condition = asyncio.Condition(lock)
    order = []

    async def waiter(number):
        async with condition:
            await condition.wait()
            order.append(number)

    waiters = [asyncio.ensure_future(waiter(n)) for n in range(4)]
    await settle()
    waiters[1].cancel()
    async with condition:
        condition.notify(2)
    await settle()
    async with condition:
        condition.notify_all()
    trace(await asyncio.gather(*waiters, return_exceptions=True), order)
    semaphore = asyncio.BoundedSemaphore(1)
    await semaphore.acquire()
    second = asyncio.ensure_future(semaphore.acquire())
    await settle()
    semaphore.release()
    trace(await second)
    semaphore.release()
    trace.call("too often", semaphore.release)
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    putting = asyncio.ensure_future(_put_all(queue, 3))
    trace([await queue.get() for _ in range(3)])
    await putting
    trace.call("empty", queue.get_nowait)
    if sys.version_info >= (3, 13):
        getting = asyncio.ensure_future(queue.get())
        await settle()
        queue.shutdown()
        await trace.wait("shut down", getting)
        await trace.wait("shut down", queue.put(1))


async def _put_all(queue, count):
    for number in range(count):
        await queue.put(number)


@scenario
async def runners(trace: Trace) -> None:
    make = same_kind()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    async def first():
        var.set("first")
        return asyncio.get_running_loop().get_debug()

    async def second():
        return var.get()

    async def leave_behind():
        async def wait():
            try:
                await asyncio.sleep(3600)
            finally:
                trace("cancelled at the end")

        waiting.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)

    waiting: list = []

    def in_thread():
        with asyncio.Runner(debug=True, loop_factory=make) as runner:
            trace(runner.run(first()), runner.run(second()))
            trace.call("fail", runner.run, fail())
            trace.call("no coroutine", runner.run, 7)
            trace("loop", type(runner.get_loop()) is type(make_one))
        trace.call("closed", _closed_run, runner)
        if sys.version_info >= (3, 12):
            trace(asyncio.run(value(8), loop_factory=make))
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(leave_behind())
        trace(waiting[0].cancelled())

    make_one = make()
    make_one.close()
    await asyncio.to_thread(in_thread)
    coroutine = value(1)
    trace.call("inside", asyncio.run, coroutine)
    coroutine.close()


def _closed_run(runner):
    coroutine = value(1)
    try:
        runner.run(coroutine)
    finally:
        coroutine.close()


@scenario
async def task_factories(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    class Own(asyncio.Task):
        def __init__(self, *args, **kwargs):
            trace("own", sorted(kwargs))
            super().__init__(*args, **kwargs)

    loop.set_task_factory(lambda loop, coro, **kwargs: Own(coro, loop=loop, **kwargs))
    task = loop.create_task(value(3), name="named")
    trace(type(task).__name__, task.get_name(), await task)
    trace(await asyncio.create_task(value(4), context=contextvars.copy_context()))
    trace(await asyncio.gather(value(5), value(6)))
    loop.set_task_factory(lambda loop, coro: asyncio.ensure_future(_wrap(coro), loop=loop))
    loop.set_task_factory(None)
    trace(loop.get_task_factory())


async def _wrap(coro):
    return await coro


@scenario
async def unretrieved_exceptions(trace: Trace) -> None:
    import gc

    task = asyncio.create_task(fail())
    await settle()
    del task
    gc.collect()
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ArithmeticError("nobody asks"))
    del future
    gc.collect()
    task = asyncio.create_task(asyncio.sleep(3600))
    await settle()
    task.cancel()
    await settle()
    del task
    gc.collect()


@scenario
async def cancellation_counts(trace: Trace) -> None:
    async def stubborn():
        me = asyncio.current_task()
        assert me is not None
        for _ in range(2):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError as exc:
                trace("cancelled", exc.args, me.cancelling())
        trace(me.uncancel(), me.uncancel(), me.uncancel())
        return "done"

    task = asyncio.create_task(stubborn())
    await settle()
    trace(task.cancel("why"))
    await settle()
    trace(task.cancel())
    await trace.wait("result", task)
    trace(task.cancel(), task.cancelled())


@scenario
async def child_watchers(trace: Trace) -> None:
    if sys.version_info >= (3, 14):
        return
    warnings.simplefilter("ignore", DeprecationWarning)
    policy = asyncio.get_event_loop_policy()
    before = getattr(policy, "_watcher", None)
    loop = asyncio.get_running_loop()
    try:
        for kind in (
            asyncio.ThreadedChildWatcher,
            asyncio.PidfdChildWatcher,
            asyncio.SafeChildWatcher,
            asyncio.FastChildWatcher,
            asyncio.MultiLoopChildWatcher,
        ):
            watcher = kind()
            watcher.attach_loop(loop)
            asyncio.set_child_watcher(watcher)
            trace(kind.__name__, asyncio.get_child_watcher() is watcher, watcher.is_active())
            # The children end when they are let: asyncio's own watchers may lose one that ends while it is being added.
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", "read line; exit 3", stdin=asyncio.subprocess.PIPE
            )
            process.stdin.close()
            trace("status", await process.wait())
            done = loop.create_future()

            def report(pid, status, *args, done=done):
                loop.call_soon_threadsafe(done.set_result, (status, args))

            theirs, ours = os.pipe()
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", "read line; exit 4"],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)],
            )
            os.close(theirs)
            with watcher:
                watcher.add_child_handler(pid, report, 1, 2)
            os.close(ours)
            trace("handler", await done)
            trace("remove", watcher.remove_child_handler(pid))
            watcher.close()
            asyncio.set_child_watcher(None)
    finally:
        policy._watcher = before
    trace("handler", signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL)


@scenario
async def a_sigchld_handler_of_the_program(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()

    def child():
        seen.set()

    loop.add_signal_handler(signal.SIGCHLD, child)
    process = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
    trace(await process.wait())
    await seen.wait()
    seen.clear()
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    await seen.wait()
    trace(os.waitpid(pid, 0)[1])
    trace(loop.remove_signal_handler(signal.SIGCHLD))


@scenario
async def streams_over_tasks(trace: Trace) -> None:
    def handler(reader, writer):  # a plain function is a handler too
        trace("plain")
        writer.close()

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    trace(await reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()

    async def failing(reader, writer):
        raise ArithmeticError("handler")

    server = await asyncio.start_server(failing, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await trace.wait("read", reader.read())
    writer.close()
    await trace.wait("closed", writer.wait_closed())
    server.close()
    await settle()


@scenario
async def stream_limits(trace: Trace) -> None:
    async def send(reader, writer):
        writer.write(b"short\n" + b"x" * 100 + b"\nafter")
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(send, "127.0.0.1", 0)
    for how in (
        lambda r: r.readline(),
        lambda r: r.readuntil(b"\n"),
        lambda r: r.readexactly(1000),
        lambda r: r.read(3),
        lambda r: r.readexactly(0),
        lambda r: r.readexactly(-1),
    ):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=50)
        trace(repr(reader).startswith("<StreamReader"), reader.at_eof())
        await trace.wait("one", how(reader))
        await trace.wait("two", how(reader))
        await trace.wait("rest", reader.read())
        trace(reader.at_eof())
        trace("info", writer.get_extra_info("peername") == server.sockets[0].getsockname())
        writer.close()
        await trace.wait("closed", writer.wait_closed())
        await trace.wait("drain", writer.drain())
    server.close()
    await server.wait_closed()
