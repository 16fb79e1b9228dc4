"""A protocol that is suspended in the middle of a call hears of nothing else until that call has returned.

Mode "on": the calls below compute until others have run, which can only be if they are suspended meanwhile. What
happens then must wait, and must not get lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket

import pytest

from clearway.scheduler.preemption import refusal

from ..support.certs import client_context, server_context
from ..support.loops import caught_errors, run, until
from ..support.net import settle

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

#: Turns of the loop during a call: what was on its way has then arrived, several times over.
TURNS = 12

#: More than the buffers of two sockets hold, if one of them does not grow by itself.
BIG = 8 << 20

ON = {"preempt": "on", "quantum": 0.001}


def compute(provoke=None):
    """Compute until the loop has run `provoke` and `TURNS` turns more: for ever, unless suspended."""
    loop = asyncio.get_running_loop()
    done = []

    def turn(left):
        if left:
            loop.call_soon(turn, left - 1)
        else:
            done.append(True)

    context = contextvars.Context()  # not the one that is entered here
    if provoke is not None:
        loop.call_soon(provoke, context=context)
    loop.call_soon(turn, TURNS, context=context)
    while not done:
        pass


class Notes:
    """Writes down when each call begins and ends; `slow` says which computes and what happens meanwhile."""

    def __init__(self, **slow):
        self.slow = slow
        self.log = []
        self.received = b""
        self.transport = None

    def note(self, name):
        self.log.append(f"{name} begins")
        if name in self.slow:
            compute(self.slow.pop(name))
        self.log.append(f"{name} ends")

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data):
        self.received += data
        self.note("data_received")

    def datagram_received(self, data, address):
        self.received += data
        self.note("datagram_received")

    def error_received(self, exc):
        self.note("error_received")

    def eof_received(self):
        self.note("eof_received")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")

    def connection_lost(self, exc):
        self.note("connection_lost")

    async def until_lost(self):
        await until(lambda: "connection_lost ends" in self.log)
        await settle()

    def calls(self):
        """The names of the calls in their order; fails where one began inside another."""
        assert len(self.log) % 2 == 0
        names = []
        for begin, end in zip(self.log[::2], self.log[1::2], strict=True):
            name = begin.removesuffix(" begins")
            assert end == f"{name} ends", self.log
            names.append(name)
        return names


class StreamNotes(Notes, asyncio.Protocol):
    pass


class DatagramNotes(Notes, asyncio.DatagramProtocol):
    pass


async def attached(protocol, ours):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    return transport


def small_buffers(transport):
    """Have the kernel take little at a time; given a size, it does not enlarge the buffer by itself."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)


def test_a_connection_ends_after_data_received_has_returned(clearway_factory, pair):
    async def main():
        ours, peer = pair()
        protocol = StreamNotes(data_received=lambda: protocol.transport.abort())
        with peer:
            await attached(protocol, ours)
            peer.sendall(b"one")
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "data_received", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_what_arrives_during_data_received_is_told_after_it(clearway_factory, pair):
    async def main():
        ours, peer = pair()

        def more():
            peer.sendall(b"two")
            peer.shutdown(socket.SHUT_WR)

        protocol = StreamNotes(data_received=more)
        with peer:
            await attached(protocol, ours)
            peer.sendall(b"one")
            await protocol.until_lost()
        assert protocol.received == b"onetwo"
        assert protocol.calls() == [
            *("connection_made", "data_received", "data_received"),
            *("eof_received", "connection_lost"),
        ]

    run(clearway_factory, main, **ON)


