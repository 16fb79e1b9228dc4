"""Servers: contexts of what they accept, closing, errors of factories."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys

import pytest

from ...support.net import dial, recv_all, settle
from .harness import DatagramTracer, Scenarios, StreamTracer, Trace, compare, own_text

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


@scenario
async def contexts_of_accepted_connections(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    def factory():
        trace("factory", var.get())
        var.set("factory")
        return StreamTracer(trace, made=see, data=see, eof=see, lost=see)

    var.set("server")
    server = await loop.create_server(factory, "127.0.0.1", 0)
    var.set("later")
    for _ in range(2):
        with dial(server.sockets[0].getsockname()) as peer:
            await settle()
            peer.send(b"x")
            await settle()
        await settle()
    server.close()
    await server.wait_closed()


@scenario
async def contexts_of_stream_handlers(trace: Trace) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    async def handler(reader, writer):
        trace("handler", var.get())
        var.set("handler")
        writer.close()
        await writer.wait_closed()

    var.set("server")
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    var.set("later")
    for _ in range(2):
        with dial(server.sockets[0].getsockname()) as peer:
            await settle()
            trace(await asyncio.to_thread(recv_all, peer))
    await settle()
    server.close()
    await server.wait_closed()


@scenario
async def contexts_of_pipes_and_datagrams(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    ours, peer = socket.socketpair()
    var.set("read pipe")
    p = StreamTracer(trace, made=see, data=see, eof=see, lost=see)
    await loop.connect_read_pipe(lambda: p, ours)
    var.set("later")
    peer.send(b"x")
    await settle()
    peer.close()
    await p.lost

    ours, peer = socket.socketpair()
    var.set("write pipe")
    p = StreamTracer(trace, "w", made=see, lost=see)
    await loop.connect_write_pipe(lambda: p, ours)
    var.set("later")
    peer.close()
    await p.lost

    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    var.set("datagrams")
    d = DatagramTracer(trace, "d", made=see, datagram=see, error=see, lost=see)
    transport, _ = await loop.create_datagram_endpoint(lambda: d, sock=ours)
    var.set("later")
    peer.send(b"x")
    await settle()
    var.set("closing")
    transport.close()
    await d.lost
    peer.close()


@scenario
async def closing_a_server(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StreamTracer(trace), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    trace("serving", server.is_serving(), len(server.sockets), server.get_loop() is loop)
    peer = dial(address)
    await settle()
    server.close()
    server.close()
    trace("serving", server.is_serving(), server.sockets)
    try:
        dial(address)
    except OSError as exc:
        trace(type(exc).__name__)
    peer.send(b"still served")
    await settle()
    peer.close()
    await settle()
    await trace.wait("wait_closed", server.wait_closed())
    await trace.wait("start_serving", server.start_serving())


@scenario
async def start_serving_later(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: StreamTracer(trace, made=lambda p: p.transport.close()),
        "127.0.0.1",
        0,
        start_serving=False,
    )
    trace("serving", server.is_serving())
    await server.start_serving()
    await server.start_serving()
    trace("serving", server.is_serving())
    with dial(server.sockets[0].getsockname()) as peer:
        trace(await asyncio.to_thread(recv_all, peer))
    task = asyncio.ensure_future(server.serve_forever())
    await settle()
    try:
        await server.serve_forever()
    except RuntimeError as exc:
        trace("second", "already being awaited" in str(exc))
    task.cancel()
    await trace.wait("first", task)
    trace("serving", server.is_serving())


@scenario
async def bad_arguments(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        factory = asyncio.Protocol
        await trace.wait("host and sock", loop.create_server(factory, "127.0.0.1", 0, sock=stream))
        await trace.wait("neither", loop.create_server(factory))
        await trace.wait("datagram", loop.create_server(factory, sock=datagram))
        await trace.wait("ssl", loop.create_server(factory, "127.0.0.1", 0, ssl="yes"))
        await trace.wait(
            "timeout", loop.create_server(factory, "127.0.0.1", 0, ssl_handshake_timeout=1)
        )
        await trace.wait(
            "connect: both", loop.create_connection(factory, "127.0.0.1", 1, sock=stream)
        )
        await trace.wait("connect: neither", loop.create_connection(factory))
        await trace.wait("connect: datagram", loop.create_connection(factory, sock=datagram))
        await trace.wait(
            "connect: name", loop.create_connection(factory, "127.0.0.1", 1, server_hostname="x")
        )
        await trace.wait("connect: ssl", loop.create_connection(factory, sock=stream, ssl=True))
        await trace.wait("accepted: datagram", loop.connect_accepted_socket(factory, datagram))
        await trace.wait("endpoint", loop.create_datagram_endpoint(asyncio.DatagramProtocol))
        await trace.wait("unix", loop.create_unix_server(factory))
        await trace.wait(
            "unix: missing", loop.create_unix_connection(factory, "/nonexistent/socket")
        )
        await trace.wait("tls: transport", loop.start_tls(None, factory(), None))


@scenario
async def refused_connections(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    free = []
    for _ in range(2):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        free.append(sock)
    address = free[0].getsockname()

    def without_port(exc: BaseException) -> str:
        text = f"{type(exc).__name__} {own_text(exc)}"
        for sock in free:
            text = text.replace(str(sock.getsockname()[1]), "PORT")
        return text

    try:
        await loop.create_connection(asyncio.Protocol, *address)
    except OSError as exc:
        trace(without_port(exc))
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as exc:
            trace(without_port(exc), exc.errno)
    if sys.version_info >= (3, 12):
        try:
            await loop.create_connection(asyncio.Protocol, *address, all_errors=True)
        except BaseExceptionGroup as exc:
            trace(without_port(exc.exceptions[0]))
    for sock in free:
        sock.close()
