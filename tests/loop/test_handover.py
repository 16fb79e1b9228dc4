"""Nothing received is ever lost: whoever takes over a connection gets all that had arrived.

An engine that receives ahead of the program holds bytes which a readiness loop would have left in
the kernel. One test for each way in which a connection changes hands.
"""

from __future__ import annotations

import asyncio
import io
import pathlib
import ssl
import threading

import pytest

from ..support.loops import in_thread, run
from ..support.net import (
    PEER_TIMEOUT_S,
    BufferedRecorder,
    Recorder,
    attach,
    closed,
    pattern,
    recv_exactly,
    settle,
    tcp_pair,
)

CERTIFICATE = pathlib.Path(__file__).parent.parent / "support" / "localhost.pem"


@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
def test_set_protocol_while_paused(factory, pair, first, second):
    async def main():
        ours, peer = pair()
        old = first()
        transport = await attach(ours, old)
        with peer:
            peer.sendall(b"old")
            assert await old.until_received(3) == b"old"
            transport.pause_reading()
            peer.sendall(pattern(50_000))
            await settle()
            new = second()
            transport.set_protocol(new)
            assert transport.get_protocol() is new
            transport.resume_reading()
            assert await new.until_received(50_000) == pattern(50_000)
            assert old.data == b"old"
            peer.sendall(b"more")
            assert (await new.until_received(50_004))[-4:] == b"more"
            transport.close()
            await new.until_lost()
        assert not old.lost_with

    run(factory, main)


@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
def test_set_protocol_inside_data_received(factory, pair, second):
    """The rest of what has arrived goes to the new protocol, from its first byte."""
    data = pattern(1_500_000)

    async def main():
        ours, peer = pair()
        new = second()

        class Switching(Recorder):
            def data_received(self, chunk):
                super().data_received(chunk)
                self.transport.set_protocol(new)

        old = Switching()
        with peer:
            sending = asyncio.ensure_future(in_thread(peer.sendall, data))
            transport = await attach(ours, old)
            await old.until(lambda: old.data)
            await new.until_received(len(data) - len(old.data))
            assert old.events == ["made", "data"]
            assert bytes(old.data) + bytes(new.data) == data
            await sending
            transport.close()
            await new.until_lost()

    run(factory, main)


