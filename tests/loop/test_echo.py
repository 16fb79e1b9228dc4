"""Echo: what goes in comes out, in order, whatever the sizes and the cuts."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..support.loops import in_thread, run
from ..support.net import (
    PEER_TIMEOUT_S,
    BufferedRecorder,
    Echo,
    Recorder,
    attach,
    closed,
    listener,
    pattern,
    recv_all,
    recv_exactly,
    unix_path,
)

SIZES = [1, 2, 1023, 1024, 4096, 16_384, 65_535, 65_536, 65_537, 262_144, 1_000_003, 8_000_000]


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self, size=70_000):
        self.buffer = bytearray(size)

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        # Without a copy of our own: write() must have taken the bytes before it returns.
        self.transport.write(memoryview(self.buffer)[:nbytes])
        self.buffer[:nbytes] = b"\xee" * nbytes

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


def exchange(address, data, family=socket.AF_INET):
    """One blocking client: sends everything from a second thread while it reads it back."""
    import threading

    with socket.socket(family) as client:
        client.settimeout(PEER_TIMEOUT_S)
        client.connect(address)

        def send():
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = recv_exactly(client, len(data))
        sender.join()
        assert recv_all(client) == b""
    return got


@pytest.mark.parametrize("size", SIZES)
def test_echo_of_every_size(factory, size):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            data = pattern(size)
            assert await in_thread(exchange, address, data) == data

    run(factory, main)


@pytest.mark.parametrize("size", [1, 65_537, 3_000_000])
def test_echo_by_buffered_protocol(factory, size):
    import sys

    if factory.name == "asyncio" and sys.version_info >= (3, 12) and size > 65_537:
        pytest.skip("from 3.12 on asyncio keeps a reference to what write() was given")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(BufferedEcho, "127.0.0.1", 0)
        async with server:
            data = pattern(size)
            assert await in_thread(exchange, server.sockets[0].getsockname(), data) == data

    run(factory, main)


@pytest.mark.parametrize("size", [1, 65_537, 3_000_000])
def test_echo_by_streams(factory, size):
    async def main():
        async def serve(reader, writer):
            while part := await reader.read(5000):
                writer.write(part)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            data = pattern(size)

            async def send():
                writer.write(data)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            assert await reader.readexactly(size) == data
            assert await reader.read() == b""
            await sending
            writer.close()
            await writer.wait_closed()

    run(factory, main)


def test_echo_over_unix_sockets(factory):
    async def main():
        loop = asyncio.get_running_loop()
        path = unix_path()
        server = await loop.create_unix_server(Echo, path)
        async with server:
            data = pattern(1_000_000)
            assert await in_thread(exchange, path, data, socket.AF_UNIX) == data

    run(factory, main)


def test_echo_over_ipv6(factory):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "::1", 0)
        async with server:
            protocol = Recorder()
            transport, _ = await loop.create_connection(
                lambda: protocol, *server.sockets[0].getsockname()[:2]
            )
            assert len(transport.get_extra_info("peername")) == 4
            transport.write(b"six")
            assert await protocol.until_received(3) == b"six"
            await closed(transport, protocol)

    run(factory, main)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cuts=st.lists(st.integers(1, 70_000), min_size=1, max_size=25),
    pauses=st.sets(st.integers(0, 24)),
    gather=st.booleans(),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_any_cut_of_the_stream_arrives_whole(factory, pair, cuts, pauses, gather, kind):
    """Writes of any size, single or gathered, with turns of the loop at any place between them."""
    data = pattern(sum(cuts))

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:
            reading = asyncio.ensure_future(in_thread(recv_exactly, peer, len(data)))
            at = 0
            batch = []
            for number, cut in enumerate(cuts):
                part = kind(data[at : at + cut])
                at += cut
                if gather:
                    batch.append(part)
                else:
                    transport.write(part)
                if number in pauses:
                    transport.writelines(batch)
                    batch = []
                    await asyncio.sleep(0)
            transport.writelines(batch)
            assert await reading == data
            await closed(transport, protocol)

    run(factory, main)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cuts=st.lists(st.integers(1, 40_000), min_size=1, max_size=20),
    size=st.sampled_from([1, 7, 64, 4096, 100_000]),
    buffered=st.booleans(),
)
def test_any_cut_of_the_peer_is_received_whole(factory, pair, cuts, size, buffered):
    if size < 64:
        cuts = [min(cut, 500) for cut in cuts]
    data = pattern(sum(cuts))

    async def main():
        ours, peer = pair()
        protocol = BufferedRecorder(size) if buffered else Recorder()
        await attach(ours, protocol)

        def send():
            at = 0
            for cut in cuts:
                peer.sendall(data[at : at + cut])
                at += cut
            peer.close()

        await asyncio.gather(in_thread(send), protocol.until_received(len(data)))
        assert await protocol.until_lost() is None
        assert protocol.data == data
        assert protocol.events[-2:] == ["eof", "lost"]

    run(factory, main)


def test_many_clients_at_once(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)

        async def client(number):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for turn in range(10):
                message = b"%d.%d;" % (number, turn) * (number % 50 + 1)
                writer.write(message)
                assert await reader.readexactly(len(message)) == message
            writer.close()
            await writer.wait_closed()

        async with server:
            await asyncio.gather(*(client(number) for number in range(200)))

    run(factory, main)


def test_a_loop_serves_a_plain_listener_socket(factory):
    async def main():
        loop = asyncio.get_running_loop()
        sock = listener()
        address = sock.getsockname()
        server = await loop.create_server(Echo, sock=sock)
        async with server:
            assert await in_thread(exchange, address, b"given") == b"given"

    run(factory, main)
