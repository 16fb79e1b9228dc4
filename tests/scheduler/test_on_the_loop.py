"""The scheduler on clearway's own loop, on both engines."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import clearway
from clearway.scheduler import domains
from clearway.scheduler._native import monitor_state
from clearway.scheduler.policies import Priority


@pytest.fixture(params=["epoll", "uring"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    def runner(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
        options.setdefault("preempt", "on")
        options.setdefault("quantum", 0.001)
        loop = clearway.new_event_loop(engine=request.param, **options)
        with asyncio.Runner(loop_factory=lambda: loop) as asyncio_runner:
            return asyncio_runner.run(main)

    try:
        clearway.new_event_loop(engine=request.param).close()
    except OSError as error:
        pytest.skip(f"engine {request.param} is refused here: {error}")
    yield runner


def spin_until(done: Callable[[], Any]) -> None:
    while not done():
        pass


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.mark.parametrize("kind", ["descriptor", "timer"])
def test_many_steps_that_overrun_do_not_hold_up_what_arrives_behind_them(
    run: Callable[..., Any], kind: str
) -> None:
    quantum = 0.02
    many = 16
    used: list[float] = []
    arrived = 0.0

    async def main() -> None:
        nonlocal arrived
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        served: list[None] = []

        def serve() -> None:
            served.append(None)
            used.append(time.thread_time() - arrived)

        async def hog(number: int) -> None:
            nonlocal arrived
            if number == 0:
                arrived = time.thread_time()
                if kind == "descriptor":
                    peer.send(b"x")
                else:
                    loop.call_later(0, serve)
            spin_until(lambda: served)

        def receive() -> None:
            ours.recv(1)
            serve()

        loop.add_reader(ours, receive)
        await asyncio.gather(*(hog(number) for number in range(many)))
        loop.remove_reader(ours)
        ours.close()
        peer.close()

    run(main(), quantum=quantum)
    # CPU time of this thread. Half of them for a whole quantum each would be more than this.
    assert used[0] < many / 2 * quantum


def test_a_client_is_served_beside_hogs(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        stop: list[bool] = []

        def client() -> None:
            with socket.create_connection(address) as sock:
                for number in range(20):
                    sock.sendall(b"%04d" % number)
                    assert sock.recv(4) == b"%04d" % number
            stop.append(True)

        async def hog() -> None:
            spin_until(lambda: stop)

        thread = threading.Thread(target=client)
        thread.start()
        await asyncio.gather(*(asyncio.create_task(hog()) for _ in range(4)))
        thread.join()
        server.close()

    run(main())


def test_a_protocol_callback_is_suspended(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        flags: list[bool] = []
        got: list[bytes] = []
        done = loop.create_future()

        class Slow(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                loop.call_soon(flags.append, True)
                spin_until(lambda: flags)
                got.append(data)
                if sum(map(len, got)) == 6:
                    done.set_result(None)

        left, right = socket.socketpair()
        right.sendall(b"first")
        transport, _ = await loop.create_connection(Slow, sock=left)
        right.sendall(b"!")
        await done
        assert b"".join(got) == b"first!"
        transport.close()
        right.close()

    run(main())


def test_blocking_calls_wait_together(run: Callable[..., Any]) -> None:
    async def main() -> None:
        begun: list[int] = []
        lock = threading.Lock()
        lock.acquire()

        async def sleeper(number: int) -> None:
            begun.append(number)
            time.sleep(0.02)

        async def waiter() -> None:
            lock.acquire()

        async def release() -> None:
            await asyncio.sleep(0.001)
            lock.release()

        tasks = [asyncio.create_task(waiter())]
        tasks += [asyncio.create_task(sleeper(i)) for i in range(3)]
        tasks.append(asyncio.create_task(release()))
        await asyncio.gather(*tasks)
        assert begun == [0, 1, 2]

    run(main())


def test_the_monitor_sleeps_while_the_loop_is_idle(run: Callable[..., Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        clock = loop._scheduler.clock  # type: ignore[attr-defined]
        asked = threading.Event()
        woken: list[int] = []

        def watch() -> None:
            word = -1
            while word != clock.word:  # else the loop was not idle all the time: once more
                while not clock.parked:
                    asked.wait(0.001)
                word = clock.word
                before = monitor_state()[1]
                # Were it awake it would look 4,000 times a second.
                asked.wait(0.05)
                woken.append(monitor_state()[1] - before)
            loop.call_soon_threadsafe(over.set_result, None)

        over = loop.create_future()
        thread = threading.Thread(target=watch)
        thread.start()
        await over
        thread.join()
        assert woken[-1] <= 2
        # And it is awake as soon as there is something to see.
        others: list[bool] = []
        loop.call_soon(others.append, True)
        spin_until(lambda: others)

    run(main())


def test_a_domain_is_kept_and_nothing_held_back_is_forgotten(run: Callable[..., Any]) -> None:
    async def main() -> None:
        order: list[str] = []
        ticks: list[bool] = []

        async def inside(name: str, until: int) -> None:
            order.append(f"{name} begins")
            spin_until(lambda: len(ticks) >= until)
            order.append(f"{name} ends")

        async def ticker() -> None:
            for _ in range(3):
                await asyncio.sleep(0.001)
                ticks.append(True)

        with domains.domain("one"):
            tasks = [asyncio.create_task(inside(*args)) for args in (("a", 1), ("b", 3), ("c", 3))]
        await asyncio.gather(*tasks, asyncio.create_task(ticker()))
        assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]

    run(main())


def test_an_urgent_step_goes_before_hogs_that_became_ready_earlier(run: Callable[..., Any]) -> None:
    async def main() -> None:
        order: list[str] = []

        async def low(number: int) -> None:
            spin_until(lambda: "urgent" in order)
            order.append(f"low {number}")

        async def urgent() -> None:
            order.append("urgent")

        def start(coroutine: Any, priority: int) -> asyncio.Task[None]:
            context = contextvars.copy_context()
            domains.prepare_context(context, priority=priority)
            return asyncio.create_task(coroutine, context=context)

        tasks = [start(low(number), 0) for number in range(5)]
        tasks.append(start(urgent(), 1))
        await asyncio.gather(*tasks)
        # One of them is being suspended when the urgent one is chosen; a second one would be too many.
        scheduler = asyncio.get_running_loop()._scheduler  # type: ignore[attr-defined]
        assert scheduler.suspensions <= 2
        assert order[0] == "urgent"

    run(main(), policy=Priority(guarantee=1000), quantum=0.01)


def test_suspensions_leave_nothing_behind(run: Callable[..., Any]) -> None:
    async def main() -> None:
        scheduler = asyncio.get_running_loop()._scheduler  # type: ignore[attr-defined]
        blocks: list[int] = []

        async def hog() -> None:
            while len(blocks) < 5:
                scheduler.trip()
                for _ in range(3):
                    pass
                if scheduler.suspensions >= 1000 * (len(blocks) + 1):
                    blocks.append(sys.getallocatedblocks())

        await asyncio.gather(hog(), hog())
        # The first thousand fills caches and pools; after that a block in a hundred suspensions would be a leak.
        assert blocks[-1] - blocks[0] < 40, blocks

    run(main())


def test_hard_timeout_on_the_loop(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with clearway.hard_timeout(0.01):
                spin_until(lambda: False)

    for mode in ("off", "report", "io", "on"):
        run(main(), preempt=mode)