def test_set_protocol_inside_buffer_updated(factory, pair):
    data = pattern(1_500_000)

    async def main():
        ours, peer = pair()
        new = Recorder()

        class Switching(BufferedRecorder):
            def buffer_updated(self, nbytes):
                super().buffer_updated(nbytes)
                self.transport.set_protocol(new)

        old = Switching(1000)
        with peer:
            sending = asyncio.ensure_future(in_thread(peer.sendall, data))
            transport = await attach(ours, old)
            await old.until(lambda: old.data)
            await new.until_received(len(data) - len(old.data))
            assert old.events.count("updated") == 1
            assert bytes(old.data) + bytes(new.data) == data
            await sending
            transport.close()
            await new.until_lost()

    run(factory, main)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_duplicate_taken_from_a_paused_transport(factory, pair, before):
    """A connection handed to another process or library: pause, duplicate, close the transport."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:
            for _ in range(before):
                await settle(1)
            transport.pause_reading()
            await settle()
            peer.sendall(b"for the next owner")
            await settle()
            twin = transport.get_extra_info("socket").dup()
            await closed(transport, protocol)
            with twin:
                twin.setblocking(False)
                assert await loop.sock_recv(twin, 100) == b"for the next owner"
                await loop.sock_sendall(twin, b"thanks")
                assert await in_thread(recv_exactly, peer, 6) == b"thanks"
        assert protocol.events == ["made", "lost"]

    run(factory, main)


def test_closing_a_transport_does_not_shut_down_a_duplicate(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        twin = transport.get_extra_info("socket").dup()
        with peer, twin:
            await closed(transport, protocol)
            await settle()
            twin.settimeout(PEER_TIMEOUT_S)
            await in_thread(twin.sendall, b"alive")
            assert await in_thread(recv_exactly, peer, 5) == b"alive"
            await in_thread(peer.sendall, b"too")
            assert await in_thread(recv_exactly, twin, 3) == b"too"

    run(factory, main)


def test_sendfile_while_the_peer_sends(factory, pair, tmp_path):
    data = pattern(3_000_000)
    incoming = pattern(1_000_000)
    (tmp_path / "file").write_bytes(data)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer, open(tmp_path / "file", "rb") as file:
            transport.write(b"head")

            def both():
                sender = threading.Thread(target=peer.sendall, args=(incoming,))
                sender.start()
                got = recv_exactly(peer, 4 + len(data) + 4)
                sender.join()
                return got

            peer_side = asyncio.ensure_future(in_thread(both))
            assert await loop.sendfile(transport, file) == len(data)
            transport.write(b"tail")
            assert await peer_side == b"head" + data + b"tail"
            assert await protocol.until_received(len(incoming)) == incoming
            assert transport.is_reading()
            await closed(transport, protocol)

    run(factory, main)


def test_sendfile_leaves_a_paused_transport_paused(factory, tmp_path):
    (tmp_path / "file").write_bytes(pattern(100_000))

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer, open(tmp_path / "file", "rb") as file:
            transport.pause_reading()
            peer.sendall(b"held")
            assert await loop.sendfile(transport, file, 10, 500) == 500
            assert await in_thread(recv_exactly, peer, 500) == pattern(510)[10:]
            assert not transport.is_reading()
            await settle()
            assert protocol.data == b""
            transport.resume_reading()
            assert await protocol.until_received(4) == b"held"
            await closed(transport, protocol)

    run(factory, main)


def test_sendfile_falls_back_for_what_is_no_file(factory):
    data = pattern(300_000)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:
            sending = asyncio.ensure_future(loop.sendfile(transport, io.BytesIO(data)))
            assert await in_thread(recv_exactly, peer, len(data)) == data
            assert await sending == len(data)
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(transport, io.BytesIO(data), fallback=False)
            peer.sendall(b"still reading")
            await protocol.until_received(13)
            await closed(transport, protocol)

    run(factory, main)


def test_sendfile_to_a_peer_that_vanishes(factory, tmp_path):
    from ..support.net import reset

    (tmp_path / "file").write_bytes(bytes(20_000_000))

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with open(tmp_path / "file", "rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await settle()
            reset(peer)
            with pytest.raises((ConnectionError, RuntimeError)):
                await sending
            # asyncio resumes reading and hears of it there; at the latest when closed.
            transport.close()
            await protocol.until_lost()
            assert len(protocol.lost_with) == 1

    run(factory, main)


@pytest.mark.parametrize("wait", [0, 3])
def test_start_tls_finds_the_client_s_first_flight(factory, wait):
    """The client's hello arrives while reading is paused, before start_tls is called."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(CERTIFICATE)
    client_context = ssl.create_default_context(cafile=str(CERTIFICATE))

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        asked = loop.create_future()
        go = threading.Event()

        class Plain(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.pause_reading()
                asked.set_result(None)

        def client():
            peer.sendall(b"STARTTLS")
            assert go.wait(20)
            with client_context.wrap_socket(peer, server_hostname="localhost") as secure:
                secure.sendall(b"secret")
                got = recv_exactly(secure, 12)
                secure.unwrap()
                return got

        plain = Plain()
        transport = await attach(ours, plain)
        client_side = asyncio.ensure_future(in_thread(client))
        await asked
        go.set()
        for _ in range(wait):
            # From 1: the hello has surely arrived; from 2: so has the engine's chance to take it.
            await asyncio.sleep(0.01)
            await settle()
        secure = Recorder()
        transport.set_protocol(secure)
        tls = await loop.start_tls(transport, secure, server_context, server_side=True)
        assert await secure.until_received(6) == b"secret"
        tls.write(b"secret reply")
        assert await client_side == b"secret reply"
        assert plain.data == b"STARTTLS"
        tls.close()
        await secure.until_lost()
        peer.close()

    run(factory, main)


def test_a_stream_is_upgraded_with_bytes_in_flight(factory):
    """StreamWriter.start_tls on both sides of one loop."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(CERTIFICATE)
    client_context = ssl.create_default_context(cafile=str(CERTIFICATE))
    data = pattern(400_000)

    async def main():
        finished = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.drain()
            await writer.start_tls(server_context)
            got = await reader.readexactly(len(data))
            writer.write(got)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            finished.set_result(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(client_context, server_hostname="localhost")
            assert writer.get_extra_info("cipher")
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()
            await finished

    run(factory, main)


def test_the_loop_stops_with_data_under_way(factory, pair):
    """What arrives while a loop is stopped is delivered when it runs again."""
    loop = factory()
    try:
        ours, peer = pair()
        state = {}

        async def begin():
            state["protocol"] = Recorder()
            state["transport"] = await attach(ours, state["protocol"])
            await settle()
            peer.sendall(b"one,")

        async def end():
            assert await state["protocol"].until_received(8) == b"one,two,"
            await closed(state["transport"], state["protocol"])

        loop.run_until_complete(begin())
        peer.sendall(b"two,")
        loop.run_until_complete(end())
        peer.close()
    finally:
        loop.close()
