"""``sock_*``, ``add_reader`` and what else works on the program's own sockets."""

from __future__ import annotations

import array
import asyncio
import contextvars
import io
import os
import socket
import tempfile

import pytest

from ...support.loops import run
from ...support.net import pattern, recv_exactly, settle, small_buffers, tcp_pair, unix_pair
from .harness import Scenarios, Trace, compare

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


@scenario
async def kinds_of_arguments(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, peer = unix_pair()
    with ours, peer:
        for data in (
            b"",
            bytearray(),
            b"bytes",
            bytearray(b"array"),
            memoryview(b"view"),
            array.array("b", [1, 2]),
        ):
            await trace.wait(f"sendall {data!r}", loop.sock_sendall(ours, data))
        trace(recv_exactly(peer, 5 + 5 + 4 + 2))
        for wrong in ("text", None, 7):
            await trace.wait(f"sendall {wrong!r}", loop.sock_sendall(ours, wrong))
        peer.send(b"0123456789")
        await trace.wait("recv 0", loop.sock_recv(ours, 0))
        await trace.wait("recv 1", loop.sock_recv(ours, 1))
        await trace.wait("recv -1", loop.sock_recv(ours, -1))
        await trace.wait("recv x", loop.sock_recv(ours, "x"))
        buffer = bytearray(3)
        await trace.wait("into", loop.sock_recv_into(ours, buffer))
        trace(buffer)
        await trace.wait("into empty", loop.sock_recv_into(ours, bytearray()))
        await trace.wait("into bytes", loop.sock_recv_into(ours, b"abc"))
        view = memoryview(bytearray(8))
        await trace.wait("into view", loop.sock_recv_into(ours, view[2:5]))
        trace(bytes(view))
        await trace.wait("rest", loop.sock_recv(ours, 100))
        peer.close()
        await trace.wait("end", loop.sock_recv(ours, 100))
        await trace.wait("end", loop.sock_recv_into(ours, buffer))
        await trace.wait("broken", loop.sock_sendall(ours, b"x"))


@scenario
async def datagrams(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with a, b:
        for sock in (a, b):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        for data in (b"one", bytearray(b"two"), memoryview(b"three"), b""):
            await trace.wait("sendto", loop.sock_sendto(a, data, b.getsockname()))
        for size in (100, 2):
            data, address = await loop.sock_recvfrom(b, size)
            trace(data, address == a.getsockname())
        buffer = bytearray(b".........")
        count, address = await loop.sock_recvfrom_into(b, buffer)
        trace(count, buffer, address == a.getsockname())
        count, address = await loop.sock_recvfrom_into(b, buffer, 4)
        trace(count, buffer, address == a.getsockname())
        await trace.wait("too long", loop.sock_recvfrom_into(b, buffer, 100))
        await trace.wait("wrong", loop.sock_sendto(a, b"x", "text"))
        await trace.wait("wrong", loop.sock_sendto(a, "text", b.getsockname()))
        task = asyncio.ensure_future(loop.sock_recvfrom(b, 10))
        await settle()
        task.cancel()
        await trace.wait("cancelled", task)
        await loop.sock_sendto(a, b"later", b.getsockname())
        trace((await loop.sock_recvfrom(b, 10))[0])


@scenario
async def closed_and_blocking(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, peer = unix_pair()
    with peer:
        ours.close()
        await trace.wait("recv", loop.sock_recv(ours, 1))
        await trace.wait("recv_into", loop.sock_recv_into(ours, bytearray(1)))
        await trace.wait("recvfrom", loop.sock_recvfrom(ours, 1))
        await trace.wait("sendall", loop.sock_sendall(ours, b"x"))
        await trace.wait("sendto", loop.sock_sendto(ours, b"x", "p"))
        await trace.wait("accept", loop.sock_accept(ours))
        await trace.wait("connect", loop.sock_connect(ours, "/nowhere"))
    for fd in (-1, ours, "x", None, object(), 1.5):
        for method in (loop.add_reader, loop.add_writer):
            try:
                method(fd, trace)
            except Exception as exc:
                trace("add", type(exc).__name__, str(exc).split(":")[0])
        for method in (loop.remove_reader, loop.remove_writer):
            try:
                trace("remove", method(fd))
            except Exception as exc:
                trace("remove", type(exc).__name__, str(exc).split(":")[0])
    with tempfile.TemporaryFile() as file:
        trace.call("file", loop.add_reader, file, trace)
        trace.call("file", loop.remove_reader, file)
    loop.set_debug(True)
    a, b = socket.socketpair()
    with a, b:
        await trace.wait("recv", loop.sock_recv(a, 1))
        await trace.wait("recv_into", loop.sock_recv_into(a, bytearray(1)))
        await trace.wait("recvfrom", loop.sock_recvfrom(a, 1))
        await trace.wait("recvfrom_into", loop.sock_recvfrom_into(a, bytearray(1)))
        await trace.wait("sendall", loop.sock_sendall(a, b"x"))
        await trace.wait("sendto", loop.sock_sendto(a, b"x", "p"))
        await trace.wait("accept", loop.sock_accept(a))
        await trace.wait("connect", loop.sock_connect(a, "/nowhere"))
        await trace.wait("sendfile", loop.sock_sendfile(a, io.BytesIO(b"x")))
    loop.set_debug(False)


@scenario
async def cancelled_sends(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, peer = unix_pair()
    with ours, peer:
        small_buffers(ours, peer)
        task = asyncio.ensure_future(loop.sock_sendall(ours, pattern(1_000_000)))
        await settle()
        trace("done", task.done())
        task.cancel()
        await trace.wait("cancelled", task)
        trace("writer", loop.remove_writer(ours))
        peer.setblocking(False)
        count = 0
        while True:
            try:
                part = peer.recv(1 << 16)
            except BlockingIOError:
                break
            trace("in order", part == pattern(1_000_000)[count : count + len(part)])
            count += len(part)
        await trace.wait("again", loop.sock_sendall(ours, b"x"))
        trace(peer.recv(10))


@scenario
async def accept_and_connect(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(server))
        await settle()
        await trace.wait("connect", loop.sock_connect(client, server.getsockname()))
        conn, address = await accepting
        trace(address == client.getsockname(), conn.gettimeout(), os.get_inheritable(conn.fileno()))
        await trace.wait("again", loop.sock_connect(client, server.getsockname()))
        conn.close()
    with socket.socket() as client:
        client.setblocking(False)
        await trace.wait("short", loop.sock_connect(client, ("127.0.0.1",)))
        await trace.wait("kind", loop.sock_connect(client, ("127.0.0.1", "no such service")))
        await trace.wait("none", loop.sock_connect(client, None))
        await trace.wait("not listening", loop.sock_accept(client))


@scenario
async def readers(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, peer = unix_pair()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
    with ours, peer:
        var.set("added")

        def first(*args):
            trace("first", args, var.get())
            ours.recv(1)

        trace.call("add", loop.add_reader, ours, first, 1, 2)
        var.set("later")
        peer.send(b"ab")
        await settle()
        trace.call("replace", loop.add_reader, ours.fileno(), lambda: trace("second", ours.recv(9)))
        peer.send(b"cd")
        await settle()

        def failing():
            ours.recv(9)
            raise ArithmeticError("reader")

        loop.add_reader(ours, failing)
        peer.send(b"e")
        await settle()
        peer.send(b"f")
        await settle()

        def removes_itself():
            trace("removes", loop.remove_reader(ours), loop.remove_reader(ours))

        loop.add_reader(ours, removes_itself)
        peer.send(b"g")
        await settle()
        trace("left", ours.recv(9))
        trace.call("not callable", loop.add_reader, ours, 7)
        trace("remove", loop.remove_reader(ours), loop.remove_writer(ours))

        def both_r():
            trace("r", loop.remove_reader(ours))

        def both_w():
            trace("w", loop.remove_writer(ours))

        loop.add_reader(ours, both_r)
        loop.add_writer(ours, both_w)
        peer.send(b"h")
        await settle()
        # The reader removes the writer that is ready in the same turn.
        ours.recv(9)
        loop.add_reader(
            ours, lambda: (trace("r"), loop.remove_reader(ours), loop.remove_writer(ours))
        )
        loop.add_writer(ours, lambda: trace("w, never"))
        await settle(1)
        peer.send(b"i")
        await settle()
        loop.remove_reader(ours)
        loop.remove_writer(ours)


@scenario
async def reader_of_a_pipe(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    r, w = os.pipe()
    done = loop.create_future()

    def readable():
        data = os.read(r, 100)
        trace("read", data)
        if not data:
            loop.remove_reader(r)
            done.set_result(None)

    loop.add_reader(r, readable)
    os.write(w, b"x")
    await settle()
    os.close(w)
    await done
    os.close(r)
    r, w = os.pipe()
    gone = loop.create_future()
    loop.add_writer(w, lambda: gone.done() or gone.set_result(None))
    await gone
    os.close(r)
    loop.remove_writer(w)
    os.close(w)


@scenario
async def a_descriptor_used_again(trace: Trace) -> None:
    """Closed without remove_reader, as programs do, and its number given to another socket."""
    loop = asyncio.get_running_loop()
    ours, peer = unix_pair()
    loop.add_reader(ours, trace, "never")
    fd = ours.fileno()
    loop.remove_reader(ours)
    ours.close()
    other, other_peer = unix_pair()
    trace("same", other.fileno() == fd)
    loop.add_reader(other, lambda: trace("other", other.recv(10)))
    other_peer.send(b"x")
    await settle()
    loop.remove_reader(other)
    for sock in (other, other_peer, peer):
        sock.close()


@scenario
async def two_on_one_socket(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, peer = unix_pair()
    with ours, peer:
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
        small_buffers(ours, peer)
        sending = asyncio.ensure_future(loop.sock_sendall(ours, bytes(500_000)))
        await settle()
        peer.send(b"reply")
        await trace.wait("received", receiving)
        await asyncio.to_thread(recv_exactly, peer, 500_000)
        await trace.wait("sent", sending)


@scenario
async def sendfile(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        file.write(pattern(300_000))
        for pair in (tcp_pair, unix_pair):
            ours, peer = pair()
            with ours, peer:
                for offset, count in (
                    (0, None),
                    (10, 1000),
                    (299_990, 100),
                    (300_000, None),
                    (0, 1),
                ):
                    reading = asyncio.ensure_future(
                        asyncio.to_thread(
                            recv_exactly, peer, min(300_000 - offset, count or 300_000)
                        )
                    )
                    await trace.wait("sendfile", loop.sock_sendfile(ours, file, offset, count))
                    trace(await reading, file.tell())
                for bad in (
                    {"offset": -1},
                    {"offset": 1.5},
                    {"count": 0},
                    {"count": -1},
                    {"count": "x"},
                ):
                    await trace.wait(f"{bad}", loop.sock_sendfile(ours, file, **bad))
                with open(__file__) as text:
                    await trace.wait("text", loop.sock_sendfile(ours, text))
                for fallback in (True, False):
                    await trace.wait(
                        "object", loop.sock_sendfile(ours, io.BytesIO(b"bytes"), fallback=fallback)
                    )
                trace(recv_exactly(peer, 5))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.setblocking(False)
            await trace.wait("datagram", loop.sock_sendfile(datagram, file))


@scenario
async def sendfile_of_transports(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        file.write(pattern(300_000))
        for pair in (tcp_pair, unix_pair):
            ours, peer = pair()
            with peer:
                transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
                transport.write(b"before")
                reading = asyncio.ensure_future(asyncio.to_thread(recv_exactly, peer, 300_006))
                await trace.wait("sendfile", loop.sendfile(transport, file))
                transport.write(b"after")
                trace(await reading, recv_exactly(peer, 5))
                reading = asyncio.ensure_future(asyncio.to_thread(recv_exactly, peer, 5))
                await trace.wait("object", loop.sendfile(transport, io.BytesIO(b"bytes")))
                trace(await reading)
                await trace.wait(
                    "no fallback", loop.sendfile(transport, io.BytesIO(b"x"), fallback=False)
                )
                for bad in ({"offset": -1}, {"count": 0}, {"count": 1.5}):
                    await trace.wait(f"{bad}", loop.sendfile(transport, file, **bad))
                with open(__file__) as text:
                    await trace.wait("text", loop.sendfile(transport, text))
                small_buffers(ours, peer)
                sending = asyncio.ensure_future(loop.sendfile(transport, file))
                await settle()
                trace.call("write", transport.write, b"x")
                trace.call("writelines", transport.writelines, [b"x"])
                trace("eof", transport.can_write_eof())
                with pytest.raises((RuntimeError, KeyError)):
                    await loop.sendfile(transport, file)
                reading = asyncio.ensure_future(asyncio.to_thread(recv_exactly, peer, 300_000))
                await trace.wait("first", sending)
                await reading
                trace("reading", transport.is_reading())
                sending = asyncio.ensure_future(loop.sendfile(transport, file))
                await settle()
                sending.cancel()
                await trace.wait("cancelled", sending)
                trace("reading", transport.is_reading())
                transport.abort()
                await trace.wait("closed", loop.sendfile(transport, file))
                await settle()
        await trace.wait("none", loop.sendfile(None, file))
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        with pytest.raises(RuntimeError, match="sendfile is not supported"):
            await loop.sendfile(transport, file)
        transport.close()
        await settle()


def test_a_sendfile_that_is_cancelled_before_it_begins_leaves_the_transport_as_it_was(
    clearway_factory,
):
    async def main() -> None:  # asyncio's stays paused, and refuses to write
        loop = asyncio.get_running_loop()
        ours, peer = unix_pair()
        small_buffers(ours, peer)
        with peer, tempfile.TemporaryFile() as file:
            file.write(b"never")
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
            transport.write(bytes(500_000))
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await settle()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert transport.is_reading()
            transport.write(b"after")
            data = await asyncio.to_thread(recv_exactly, peer, 500_005)
            assert data[-5:] == b"after"
            transport.abort()
            await settle()

    run(clearway_factory, main)
