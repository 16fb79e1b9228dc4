"""Signals: handlers of the loop, handlers of Python, and KeyboardInterrupt at any point."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import threading
import time

import pytest

from ..support.loops import cancelled, finish, in_thread, run
from ..support.net import Echo, attach, pattern, recv_exactly, settle


def once_asleep(thread_id, action):
    """Call `action` in another thread when the thread `thread_id` waits in the kernel.

    No time is assumed: /proc says "S" when it sleeps.
    """

    def watch():
        stat = pathlib.Path(f"/proc/self/task/{thread_id}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            pass
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def loop(factory):
    made = factory()
    yield made
    finish(made)


def test_a_handler_runs_in_the_loop(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()

        def handler(value):
            assert asyncio.get_running_loop() is loop
            seen.set_result(value)

        loop.add_signal_handler(signal.SIGUSR1, handler, 5)
        thread = once_asleep(
            threading.get_native_id(), lambda: os.kill(os.getpid(), signal.SIGUSR1)
        )
        assert await seen == 5
        thread.join()
        assert loop.remove_signal_handler(signal.SIGUSR1) is True
        assert loop.remove_signal_handler(signal.SIGUSR1) is False
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(factory, main)


def test_each_of_many_signals_arrives(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        numbers = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGALRM + 100]
        numbers = numbers[:3]
        for number in numbers:
            loop.add_signal_handler(number, seen.append, number)
        for turn in range(1, 20):
            for number in numbers:
                signal.raise_signal(number)
            while len(seen) < 3 * turn:
                await settle(1)
            assert sorted(seen[-3:]) == sorted(numbers)
        for number in numbers:
            loop.remove_signal_handler(number)

    run(factory, main)


def test_a_handler_may_be_replaced_and_may_fail(factory):
    from ..support.loops import caught_errors

    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        def broken():
            raise ArithmeticError("handler")

        loop.add_signal_handler(signal.SIGUSR1, broken)
        with caught_errors() as errors:
            signal.raise_signal(signal.SIGUSR1)
            while not errors:
                await settle(1)
        assert isinstance(errors[0]["exception"], ArithmeticError)
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "replaced")
        signal.raise_signal(signal.SIGUSR1)
        while not seen:
            await settle(1)
        loop.remove_signal_handler(signal.SIGUSR1)

    run(factory, main)


def test_wrong_use_is_refused(factory):
    async def main():
        loop = asyncio.get_running_loop()

        async def coroutine():
            pass

        with pytest.raises(TypeError):
            loop.add_signal_handler(signal.SIGUSR1, coroutine)
        with pytest.raises(TypeError):
            loop.add_signal_handler("USR1", print)
        with pytest.raises(ValueError):
            loop.add_signal_handler(4711, print)
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, print)
        # After a refusal the loop has not kept the wake-up descriptor of the process.
        assert signal.set_wakeup_fd(-1) == -1

        def in_another_thread():
            other = factory()
            try:
                with pytest.raises((RuntimeError, ValueError)):
                    other.add_signal_handler(signal.SIGUSR1, print)
            finally:
                other.close()

        await in_thread(in_another_thread)

    run(factory, main)


def test_closing_gives_the_signals_back(factory):
    loop = factory()
    loop.add_signal_handler(signal.SIGUSR1, print)
    assert signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1, "the process would write to a descriptor of a closed loop"


def test_a_python_handler_runs_while_the_loop_is_idle(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()
        # Not the loop's handler: it runs because the wait was interrupted, and wakes the loop.
        before = signal.signal(
            signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(seen.set_result, "python")
        )
        try:
            thread = once_asleep(
                threading.get_native_id(), lambda: os.kill(os.getpid(), signal.SIGUSR1)
            )
            assert await seen == "python"
            thread.join()
        finally:
            signal.signal(signal.SIGUSR1, before)

    run(factory, main)


def test_signals_without_effect_do_not_end_a_wait(factory):
    """EINTR: the wait goes on to its time, and no timer runs early."""

    async def main():
        loop = asyncio.get_running_loop()
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        stop = threading.Event()

        def pester():
            while not stop.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)

        try:
            pestering = asyncio.ensure_future(in_thread(pester))
            for _ in range(10):
                due = loop.time() + 0.003
                await asyncio.sleep(0.003)
                assert loop.time() >= due - 1e-6
            stop.set()
            await pestering
        finally:
            stop.set()
            signal.signal(signal.SIGUSR1, before)

    run(factory, main)


def test_signals_amid_transfers_change_nothing(factory, pair):
    """EINTR in any system call of a transfer both ways: every byte once and in its place."""
    data = pattern(2_000_000)

    async def main():
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        stop = threading.Event()

        def pester():
            while not stop.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0)  # with the GIL held all the time the transfer would never end

        ours, peer = pair()
        try:
            transport = await attach(ours, Echo())
            pestering = asyncio.ensure_future(in_thread(pester))
            receiving = asyncio.ensure_future(in_thread(recv_exactly, peer, len(data)))
            await in_thread(peer.sendall, data)
            assert await receiving == data
            stop.set()
            await pestering
            transport.close()
            await settle()
            peer.close()
        finally:
            stop.set()
            signal.signal(signal.SIGUSR1, before)

    run(factory, main)


def test_an_exception_of_a_python_handler_leaves_the_idle_loop(factory, loop):
    class Alarm(Exception):
        pass

    def handler(*_):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        thread = once_asleep(
            threading.get_native_id(), lambda: os.kill(os.getpid(), signal.SIGUSR1)
        )
        with pytest.raises(Alarm):
            loop.run_forever()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    loop.run_until_complete(settle())  # still usable


def test_keyboard_interrupt_while_idle(loop):
    thread = once_asleep(threading.get_native_id(), interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    thread.join()
    assert not loop.is_running()
    loop.run_until_complete(settle())


def test_keyboard_interrupt_while_waiting_for_a_timer(loop):
    loop.call_later(3600, print)
    thread = once_asleep(threading.get_native_id(), interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(loop.create_future())
    thread.join()


def test_keyboard_interrupt_in_a_callback(loop):
    seen = []
    loop.call_soon(signal.raise_signal, signal.SIGINT)
    loop.call_soon(seen.append, "after")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    # What was behind it in the queue has not been lost.
    loop.run_until_complete(settle())
    assert seen == ["after"]


def test_keyboard_interrupt_in_a_task(loop):
    async def work():
        signal.raise_signal(signal.SIGINT)
        await loop.create_future()

    task = loop.create_task(work())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    assert task.done()
    with pytest.raises(KeyboardInterrupt):
        task.result()


def test_keyboard_interrupt_in_a_busy_loop(loop):
    """Never idle: the signal comes between two callbacks as often as inside one."""

    def again():
        loop.call_soon(again)

    again()
    for _ in range(20):
        thread = threading.Thread(target=interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.call_soon(thread.start)
            loop.run_forever()
        thread.join()


def test_the_runner_cancels_the_main_task(factory):
    """asyncio.Runner turns the first Ctrl-C into a cancellation of the main task."""
    seen = []

    async def main():
        thread = once_asleep(threading.get_native_id(), interrupt)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            await in_thread(thread.join)
            seen.append("tidied")

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert seen == ["cancelled", "tidied"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_runner_interrupts_a_task_that_waits_for_io(factory):
    from ..support.net import tcp_pair

    ours, peer = tcp_pair()

    async def main():
        loop = asyncio.get_running_loop()
        receiving = loop.create_task(loop.sock_recv(ours, 10))
        await settle()
        thread = once_asleep(threading.get_native_id(), interrupt)
        try:
            await receiving
        finally:
            await in_thread(thread.join)
            assert receiving.cancelled()

    with ours, peer:
        with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        peer.send(b"kept")
        ours.setblocking(True)
        assert ours.recv(10) == b"kept"


def test_a_loop_that_is_not_in_the_main_thread_hears_no_signal_but_runs(factory):
    def elsewhere():
        loop = factory()

        async def main():
            for _ in range(20):
                await settle(1)
            await cancelled(asyncio.create_task(asyncio.sleep(3600)))

        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        while thread.is_alive():
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
