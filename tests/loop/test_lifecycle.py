"""The life of a loop: run, stop, run again elsewhere, close, fork."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import socket
import sys
import threading
import traceback
import tracemalloc

import pytest

from ..support.loops import cancelled, descriptors, no_descriptor_left, run
from ..support.net import Echo, Recorder, attach, closed, settle, tcp_pair


@pytest.fixture
def loop(factory):
    made = factory()
    yield made
    if not made.is_running():
        made.close()


@pytest.fixture
def loop_of_any_thread(factory):
    """Steps can be suspended in the main thread only, so not in the mode that the environment asks for."""
    made = factory(preempt="report")
    yield made
    if not made.is_running():
        made.close()


def test_run_until_complete_gives_the_result_or_raises(loop):
    async def give():
        await asyncio.sleep(0)
        return 42

    async def fail():
        raise KeyError("missing")

    assert loop.run_until_complete(give()) == 42
    with pytest.raises(KeyError, match="missing"):
        loop.run_until_complete(fail())
    future = loop.create_future()
    loop.call_soon(future.set_result, "by future")
    assert loop.run_until_complete(future) == "by future"


def test_states(loop):
    assert not loop.is_running() and not loop.is_closed()

    async def inside():
        assert loop.is_running() and asyncio.get_running_loop() is loop

    loop.run_until_complete(inside())
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert "closed=True" in repr(loop)


def test_stop_ends_run_forever_after_this_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "next turn")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(seen.append, "same turn")
    loop.run_forever()
    assert seen == ["first", "same turn"]
    loop.stop()  # before a run: one turn
    loop.run_forever()
    assert seen == ["first", "same turn", "next turn"]


def test_stop_before_the_end_of_run_until_complete(loop):
    async def endless():
        loop.stop()
        await loop.create_future()

    task = loop.create_task(endless())
    with pytest.raises(RuntimeError, match="stopped"):
        loop.run_until_complete(task)
    loop.run_until_complete(cancelled(task))


def test_stop_from_another_thread_wakes_the_loop(loop):
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def test_a_closed_loop_refuses_work(loop):
    async def nothing():
        pass

    loop.close()
    for refused in (
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.run_forever(),
        lambda: loop.run_until_complete(loop.create_future()),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            refused()
    coro = nothing()
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coro)
    coro.close()
    with socket.socket() as sock, pytest.raises((RuntimeError, ValueError, OSError)):
        loop.add_reader(sock, print)


def test_a_running_loop_cannot_be_closed_or_run_again(factory, loop):
    async def inside():
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        # asyncio of 3.13.0, having refused, forgets that it is running (its clean-up runs as well).
        if factory.is_clearway or sys.version_info < (3, 13):
            with pytest.raises(RuntimeError, match="running"):
                loop.run_forever()
        coro = settle()
        other = factory()
        try:
            with pytest.raises(RuntimeError, match="running"):
                other.run_until_complete(coro)
        finally:
            coro.close()
            other.close()
        assert asyncio.get_running_loop() is loop

    loop.run_until_complete(inside())


def test_a_future_of_another_loop_is_refused(factory, loop):
    other = factory()
    future = other.create_future()
    with pytest.raises(ValueError, match="loop"):
        loop.run_until_complete(future)
    other.close()


def test_closing_with_everything_open_leaves_no_descriptor(factory):
    """No tidy shutdown at all: what the loop made, its close() gives back."""
    factory.warm()
    with no_descriptor_left():
        loop = factory()

        async def open_everything():
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            pending = loop.create_task(asyncio.sleep(3600))
            loop.call_later(3600, print)
            return server, pending

        server, pending = loop.run_until_complete(open_everything())
        server.close()
        pending.cancel()
        loop.run_until_complete(settle())
        loop.close()


def test_callbacks_left_at_close_are_dropped(factory):
    import weakref

    class Thing:
        def call(self):
            raise AssertionError("called by a closed loop")

    loop = factory()
    thing = Thing()
    ref = weakref.ref(thing)
    loop.call_soon(thing.call)
    loop.call_later(3600, thing.call)
    loop.close()
    del thing, loop
    gc.collect()
    assert ref() is None


def test_connections_live_on_when_another_thread_runs_the_loop(loop_of_any_thread):
    """A ring belongs to the thread that made it: the hand-over must take every receive along."""
    loop = loop_of_any_thread
    state = {}

    async def connect():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        protocols = [Recorder() for _ in range(5)]
        transports = []
        for protocol in protocols:
            transport, _ = await loop.create_connection(
                lambda protocol=protocol: protocol, *server.sockets[0].getsockname()
            )
            transports.append(transport)
        state.update(server=server, protocols=protocols, transports=transports, sent=0)

    async def talk():
        state["sent"] += 5
        for transport, protocol in zip(state["transports"], state["protocols"], strict=True):
            transport.write(b"hello")
            await protocol.until_received(state["sent"])
        return threading.get_ident()

    async def disconnect():
        for transport, protocol in zip(state["transports"], state["protocols"], strict=True):
            await closed(transport, protocol)
        state["server"].close()
        await state["server"].wait_closed()
        await settle()

    def elsewhere(main):
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(loop.run_until_complete, main()).result(20)

    loop.run_until_complete(connect())
    assert loop.run_until_complete(talk()) == threading.get_ident()
    idents = {elsewhere(talk) for _ in range(3)}
    assert threading.get_ident() not in idents
    assert loop.run_until_complete(talk()) == threading.get_ident()
    elsewhere(talk)
    elsewhere(disconnect)


def test_what_arrives_between_two_threads_is_delivered(loop_of_any_thread):
    loop = loop_of_any_thread
    state = {}

    async def begin():
        ours, peer = tcp_pair()
        protocol = Recorder()
        state.update(peer=peer, protocol=protocol, transport=await attach(ours, protocol))
        ours, peer = tcp_pair()
        state.update(ours=ours, other=peer)
        state["waiting"] = loop.create_task(loop.sock_recv(ours, 100))
        await settle()
        state["peer"].sendall(b"one,")

    async def go_on():
        await state["protocol"].until_received(8)
        assert await state["waiting"] == b"waited"
        state["transport"].write(b"answer")
        await closed(state["transport"], state["protocol"])

    loop.run_until_complete(begin())
    state["peer"].sendall(b"two,")
    state["other"].sendall(b"waited")
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(loop.run_until_complete, go_on()).result(20)
    assert state["protocol"].data == b"one,two,"
    assert state["peer"].recv(10) == b"answer"
    for name in ("peer", "other", "ours"):
        state[name].close()


def test_loops_in_many_threads_at_once(factory):
    def one(number):
        async def main():
            loop = asyncio.get_running_loop()
            async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
                protocol = Recorder()
                transport, _ = await loop.create_connection(
                    lambda: protocol, *server.sockets[0].getsockname()
                )
                for turn in range(1, 50):
                    transport.write(b"%04d" % number)
                    await protocol.until_received(4 * turn)
                await closed(transport, protocol)
            await settle()
            return bytes(protocol.data)

        loop = factory(preempt="report")
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    with no_descriptor_left(), concurrent.futures.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(one, range(16)))
    assert results == [b"%04d" % number * 49 for number in range(16)]


@pytest.mark.limit(60)
def test_a_thousand_loops_leak_nothing(factory):
    """No descriptor, no mapping, no byte.

    No stall is reported meanwhile, however busy the machine: the report is made by a thread, and keeps the lines it
    quotes; and while that thread's allocations have set off a collection, ``gc.collect()`` of another does nothing.
    """

    def one():
        loop = factory(report_after=3600)

        async def main():
            ours, peer = socket.socketpair()
            ours.setblocking(False)
            protocol = Recorder()
            transport = await attach(ours, protocol)
            peer.send(b"x")
            await protocol.until_received(1)
            with peer:
                await closed(transport, protocol)

        loop.run_until_complete(main())
        loop.close()

    def resident_kib():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def mappings():
        with open("/proc/self/maps") as maps:
            return len(maps.readlines())

    for _ in range(50):
        one()
    gc.collect()
    before = len(descriptors()), mappings(), resident_kib()
    for _ in range(900):
        one()
    gc.collect()
    assert len(descriptors()) == before[0]
    # The allocator may split or add an arena; a leak of one per loop would be 900.
    assert mappings() <= before[1] + 30
    assert resident_kib() <= before[2] + 4096, "more than 4 KiB per loop"

    tracemalloc.start()
    try:
        for _ in range(10):
            one()
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            one()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - traced
    finally:
        tracemalloc.stop()
    assert grown < 100 * 100, f"{grown} bytes of Python objects kept by 100 loops"


def test_loops_that_were_never_run_leak_nothing(factory):
    factory.warm()
    with no_descriptor_left():
        for _ in range(50):
            factory().close()


def in_child(function):
    """Fork; run `function` in the child; its exception fails the test in the parent."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                function()
            except BaseException:
                os.write(writing, traceback.format_exc().encode()[-3000:])
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    while part := os.read(reading, 65_536):
        said += part
    os.close(reading)
    os.waitpid(pid, 0)
    assert not said, said.decode()