def test_a_connection_ends_after_connection_made_has_returned(clearway_factory, pair):
    async def main():
        ours, peer = pair()
        protocol = StreamNotes(connection_made=lambda: protocol.transport.abort())
        with peer:
            peer.sendall(b"never seen")
            await attached(protocol, ours)
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_reading_begins_after_connection_made_has_returned(clearway_factory, pair):
    async def main():
        ours, peer = pair()

        def again():
            protocol.transport.pause_reading()
            protocol.transport.resume_reading()

        protocol = StreamNotes(connection_made=again)
        with peer:
            peer.sendall(b"early")
            transport = await attached(protocol, ours)
            await until(lambda: protocol.received)
            transport.close()
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "data_received", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_resume_writing_waits_for_pause_writing(clearway_factory, pair):
    async def main():
        ours, peer = pair()
        peer.setblocking(False)
        taken = []

        def drain():
            try:
                while True:
                    taken.append(len(peer.recv(1 << 20)))
            except BlockingIOError:
                pass
            if sum(taken) < BIG:
                asyncio.get_running_loop().call_soon(drain)

        protocol = StreamNotes(pause_writing=drain)
        with peer:
            transport = await attached(protocol, ours)
            transport.set_write_buffer_limits(0)
            small_buffers(transport)
            transport.write(bytes(BIG))
            await until(lambda: sum(taken) == BIG)
            transport.close()
            await protocol.until_lost()
        assert protocol.calls() == [
            *("connection_made", "pause_writing", "resume_writing", "connection_lost")
        ]

    run(clearway_factory, main, **ON)


def test_eof_received_returns_before_the_connection_is_lost(clearway_factory, pair):
    async def main():
        ours, peer = pair()
        protocol = StreamNotes(eof_received=lambda: protocol.transport.abort())
        with peer:
            await attached(protocol, ours)
            peer.shutdown(socket.SHUT_WR)
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "eof_received", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_a_buffer_that_is_being_given_is_not_filled_after_the_end(clearway_factory, pair):
    async def main():
        ours, peer = pair()

        class Buffered(Notes, asyncio.BufferedProtocol):
            def get_buffer(self, size_hint):
                self.note("get_buffer")
                return bytearray(100)

            def buffer_updated(self, count):
                self.note("buffer_updated")

        protocol = Buffered(get_buffer=lambda: protocol.transport.abort())
        with peer:
            await attached(protocol, ours)
            peer.sendall(b"one")
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "get_buffer", "connection_lost"]

    run(clearway_factory, main, **ON)


async def datagrams(protocol):
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=ours)
    return transport, peer


def test_a_datagram_transport_ends_after_datagram_received_has_returned(clearway_factory):
    async def main():
        protocol = DatagramNotes(datagram_received=lambda: protocol.transport.abort())
        _, peer = await datagrams(protocol)
        with peer:
            peer.send(b"one")
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "datagram_received", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_a_datagram_transport_ends_after_connection_made_has_returned(clearway_factory):
    async def main():
        protocol = DatagramNotes(connection_made=lambda: protocol.transport.abort())
        _, peer = await datagrams(protocol)
        with peer:
            await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_a_datagram_waits_for_pause_writing(clearway_factory):
    async def main():
        def arrive():
            peer.send(b"one")

        protocol = DatagramNotes(pause_writing=arrive)
        transport, peer = await datagrams(protocol)
        with peer:
            transport.set_write_buffer_limits(0)
            peer.setblocking(False)
            while "pause_writing ends" not in protocol.log:
                transport.sendto(bytes(1000))
            await until(lambda: protocol.received)
            transport.abort()
            await protocol.until_lost()
        assert protocol.calls() == [
            *("connection_made", "pause_writing", "datagram_received", "connection_lost")
        ]

    run(clearway_factory, main, **ON)


def test_a_datagram_waits_for_error_received(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def arrive():
            peer.sendto(b"one", transport.get_extra_info("sockname"))

        protocol = DatagramNotes(error_received=arrive)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=("127.0.0.1", 0)
        )
        with peer:
            transport.sendto(bytes(70_000), ("127.0.0.1", 9))  # EMSGSIZE
            await until(lambda: protocol.received)
            transport.abort()
            await protocol.until_lost()
        assert protocol.calls() == [
            *("connection_made", "error_received", "datagram_received", "connection_lost")
        ]

    run(clearway_factory, main, **ON)


TOO_LONG = bytes(70_000)  # for a datagram: EMSGSIZE


