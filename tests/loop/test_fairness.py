"""Operations that complete at once must not keep the others waiting."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from ..support.loops import in_thread, run
from ..support.net import Echo, Recorder, dial, listener, settle, tcp_pair, unix_pair

# Inline completions after which a step lets others run, with room for one budget under way.
BUDGET = 128
BOUND = 2 * BUDGET

STARVES = "asyncio's sock_* never yield while they succeed at once"


async def operations_before_others_ran(operation, count):
    """How many times `operation` completed before a callback made beforehand was called."""
    loop = asyncio.get_running_loop()
    done = 0
    seen = []
    loop.call_soon(lambda: seen.append(done))
    loop.call_later(0, lambda: seen.append(done))
    for _ in range(count):
        await operation()
        done += 1
    while len(seen) < 2:
        await asyncio.sleep(0)
    return max(seen)


def test_a_step_that_receives_without_end_lets_others_run(factory):
    if factory.name == "asyncio":
        pytest.skip(STARVES)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = unix_pair()
        with ours, peer:
            peer.sendall(bytes(2000))
            assert await operations_before_others_ran(lambda: loop.sock_recv(ours, 1), 1000) < BOUND
            buffer = bytearray(1)
            assert (
                await operations_before_others_ran(lambda: loop.sock_recv_into(ours, buffer), 1000)
                < BOUND
            )

    run(factory, main)


def test_slow_inline_operations_yield_before_the_count_is_up(factory):
    """Half a quantum counts as well as the number: forty operations of a millisecond are long enough."""
    if factory.name == "asyncio":
        pytest.skip(STARVES)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = unix_pair()
        with ours, peer:
            peer.sendall(bytes(100))

            async def receive():
                await loop.sock_recv(ours, 1)
                until = loop.time() + 0.001
                while loop.time() < until:
                    pass

            assert await operations_before_others_ran(receive, 40) < 40

    run(factory, main)


def test_a_step_that_sends_without_end_lets_others_run(factory):
    if factory.name == "asyncio":
        pytest.skip(STARVES)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer:
            ran = await operations_before_others_ran(lambda: loop.sock_sendall(ours, b"x"), 1000)
            assert ran < BOUND

    run(factory, main)


def test_a_step_that_accepts_without_end_lets_others_run(factory):
    if factory.name == "asyncio":
        pytest.skip(STARVES)

    async def main():
        loop = asyncio.get_running_loop()
        with listener(backlog=1000) as server:
            server.setblocking(False)
            clients = [socket.create_connection(server.getsockname()) for _ in range(300)]

            async def accept():
                conn, _ = await loop.sock_accept(server)
                conn.close()

            assert await operations_before_others_ran(accept, 300) < BOUND
            for client in clients:
                client.close()

    run(factory, main)


def test_datagrams_without_end_let_others_run(factory):
    if factory.name == "asyncio":
        pytest.skip(STARVES)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair(type=socket.SOCK_DGRAM)
        ours.setblocking(False)
        with ours, peer:
            stop = threading.Event()

            def flood():
                while not stop.is_set():
                    try:
                        peer.send(b"x")
                    except OSError:
                        return

            flooding = loop.run_in_executor(None, flood)
            ran = await operations_before_others_ran(lambda: loop.sock_recvfrom(ours, 9), 2000)
            assert ran < BOUND
            stop.set()
            ours.close()
            await flooding

    run(factory, main)


def test_a_flood_on_one_connection_lets_the_others_run(factory):
    """A peer that sends faster than we read gets its share of each turn, not all of it."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        stop = threading.Event()

        class Counter(asyncio.Protocol):
            received = 0

            def data_received(self, data):
                self.received += len(data)

            def connection_lost(self, exc):
                lost.set_result(exc)

        lost = loop.create_future()
        counter = Counter()
        await loop.connect_accepted_socket(lambda: counter, sock=ours)

        def flood():
            block = bytes(1 << 18)
            while not stop.is_set():
                peer.sendall(block)
            peer.close()

        flooding = loop.run_in_executor(None, flood)
        most = 0
        for _ in range(50):
            before = counter.received
            await asyncio.sleep(0)
            most = max(most, counter.received - before)
            await settle(1)
        stop.set()
        await flooding
        await lost
        # One step's worth: asyncio takes 256 KiB; 16 receives of 256 KiB is what we allow ours.
        assert most <= 16 * 262_144 + 65_536

    run(factory, main)


def test_accepting_a_crowd_does_not_delay_the_connected(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=500)
        address = server.sockets[0].getsockname()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, *address)

        def crowd():
            socks = [dial(address) for _ in range(300)]
            for sock in socks:
                sock.close()

        crowding = loop.run_in_executor(None, crowd)
        turns = 0
        while not crowding.done():
            transport.write(b"x")
            turns += 1
            await protocol.until_received(turns)
        await crowding
        transport.close()
        await protocol.until_lost()
        server.close()
        await server.wait_closed()
        await settle()

    run(factory, main)


def test_busy_echo_connections_share_alike(factory):
    """Of twenty clients that ask without pause none is served twice as often as another."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        counts = [0] * 20
        stop = loop.create_future()

        class Client(asyncio.Protocol):
            def __init__(self, number):
                self.number = number

            def connection_made(self, transport):
                self.transport = transport
                transport.write(b"x")

            def data_received(self, data):
                counts[self.number] += 1
                if sum(counts) >= 4000:
                    if not stop.done():
                        stop.set_result(None)
                    self.transport.close()
                else:
                    self.transport.write(data)

        transports = []
        for number in range(20):
            transport, _ = await loop.create_connection(lambda n=number: Client(n), *address)
            transports.append(transport)
        base = list(counts)
        await stop
        shares = [count - start for count, start in zip(counts, base, strict=True)]
        assert min(shares) * 2 >= max(shares), shares
        for transport in transports:
            transport.close()
        server.close()
        await server.wait_closed()
        await settle()

    run(factory, main)


def test_threads_that_call_without_end_do_not_stop_the_loop(factory):
    async def main():
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        # Without a bound two threads can call faster than one loop can serve, on any loop.
        waiting = threading.Semaphore(200)

        def pester():
            while not stop.is_set():
                if waiting.acquire(timeout=0.01):
                    loop.call_soon_threadsafe(waiting.release)

        pestering = [in_thread_task(loop, pester) for _ in range(2)]
        for _ in range(20):
            await asyncio.sleep(0.0005)
            await settle(1)
        stop.set()
        await asyncio.gather(*pestering)

    run(factory, main)


def in_thread_task(loop, function):
    return asyncio.ensure_future(in_thread(function))