def test_a_forked_child_can_run_a_loop_of_its_own(factory, loop):
    async def talk():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        peer.send(b"x")
        await protocol.until_received(1)
        with peer:
            await closed(transport, protocol)

    def child():
        own = factory()
        own.run_until_complete(talk())
        own.close()

    loop.run_until_complete(talk())
    in_child(child)
    loop.run_until_complete(talk())


def test_a_forked_child_finds_its_parent_s_loop_dead(clearway_factory):
    """The ring and the epoll set are shared with the parent: the child must not touch them."""
    loop = clearway_factory()
    try:
        state = {}

        async def begin():
            ours, peer = tcp_pair()
            protocol = Recorder()
            state.update(peer=peer, protocol=protocol, transport=await attach(ours, protocol))
            await settle()

        async def end():
            state["peer"].send(b"to the parent")
            await state["protocol"].until_received(13)
            with state["peer"]:
                await closed(state["transport"], state["protocol"])
            await settle()

        def child():
            for refused in (
                loop.run_forever,
                lambda: loop.run_until_complete(loop.create_future()),
            ):
                with pytest.raises(RuntimeError, match="fork"):
                    refused()
            loop.close()

        loop.run_until_complete(begin())
        in_child(child)
        loop.run_until_complete(end())
    finally:
        loop.close()


def test_fork_inside_a_running_loop(factory):
    """The child leaves by os._exit, as multiprocessing's children do; the parent goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)

        def child():
            if factory.is_clearway:
                with pytest.raises(RuntimeError):
                    loop.run_forever()
            own = factory()
            own.call_soon(own.stop)
            asyncio._set_running_loop(None)
            own.run_forever()
            own.close()

        in_child(child)
        peer.send(b"x")
        await protocol.until_received(1)
        await settle()
        with peer:
            await closed(transport, protocol)

    run(factory, main)