@pytest.mark.parametrize("ends", [False, True], ids=["stays", "is aborted"])
@pytest.mark.parametrize("call", ["connection_made", "datagram_received", "error_received"])
def test_an_error_of_somebody_elses_sendto_waits(clearway_factory, call, ends):
    """Another task sends while the protocol is suspended: asyncio would have told it at once."""
    where = contextvars.ContextVar("where", default="nowhere")
    told = []

    async def main():
        loop = asyncio.get_running_loop()

        class Protocol(DatagramNotes):
            def error_received(self, exc):
                told.append((type(exc), where.get()))
                super().error_received(exc)

        def send():
            for name in ("first", "second"):
                where.set(name)
                protocol.transport.sendto(TOO_LONG, ("127.0.0.1", 9))
            if ends:
                protocol.transport.abort()

        protocol = Protocol(**{call: send})
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=("127.0.0.1", 0)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            if call == "datagram_received":
                peer.sendto(b"one", transport.get_extra_info("sockname"))
            elif call == "error_received":
                where.set("main")
                transport.sendto(TOO_LONG, ("127.0.0.1", 9))
            await until(lambda: protocol.log.count("error_received ends") >= 2)
            transport.abort()
            await protocol.until_lost()
        first = ["connection_made", *([call] if call != "connection_made" else [])]
        assert protocol.calls() == [*first, "error_received", "error_received", "connection_lost"]
        assert told[-2:] == [(OSError, "first"), (OSError, "second")]

    run(clearway_factory, main, **ON)


def test_an_error_of_a_protocols_own_sendto_is_told_at_once(clearway_factory):
    """As in asyncio: nobody has been suspended."""

    async def main():
        loop = asyncio.get_running_loop()

        class Protocol(DatagramNotes):
            def datagram_received(self, data, address):
                self.transport.sendto(TOO_LONG, address)
                super().datagram_received(data, address)

        protocol = Protocol()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=("127.0.0.1", 0)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.sendto(b"one", transport.get_extra_info("sockname"))
            await until(lambda: protocol.received)
        transport.abort()
        await protocol.until_lost()
        assert protocol.calls() == [
            *("connection_made", "error_received", "datagram_received", "connection_lost")
        ]

    run(clearway_factory, main, **ON)


async def reading_pipe(protocol):
    read, write = os.pipe()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(read, "rb", 0))
    return transport, write


@pytest.mark.parametrize("slow", ["connection_made", "data_received"])
def test_a_read_pipe_ends_after_the_call_has_returned(clearway_factory, slow):
    async def main():
        protocol = StreamNotes(**{slow: lambda: protocol.transport.close()})
        _, write = await reading_pipe(protocol)
        if slow == "data_received":
            os.write(write, b"one")
        await protocol.until_lost()
        os.close(write)
        between = [] if slow == "connection_made" else [slow]
        assert protocol.calls() == ["connection_made", *between, "connection_lost"]

    run(clearway_factory, main, **ON)


def test_a_read_pipe_ends_after_eof_received_has_returned(clearway_factory):
    async def main():
        protocol = StreamNotes(eof_received=None)
        _, write = await reading_pipe(protocol)
        os.close(write)
        await protocol.until_lost()
        assert protocol.calls() == ["connection_made", "eof_received", "connection_lost"]

    run(clearway_factory, main, **ON)


def test_a_write_pipe_resumes_after_pause_writing_has_returned(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        os.set_blocking(read, False)
        taken = []

        def drain():
            try:
                while True:
                    taken.append(len(os.read(read, 1 << 20)))
            except BlockingIOError:
                pass
            if sum(taken) < 200_000:
                loop.call_soon(drain)

        protocol = StreamNotes(pause_writing=drain)
        transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(write, "wb", 0))
        transport.write(bytes(200_000))
        await until(lambda: sum(taken) == 200_000)
        transport.close()
        await protocol.until_lost()
        os.close(read)
        assert protocol.calls() == [
            *("connection_made", "pause_writing", "resume_writing", "connection_lost")
        ]

    run(clearway_factory, main, **ON)


class TLSPeer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport


