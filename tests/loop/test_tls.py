"""TLS: the bytes, callbacks and errors of asyncio's, and a few things said better.

The peers are blocking `ssl` sockets in a thread: no mistake can be made on both sides alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import socket
import ssl
import subprocess
import weakref

import pytest

from ..support.certs import client_context, server_context
from ..support.loops import caught_errors, in_thread, run, until
from ..support.net import (
    PEER_TIMEOUT_S,
    BufferedRecorder,
    Echo,
    Recorder,
    dial,
    listener,
    pattern,
    recv_all,
    recv_exactly,
    settle,
    small_buffers,
)

SIZES = [1, 1024, 16_383, 16_384, 16_385, 65_537, 1_000_003, 5_000_000]


def handshake(address, context=None, hostname="localhost", **options):
    """A blocking TLS client."""
    context = context or client_context()
    raw = dial(address)
    try:
        return context.wrap_socket(raw, server_hostname=hostname, **options)
    except BaseException:
        raw.close()
        raise


def exchange(address, data, context=None, chunk=200_000):
    """Send and read back in turns (OpenSSL allows no two threads), then end with close_notify."""
    got = b""
    with handshake(address, context) as client:
        for start in range(0, len(data), chunk):
            part = data[start : start + chunk]
            client.sendall(part)
            got += recv_exactly(client, len(part))
        client.unwrap().close()
    return got


async def serve(protocol, context=None, **options):
    """A TLS server of the running loop; `protocol` is a factory."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        protocol, "127.0.0.1", 0, ssl=context or server_context(), **options
    )
    return server, server.sockets[0].getsockname()


async def one_server(protocol, context=None, **options):
    return await serve(lambda: protocol, context, **options)


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("size", SIZES)
def test_echo_of_every_size(factory, size, version):
    async def main():
        server, address = await serve(Echo, server_context(version))
        async with server:
            data = pattern(size)
            assert await in_thread(exchange, address, data, client_context(version)) == data

    run(factory, main)


@pytest.mark.parametrize("buffer", [1, 1000, 16_384, 300_000])
def test_buffered_protocol_gets_every_byte(clearway_factory, buffer):
    # Not asyncio: when the buffer is a bytearray it decrypts all but the first record into a copy.
    async def main():
        proto = BufferedRecorder(buffer)
        server, address = await one_server(proto)
        size = 20_000 if buffer == 1 else 400_000
        data = pattern(size)

        def send():
            with handshake(address) as client:
                client.sendall(data)
                client.unwrap().close()

        async with server:
            await in_thread(send)
            assert await proto.until_received(size) == data
            assert await proto.until_lost() is None
        assert proto.events[0] == "made" and proto.events[-2:] == ["eof", "lost"]

    run(clearway_factory, main)


def test_a_buffer_may_be_resized_between_reads(clearway_factory):
    class Resizing(BufferedRecorder):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            del self.buffer[-1:]  # BufferError while somebody holds a view of it
            self.buffer += b"xy"

    async def main():
        proto = Resizing(100)
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await in_thread(peer.sendall, pattern(3000))
                assert await proto.until_received(3000) == pattern(3000)
                proto.transport.abort()
                await proto.until_lost()

    run(clearway_factory, main)


def test_streams_on_both_sides(factory):
    async def main():
        async def answer(reader, writer):
            data = await reader.readexactly(100_000)
            writer.writelines([data[:1], bytearray(data[1:10]), memoryview(data)[10:]])
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context())
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context(), server_hostname="localhost"
            )
            writer.write(pattern(100_000))
            assert await reader.read(-1) == pattern(100_000)
            writer.close()
            await writer.wait_closed()

    run(factory, main)


