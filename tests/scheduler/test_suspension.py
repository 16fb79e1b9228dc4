"""Steps are suspended in the middle and go on exactly where they were."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clearway.scheduler import _native, preemption
from clearway.scheduler.preemption import SUSPENDED_MAX, Scheduler

from .host import Host, run


def spin_until(done: Callable[[], Any]) -> None:
    while not done():
        pass


async def flag_soon(flags: list[Any], value: Any = True) -> None:
    flags.append(value)


def test_a_task_that_never_awaits_does_not_stop_another() -> None:
    async def main(host: Host) -> int:
        flags: list[bool] = []
        other = asyncio.create_task(flag_soon(flags))
        thread = threading.get_ident()
        # Without preemption nothing could ever set the flag.
        spin_until(lambda: flags)
        assert other.done()
        assert threading.get_ident() == thread
        return host._scheduler.suspensions

    assert run(main) >= 1


def test_timers_fire_while_a_step_computes() -> None:
    async def main(host: Host) -> None:
        fired: list[int] = []
        for i in range(5):
            host.call_later(0.001 * i, fired.append, i)
        spin_until(lambda: len(fired) == 5)
        assert fired == [0, 1, 2, 3, 4]

    run(main)


def test_io_is_served_while_a_step_computes() -> None:
    async def main(host: Host) -> None:
        echoed: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(4))
            await writer.drain()
            writer.close()

        async def client(port: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"ping")
            echoed.append(await reader.readexactly(4))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(client(port))
        spin_until(lambda: echoed)
        await task
        server.close()

    run(main)


def test_a_plain_callback_is_suspended_too() -> None:
    async def main(host: Host) -> None:
        done = host.create_future()
        flags: list[bool] = []

        def hog() -> None:
            assert asyncio.current_task() is None
            host.call_soon(flags.append, True)
            spin_until(lambda: flags)
            assert asyncio.current_task() is None
            done.set_result(None)

        host.call_soon(hog)
        await done

    run(main)


def test_current_task_context_and_exception_belong_to_the_step() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    async def main(host: Host) -> None:
        rounds = 6
        progress = [0, 0, 0]

        async def hog(number: int) -> None:
            me = asyncio.current_task()
            variable.set(f"value {number}")
            try:
                raise KeyError(number)
            except KeyError as error:
                for _ in range(rounds):
                    progress[number] += 1
                    # Wait for the others, so that all of them are suspended again and again.
                    spin_until(lambda: min(progress) >= progress[number])
                    assert asyncio.current_task() is me
                    assert asyncio.get_running_loop() is host
                    assert variable.get() == f"value {number}"
                    assert sys.exc_info()[1] is error
            assert sys.exc_info() == (None, None, None)

        await asyncio.gather(*(asyncio.create_task(hog(i)) for i in range(3)))
        assert host._scheduler.suspensions >= 3

    run(main)


def test_two_steps_show_the_same_list_at_once() -> None:
    """By what a thread is showing, CPython tells that a list contains itself."""

    class Slow:
        def __repr__(self) -> str:
            shown.append(1)
            spin_until(lambda: len(shown) >= 2)
            return "slow"

    shown: list[int] = []
    values: list[Any] = [Slow()]
    values.append(values)

    async def show() -> str:
        return repr(values)

    async def main(host: Host) -> list[str]:
        return await asyncio.gather(show(), show())

    assert run(main) == ["[slow, [...]]"] * 2


def test_a_generator_and_a_deep_stack_survive() -> None:
    async def main(host: Host) -> None:
        flags: list[int] = []

        async def set_flags() -> None:
            for i in range(3):
                flags.append(i)
                await asyncio.sleep(0)

        def deep(n: int) -> int:
            if n == 0:
                spin_until(lambda: len(flags) >= 1)
                return 0
            return 1 + deep(n - 1)

        def numbers() -> Any:
            for i in range(3):
                spin_until(lambda i=i: len(flags) > i)
                yield i

        asyncio.create_task(set_flags())
        assert deep(200) == 200
        assert list(numbers()) == [0, 1, 2]

    run(main)


def test_a_suspended_step_leaves_the_recursion_limit_to_others() -> None:
    async def main(host: Host) -> None:
        depths: list[int] = []

        def dive(n: int = 0) -> int:
            try:
                return dive(n + 1)
            except RecursionError:
                return n

        async def other() -> None:
            depths.append(dive())

        def hog(n: int) -> None:
            if n:
                hog(n - 1)
            else:
                spin_until(lambda: depths)

        asyncio.create_task(other())
        hog(700)
        # Were the runner started from the hog, 300 calls would be left.
        assert depths[0] > 800

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_nest() -> None:
    async def main(host: Host) -> None:
        host.set_task_factory(asyncio.eager_task_factory)
        flags: list[bool] = []
        outer = asyncio.current_task()

        async def eager() -> None:
            me = asyncio.current_task()
            assert me is not outer
            spin_until(lambda: flags)
            assert asyncio.current_task() is me

        host.call_soon(flags.append, True)
        task = asyncio.create_task(eager())
        assert task.done()
        assert asyncio.current_task() is outer
        await task

    run(main)


def test_an_exception_out_of_a_resumed_step_reaches_its_task() -> None:
    async def main(host: Host) -> None:
        flags: list[bool] = []

        async def hog() -> None:
            spin_until(lambda: flags)
            raise ValueError("after the suspension")

        task = asyncio.create_task(hog())
        await asyncio.sleep(0)
        asyncio.create_task(flag_soon(flags))
        with pytest.raises(ValueError, match="after the suspension"):
            await task

    run(main)


def test_no_more_than_the_cap_are_suspended_and_the_rest_still_finish() -> None:
    async def main(host: Host) -> None:
        seen: set[int] = set()
        scheduler = host._scheduler

        async def hog() -> None:
            # Until the cap is reached nobody finishes; then all do.
            while SUSPENDED_MAX not in seen or not scheduler.declined[1]:
                seen.add(len(scheduler.suspended_steps()))

        await asyncio.gather(*(asyncio.create_task(hog()) for _ in range(SUSPENDED_MAX + 6)))
        assert max(seen) == SUSPENDED_MAX
        assert scheduler.declined[1] > 0
        assert scheduler.statistics().runners <= SUSPENDED_MAX + 1

    run(main, quantum=0.0005)


def test_runners_are_used_again() -> None:
    async def main(host: Host) -> int:
        for _ in range(30):
            flags: list[bool] = []
            asyncio.create_task(flag_soon(flags))
            spin_until(lambda flags=flags: flags)
        assert host._scheduler.suspensions >= 30
        return int(host._scheduler.statistics().runners)

    assert run(main, quantum=0.0005) <= 3


def test_stop_leaves_a_suspended_step_where_it_is_and_the_next_run_goes_on_with_it() -> None:
    host = Host(mode="on", quantum=0.001)
    flags: list[Any] = []

    async def hog() -> str:
        host.call_soon(host.stop)
        spin_until(lambda: "go" in flags)
        return "done"

    try:
        task = host.create_task(hog())
        host.run_forever()
        assert not task.done()
        assert [entry.task for entry in host._scheduler.suspended_steps()] == [task]
        flags.append("go")
        assert host.run_until_complete(task) == "done"
    finally:
        host.close()


def test_close_cancels_suspended_steps_in_order_and_names_those_that_ignore_it() -> None:
    host = Host(mode="on", quantum=0.001)
    order: list[str] = []

    async def obedient(name: str) -> None:
        try:
            spin_until(lambda: False)
        except asyncio.CancelledError:
            order.append(name)
            raise

    async def stubborn() -> None:
        while True:
            try:
                spin_until(lambda: False)
            except asyncio.CancelledError:
                order.append("stubborn")

    async def main() -> None:
        tasks = [
            host.create_task(obedient("first"), name="first"),
            host.create_task(stubborn(), name="stubborn"),
            host.create_task(obedient("second"), name="second"),
        ]
        while len(host._scheduler.suspended_steps()) < 3:
            await asyncio.sleep(0)
        del tasks

    host.run_until_complete(main())
    host.close()
    assert order == ["first", "stubborn", "second"]
    assert host.ignored == ["stubborn"]


def test_keyboard_interrupt_in_a_hog_ends_the_run() -> None:
    host = Host(mode="on", quantum=0.001)

    async def main() -> None:
        flags: list[bool] = []
        host.call_soon(flags.append, True)
        spin_until(lambda: flags)
        signal.raise_signal(signal.SIGINT)
        spin_until(lambda: False)

    task = host.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        host.run_until_complete(task)
    assert not host._scheduler.clock.word & 1
    task.exception()
    host.close()


def test_off_and_report_never_suspend_and_send_nothing() -> None:
    for mode in ("off", "report"):

        async def main(host: Host) -> None:
            host.call_soon(lambda: None)
            for _ in range(300_000):
                pass
            assert host._scheduler.suspensions == 0
            assert host._scheduler.clock.kicks == (0, 0)
            assert not _native.kick_is_installed()

        run(main, mode=mode, quantum=0.0005)


def test_io_mode_runs_nobody_else_but_takes_in_what_arrives() -> None:
    async def main(host: Host) -> None:
        flags: list[bool] = []
        calls: list[bool] = []
        host.flush = lambda: calls.append(True)  # type: ignore[method-assign]
        host.call_soon(flags.append, True)
        spin_until(lambda: len(calls) >= 3)
        assert not flags
        assert host._scheduler.suspensions == 0

    run(main, mode="io")


def test_on_is_refused_outside_the_main_thread_and_report_works() -> None:
    outcome: list[Any] = []

    def thread() -> None:
        async def main(host: Host) -> str:
            return "ran"

        with pytest.raises(RuntimeError, match="main thread"):
            host = Host(mode="on")
            try:
                host.run_forever()
            finally:
                host.close()
        outcome.append(run(main, mode="report"))

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    assert outcome == ["ran"]


def test_on_is_refused_uncompiled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preemption.is_compiled()
    monkeypatch.setattr(_native, "__file__", "_native.py")
    with pytest.raises(RuntimeError, match="compiled"):
        Scheduler("on").check()
    Scheduler("report").check()


def test_everything_is_put_back_after_a_run() -> None:
    before = (
        signal.getsignal(preemption.VIRTUAL_SIGNAL),
        threading._CRLock,  # type: ignore[attr-defined]
    )

    async def main(host: Host) -> None:
        assert _native.kick_is_installed()
        assert threading._CRLock is not before[1]  # type: ignore[attr-defined]

    run(main)
    assert not _native.kick_is_installed()
    assert (
        signal.getsignal(preemption.VIRTUAL_SIGNAL),
        threading._CRLock,  # type: ignore[attr-defined]
    ) == before


def test_wake_ups_of_the_interpreter_by_our_own_kick_are_no_work() -> None:
    async def main(host: Host) -> None:
        scheduler = host._scheduler
        # Alone: every kick must find that nobody waits, although CPython writes each to the wake-up fd.
        spin_until(lambda: scheduler.declined[0] >= 5)
        assert scheduler.suspensions == 0

    run(main, quantum=0.0005)


def test_what_the_loop_did_is_in_the_statistics() -> None:
    async def main(host: Host) -> None:
        flags: list[bool] = []
        asyncio.create_task(flag_soon(flags))
        spin_until(lambda: flags)
        figures = host._scheduler.statistics()
        assert figures.mode == "on"
        assert figures.policy == "fair"
        assert figures.suspensions >= 1
        assert figures.resumes >= 1
        assert figures.kicks_soft + figures.kicks_hard >= figures.suspensions
        assert figures.longest_step > 0
        assert figures.latency_p50 <= figures.latency_p99 <= figures.latency_max

    run(main)