async def tls(protocol):
    """`protocol` as a TLS client; returns its transport, its peer and the server."""
    loop = asyncio.get_running_loop()
    peer = TLSPeer()
    server = await loop.create_server(lambda: peer, "127.0.0.1", 0, ssl=server_context())
    transport, _ = await loop.create_connection(
        lambda: protocol,
        *server.sockets[0].getsockname(),
        ssl=client_context(),
        server_hostname="localhost",
    )
    await until(lambda: hasattr(peer, "transport"))
    return transport, peer, server


@pytest.mark.parametrize("slow", ["connection_made", "data_received"])
def test_a_tls_connection_ends_after_the_call_has_returned(clearway_factory, slow):
    async def main():
        protocol = StreamNotes(**{slow: lambda: protocol.transport.abort()})
        _, peer, server = await tls(protocol)
        if slow == "data_received":
            peer.transport.write(b"one")
        await protocol.until_lost()
        peer.transport.abort()
        server.close()
        await server.wait_closed()
        between = [] if slow == "connection_made" else [slow]
        assert protocol.calls() == ["connection_made", *between, "connection_lost"]

    run(clearway_factory, main, **ON)


def test_a_tls_connection_ends_after_what_was_read_on_resuming(clearway_factory):
    async def main():
        protocol = StreamNotes(data_received=lambda: peer.transport.close())
        transport, peer, server = await tls(protocol)
        transport.pause_reading()
        peer.transport.write(b"one")
        await settle()
        transport.resume_reading()  # from here the protocol is told without the transport below
        await protocol.until_lost()
        server.close()
        await server.wait_closed()
        assert protocol.received == b"one"
        assert protocol.calls()[:2] == ["connection_made", "data_received"]
        assert protocol.calls()[-1] == "connection_lost"

    run(clearway_factory, main, **ON)


def test_tls_tells_the_end_after_data_received_has_returned(clearway_factory):
    async def main():
        protocol = StreamNotes(data_received=lambda: protocol.transport.close())
        transport, peer, server = await tls(protocol)
        transport.pause_reading()
        peer.transport.write(b"one")
        await settle()
        transport.resume_reading()
        await protocol.until_lost()
        server.close()
        await server.wait_closed()
        assert protocol.calls() == [
            *("connection_made", "data_received", "eof_received", "connection_lost")
        ]

    run(clearway_factory, main, **ON)


def test_tls_resumes_writing_after_pause_writing_has_returned(clearway_factory):
    async def main():
        protocol = StreamNotes(pause_writing=lambda: peer.transport.resume_reading())
        transport, peer, server = await tls(protocol)
        transport.set_write_buffer_limits(0)
        small_buffers(transport)
        peer.transport.pause_reading()
        transport.write(bytes(BIG))  # which the transport below takes,
        transport.write(b"more")  # and this it does not
        await until(lambda: "resume_writing ends" in protocol.log)
        transport.close()
        await protocol.until_lost()
        server.close()
        await server.wait_closed()
        assert protocol.calls()[:3] == ["connection_made", "pause_writing", "resume_writing"]
        assert protocol.calls()[-1] == "connection_lost"

    run(clearway_factory, main, **ON)


def test_a_step_whose_context_is_that_of_a_suspended_one_waits(clearway_factory):
    async def main():
        order = []
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()

        async def hog():
            order.append("hog begins")
            compute(lambda: loop.call_soon(order.append, "callback", context=context))
            order.append("hog ends")

        async def other():
            order.append("other")

        with caught_errors() as errors:
            tasks = [loop.create_task(coroutine, context=context) for coroutine in (hog(), other())]
            await asyncio.gather(*tasks)
            await until(lambda: "callback" in order)
        assert not errors
        assert order == ["hog begins", "hog ends", "other", "callback"]

    run(clearway_factory, main, **ON)


def test_a_context_entered_by_the_caller_is_an_error_as_ever(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()

        def enters_its_own():
            context.run(lambda: None)

        with caught_errors() as errors:
            loop.call_soon(enters_its_own, context=context)
            await settle()
        assert [type(error["exception"]) for error in errors] == [RuntimeError]

    run(clearway_factory, main, **ON)