def test_what_write_was_given_may_change_afterwards(clearway_factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport._ssl_protocol.pause_writing()  # as if the socket took no more
                data = bytearray(b"before")
                proto.transport.write(data)
                proto.transport.write(memoryview(data))
                data[:] = b"after!"
                assert proto.transport.get_write_buffer_size() == 12
                proto.transport._ssl_protocol.resume_writing()
                assert proto.transport.get_write_buffer_size() == 0
                assert await in_thread(recv_exactly, peer, 12) == b"beforebefore"
                proto.transport.abort()
                await proto.until_lost()

    run(clearway_factory, main)


def test_small_writes_that_waited_become_one_record(clearway_factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport._ssl_protocol.pause_writing()
                for i in range(100):
                    proto.transport.write(pattern(4000)[i * 40 : i * 40 + 40])
                proto.transport._ssl_protocol.resume_writing()
                # One SSL_read returns at most one record.
                assert await in_thread(peer.recv, 1 << 16) == pattern(4000)
                proto.transport.abort()
                await proto.until_lost()

    run(clearway_factory, main)


# ---- handshake -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_extra_info(factory, version):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto, server_context(version))
        async with server:
            _, writer = await asyncio.open_connection(
                *address, ssl=client_context(version), server_hostname="localhost"
            )
            await proto.until(lambda: proto.transport)
            for transport in (writer.transport, proto.transport):
                info = transport.get_extra_info
                assert info("ssl_object").version() == f"TLSv{version}"
                assert info("cipher") == info("ssl_object").cipher()
                assert info("compression") is None
                assert isinstance(info("sslcontext"), ssl.SSLContext)
                assert info("socket").fileno() >= 0
                assert info("nothing", 5) == 5
                assert isinstance(transport, asyncio.Transport)
                assert not transport.can_write_eof()
                with pytest.raises(NotImplementedError):
                    transport.write_eof()
                with pytest.raises(TypeError):
                    transport.write("text")
            assert proto.transport.get_extra_info("peername") == writer.get_extra_info("sockname")
            assert writer.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
            assert not proto.transport.get_extra_info("peercert")
            writer.close()
            await writer.wait_closed()
            assert await proto.until_lost() is None

    run(factory, main)


def test_alpn_and_sni(factory):
    names = []

    async def main():
        context = server_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda sslobj, name, ctx: names.append(name)
        proto = Recorder()
        server, address = await one_server(proto, context)
        async with server:
            ours = client_context()
            ours.set_alpn_protocols(["http/1.1"])
            _, writer = await asyncio.open_connection(
                *address, ssl=ours, server_hostname="localhost"
            )
            await proto.until(lambda: proto.transport)
            for transport in (writer.transport, proto.transport):
                chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
                assert chosen == "http/1.1"
            writer.close()
            await writer.wait_closed()
            await proto.until_lost()

    run(factory, main)
    assert names == ["localhost"]


def test_client_certificate(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto, server_context("1.2", ask_client=True))
        async with server:
            context = client_context("1.2", with_certificate=True)
            peer = await in_thread(handshake, address, context)
            with peer:
                await proto.until(lambda: proto.transport)
                assert proto.transport.get_extra_info("peercert")["issuer"]
                proto.transport.abort()
                await proto.until_lost()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await in_thread(handshake, address, client_context("1.2"))
        assert proto.events == ["made", "lost"]

    run(factory, main)


def test_session_is_reused(factory):
    async def main():
        server, address = await serve(Echo, server_context())
        async with server:
            context = client_context()

            def twice():
                with handshake(address, context) as first:
                    first.sendall(b"x")
                    assert first.recv(1) == b"x"  # TLS 1.3 sends its tickets behind the handshake
                    session = first.session
                    first.unwrap().close()
                with handshake(address, context, session=session) as second:
                    second.sendall(b"y")
                    assert second.recv(1) == b"y"
                    reused = second.session_reused
                    second.unwrap().close()
                    return reused

            assert await in_thread(twice)

    run(factory, main)


def test_a_certificate_that_is_not_trusted(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        loop = asyncio.get_running_loop()
        async with server:
            client = Recorder()
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.create_connection(
                    lambda: client,
                    *address,
                    ssl=client_context(trusting=False),
                    server_hostname="localhost",
                )
            await settle()
        assert client.events == []
        assert "data" not in proto.events

    run(factory, main)


def test_the_peer_is_told_why_the_handshake_failed(clearway_factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto, server_context("1.3"))
        async with server:
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await in_thread(handshake, address, client_context("1.2"))
            await settle()
        assert proto.events == []

    run(clearway_factory, main)


def test_a_peer_that_speaks_no_tls(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)

        def talk():
            with dial(address) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                try:
                    recv_all(peer)
                except ConnectionResetError:
                    pass

        async with server:
            await in_thread(talk)
            await settle()
        assert proto.events == []

    run(factory, main)


def test_handshake_timeout(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as silent:
            with pytest.raises(ConnectionAbortedError, match="taking longer"):
                await loop.create_connection(
                    Recorder,
                    *silent.getsockname(),
                    ssl=client_context(),
                    server_hostname="localhost",
                    ssl_handshake_timeout=0.02,
                )
            for bad in (0, -1):
                with pytest.raises(ValueError, match="positive"):
                    await loop.create_connection(
                        Recorder,
                        *silent.getsockname(),
                        ssl=client_context(),
                        server_hostname="localhost",
                        ssl_handshake_timeout=bad,
                    )

    run(factory, main)


def test_eof_in_the_handshake(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as silent:

            def hang_up():
                peer, _ = silent.accept()
                peer.recv(1 << 16)
                peer.close()

            hung_up = loop.run_in_executor(None, hang_up)
            with pytest.raises(ConnectionResetError):
                await loop.create_connection(
                    Recorder,
                    *silent.getsockname(),
                    ssl=client_context(),
                    server_hostname="localhost",
                )
            await hung_up

    run(factory, main)


def test_connecting_is_cancelled(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as silent:
            connecting = asyncio.ensure_future(
                loop.create_connection(
                    Recorder,
                    *silent.getsockname(),
                    ssl=client_context(),
                    server_hostname="localhost",
                )
            )
            peer, _ = await in_thread(silent.accept)
            with peer:
                await in_thread(peer.recv, 1 << 16)  # the handshake has begun
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                assert await in_thread(recv_all, peer) == b""

    run(factory, main)


# ---- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("polite", [True, False])
def test_close_notify_and_truncation_are_told_apart(clearway_factory, polite):
    async def main():
        proto = Recorder()
        # In TLS 1.3 the tickets that the peer has not read would turn its close into a reset.
        server, address = await one_server(proto, server_context("1.2"))
        async with server:
            peer = await in_thread(handshake, address)
            await in_thread(peer.sendall, b"last")
            await proto.until_received(4)
            transport = proto.transport
            assert transport.get_extra_info("close_notify") is None

            def end():
                if polite:
                    peer.unwrap().close()
                else:
                    peer.close()

            await in_thread(end)
            assert await proto.until_lost() is None
            assert transport.get_extra_info("close_notify") is polite
        assert proto.events == ["made", "data", "eof", "lost"]

    run(clearway_factory, main)


def test_close_sends_what_was_written(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport.write(pattern(3_000_000))
                proto.transport.close()
                assert proto.transport.is_closing()
                proto.transport.write(b"dropped")
                assert await in_thread(recv_all, peer) == pattern(3_000_000)
                await in_thread(peer.unwrap)
            assert await proto.until_lost() is None

    run(factory, main)


def test_shutdown_timeout(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto, ssl_shutdown_timeout=0.02)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport.close()  # the peer never answers
                assert isinstance(await proto.until_lost(), TimeoutError)

    run(factory, main)


def test_abort(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport.abort()
                assert await proto.until_lost() is None
                for _ in range(10):
                    proto.transport.write(b"dropped")
        assert proto.events == ["made", "lost"]

    run(factory, main)


def test_a_peer_that_goes_on_sending_after_our_close(clearway_factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport.close()
                await in_thread(peer.sendall, b"too late")
                assert await proto.until_lost() is None
        assert "data" not in proto.events

    run(clearway_factory, main)


def test_close_with_unread_data(clearway_factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                proto.transport.pause_reading()
                assert not proto.transport.is_reading()
                await in_thread(peer.sendall, pattern(100_000))
                await until(lambda: proto.transport.get_read_buffer_size() > 100_000)
                proto.transport.close()
                await in_thread(lambda: peer.unwrap().close())
                assert await proto.until_lost() is None
        assert "data" not in proto.events

    run(clearway_factory, main)


def test_truncation_while_reading_is_paused_loses_nothing(clearway_factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                transport = proto.transport
                transport.pause_reading()
                await in_thread(peer.sendall, pattern(50_000))
                socket.socket.shutdown(peer, socket.SHUT_WR)  # the SSLSocket's would end its TLS
                await until(lambda: transport.get_extra_info("close_notify") is False)
                transport.write(b"still heard")
                assert proto.events == ["made"]
                transport.resume_reading()
                assert await proto.until_lost() is None
                assert bytes(proto.data) == pattern(50_000)
                assert await in_thread(recv_all, peer) == b"still heard"

    run(clearway_factory, main)


def test_a_broken_record(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            await proto.until(lambda: proto.transport)
            with socket.socket(fileno=peer.detach()) as raw:
                raw.settimeout(PEER_TIMEOUT_S)
                raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                assert isinstance(await proto.until_lost(), ssl.SSLError)
        assert "data" not in proto.events

    run(factory, main)


# ---- flow control --------------------------------------------------------------------------------


def test_back_pressure_reaches_the_writer(factory):
    total = 8_000_000

    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                transport = proto.transport
                small_buffers(peer)
                data = pattern(total)
                for start in range(0, total, 500_000):
                    transport.write(data[start : start + 500_000])
                assert "pause" in proto.events
                low, high = transport.get_write_buffer_limits()
                assert transport.get_write_buffer_size() > high > low
                assert await in_thread(recv_exactly, peer, total) == data
                await proto.until(lambda: "resume" in proto.events)
                assert proto.events == ["made", "pause", "resume"]
                transport.abort()
                await proto.until_lost()

    run(factory, main)


class Flood(asyncio.Protocol):
    """Writes 64 MiB with one call, and remembers a digest of what comes meanwhile."""

    total = 64 << 20

    def __init__(self, data):
        self.data = data
        self.digest = hashlib.sha256()
        self.left = self.total
        self.pauses = 0
        loop = asyncio.get_running_loop()
        self.received = loop.create_future()
        self.lost = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.data)
        self.waiting = transport.get_write_buffer_size()

    def data_received(self, data):
        self.digest.update(data)
        self.left -= len(data)
        if self.left <= 0:
            self.received.set_result(None)

    def pause_writing(self):
        self.pauses += 1

    def resume_writing(self):
        self.pauses -= 1

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_64_mib_in_one_write_and_both_ways_at_once(clearway_factory):
    """Larger than every buffer: each byte arrives, and it waits as it is, not encrypted once more in memory."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = (random.Random(seed).randbytes(Flood.total) for seed in (1, 2))
        server_end = Flood(ours)
        server, address = await one_server(server_end)
        async with server:
            client_end = Flood(theirs)
            await loop.create_connection(
                lambda: client_end, *address, ssl=client_context(), server_hostname="localhost"
            )
            await asyncio.gather(server_end.received, client_end.received)
            for end, sent in ((server_end, theirs), (client_end, ours)):
                assert end.left == 0 and end.digest.digest() == hashlib.sha256(sent).digest()
                assert end.waiting > Flood.total * 3 // 4
            await until(lambda: not server_end.pauses and not client_end.pauses)
            client_end.transport.close()
            assert await client_end.lost is None and await server_end.lost is None

    run(clearway_factory, main)


def test_paused_reading_stops_the_peer(factory):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        total = 20_000_000
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                transport = proto.transport
                transport.pause_reading()
                sending = asyncio.ensure_future(in_thread(peer.sendall, bytes(total)))
                _, high = transport.get_read_buffer_limits()
                await until(lambda: transport.get_read_buffer_size() >= high)
                await settle()
                # What one receive may add behind the mark.
                assert transport.get_read_buffer_size() <= 2 * high
                assert not sending.done() and not proto.data
                transport.resume_reading()
                await proto.until_received(total)
                await sending
                transport.abort()
                await proto.until_lost()

    run(factory, main)


@pytest.mark.parametrize("limits", [{"high": 10, "low": 20}, {"high": -1}])
def test_limits_that_make_no_sense(factory, limits):
    async def main():
        proto = Recorder()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                with pytest.raises(ValueError):
                    proto.transport.set_write_buffer_limits(**limits)
                proto.transport.set_write_buffer_limits(high=1000)
                assert proto.transport.get_write_buffer_limits() == (250, 1000)
                proto.transport.abort()
                await proto.until_lost()

    run(factory, main)


# ---- errors of protocols -------------------------------------------------------------------------


def test_an_exception_in_data_received_closes_and_is_reported(factory):
    class Broken(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError("ours")

    async def main():
        proto = Broken()
        server, address = await one_server(proto)
        async with server:
            peer = await in_thread(handshake, address)
            with peer:
                await proto.until(lambda: proto.transport)
                with caught_errors() as errors:
                    await in_thread(peer.sendall, b"x")
                    assert isinstance(await proto.until_lost(), ZeroDivisionError)
                assert [type(e["exception"]) for e in errors] == [ZeroDivisionError]

    run(factory, main)


def test_an_exception_in_connection_made_fails_the_connect(clearway_factory):
    class Broken(Recorder):
        def connection_made(self, transport):
            raise ZeroDivisionError("ours")

    async def main():
        server, address = await serve(Echo)
        loop = asyncio.get_running_loop()
        async with server:
            with caught_errors() as errors, pytest.raises(ZeroDivisionError):
                await loop.create_connection(
                    Broken, *address, ssl=client_context(), server_hostname="localhost"
                )
            assert len(errors) == 1

    run(clearway_factory, main)


# ---- start_tls -----------------------------------------------------------------------------------


class Upgrading(Recorder):
    """A server protocol that turns to TLS when told to, in the words of SMTP."""

    def data_received(self, data):
        if data == b"STARTTLS\n":
            self.upgrade = asyncio.ensure_future(self.turn())
        else:
            super().data_received(data)

    async def turn(self):
        loop = asyncio.get_running_loop()
        self.transport.write(b"GO\n")
        self.transport = await loop.start_tls(
            self.transport, self, server_context(), server_side=True
        )


def test_start_tls_on_both_sides(factory):
    async def main():
        loop = asyncio.get_running_loop()
        proto = Upgrading()
        server = await loop.create_server(lambda: proto, "127.0.0.1", 0)
        async with server:
            client = Recorder()
            plain, _ = await loop.create_connection(
                lambda: client, *server.sockets[0].getsockname()
            )
            plain.write(b"STARTTLS\n")
            assert await client.until_received(3) == b"GO\n"
            client.data.clear()
            transport = await loop.start_tls(
                plain, client, client_context(), server_hostname="localhost"
            )
            await proto.upgrade
            transport.write(b"secret")
            assert await proto.until_received(6) == b"secret"
            proto.transport.write(b"answer")
            assert await client.until_received(6) == b"answer"
            transport.close()
            assert await client.until_lost() is None
            assert await proto.until_lost() is None
        assert client.events.count("made") == 1

    run(factory, main)


def test_tls_in_tls(factory):
    async def main():
        loop = asyncio.get_running_loop()
        proto = Upgrading()
        server, address = await one_server(proto)
        async with server:
            client = Recorder()
            outer, _ = await loop.create_connection(
                lambda: client, *address, ssl=client_context(), server_hostname="localhost"
            )
            outer.write(b"STARTTLS\n")
            await client.until_received(3)
            client.data.clear()
            inner = await loop.start_tls(
                outer, client, client_context(), server_hostname="localhost"
            )
            await proto.upgrade
            inner.write(pattern(300_000))
            assert await proto.until_received(300_000) == pattern(300_000)
            proto.transport.write(pattern(300_000))
            assert await client.until_received(300_000) == pattern(300_000)
            inner.close()
            assert await client.until_lost() is None
            assert await proto.until_lost() is None

    run(factory, main)


def test_start_tls_refuses_what_it_cannot_use(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="SSLContext"):
            await loop.start_tls(object(), Recorder(), None)
        with pytest.raises(TypeError, match="not supported"):
            await loop.start_tls(object(), Recorder(), client_context())

    run(factory, main)


# ---- leaks and foreign peers ---------------------------------------------------------------------


def test_nothing_is_left_to_the_garbage_collector(clearway_factory):
    async def main():
        gone = []

        async def answer(reader, writer):
            gone.append(weakref.ref(writer.transport))
            await reader.read(-1)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context())
        async with server:
            _, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context(), server_hostname="localhost"
            )
            gone.append(weakref.ref(writer.transport))
            writer.close()
            await writer.wait_closed()
            del writer, _
            await until(lambda: len(gone) == 2 and not any(ref() for ref in gone))

    run(clearway_factory, main)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(("version", "command"), [("1.3", "K"), ("1.2", "R")])
def test_key_update_and_renegotiation_do_no_harm(factory, version, command):
    """openssl s_client sends a key update (1.3) or asks for renegotiation (1.2, refused)."""

    async def main():
        proto = Recorder()
        server, address = await one_server(proto, server_context(version))
        arguments = ["openssl", "s_client", "-connect", f"127.0.0.1:{address[1]}"]
        async with server:
            with subprocess.Popen(
                [*arguments, f"-tls{version.replace('.', '_')}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as client:

                def type_in(text):
                    client.stdin.write(text)
                    client.stdin.flush()

                def obeyed():  # a command takes all of what one read() returned with it
                    return any(b"KEYUPDATE" in line for line in client.stderr)

                type_in(b"one\n")
                await proto.until_received(4)
                type_in(command.encode() + b"\n")
                if command == "K":
                    assert await in_thread(obeyed)
                    type_in(b"two\n")
                    assert await proto.until_received(8) == b"one\ntwo\n"
                    proto.transport.close()
                await proto.until_lost()
            assert await in_thread(another, address) == f"TLSv{version}"

    def another(address):
        with handshake(address, client_context(version)) as other:
            return other.version()

    run(factory, main)
