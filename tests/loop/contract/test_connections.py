"""Making connections and servers: every way to say where, and everything that is refused."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pathlib
import socket
import ssl
import sys
import tempfile

import pytest

from ...support.certs import client_context, server_context
from ...support.net import dial, recv_all, settle
from .harness import Scenarios, StreamTracer, Trace, compare, own_text

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


def failure(exc: BaseException, *ports: int) -> str:
    said = own_text(exc)
    if said.startswith("Multiple exceptions"):  # each with what clearway adds to it
        said = f"Multiple exceptions: {said.count('Connect call failed')}"
    text = f"{type(exc).__name__} {getattr(exc, 'errno', '')} {said}"
    for port in ports:
        text = text.replace(str(port), "PORT")
    if isinstance(exc, BaseExceptionGroup):
        text += str([failure(part, *ports) for part in exc.exceptions])
    return text


@scenario
async def kinds_of_hosts(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    for label, args, options in (
        ("address", ("127.0.0.1", 0), {}),
        ("name", ("localhost", 0), {"family": socket.AF_INET}),
        ("bytes", (b"127.0.0.1", 0), {}),
        ("list", (["127.0.0.1", "127.0.0.2"], 0), {}),
        ("same twice", (["127.0.0.1", "127.0.0.1"], 0), {}),
        ("none", (None, 0), {}),
        ("empty", ("", 0), {}),
        ("port as text", ("127.0.0.1", "0"), {}),
        ("port as bytes", ("127.0.0.1", b"0"), {}),
        ("no port", ("127.0.0.1", None), {}),
        ("six", ("::1", 0), {}),
        ("six any", ("::", 0), {}),
        ("six by name", ("localhost", 0), {"family": socket.AF_INET6}),
        ("wrong port", ("127.0.0.1", "no such service"), {}),
        ("port too large", ("127.0.0.1", 70000), {}),
        ("negative port", ("127.0.0.1", -1), {}),
        ("wrong family", ("127.0.0.1", 0), {"family": socket.AF_INET6}),
        ("object", (object(), 0), {}),
        ("reuse_address", ("127.0.0.1", 0), {"reuse_address": False}),
        ("reuse_port", ("127.0.0.1", 0), {"reuse_port": True}),
        ("backlog", ("127.0.0.1", 0), {"backlog": 1}),
        ("backlog 0", ("127.0.0.1", 0), {"backlog": 0}),
        ("backlog -1", ("127.0.0.1", 0), {"backlog": -1}),
        ("flags", ("127.0.0.1", 0), {"flags": socket.AI_NUMERICHOST}),
        ("keep_alive", ("127.0.0.1", 0), {"keep_alive": True}),
        ("nonsense", ("127.0.0.1", 0), {"nonsense": 1}),
    ):
        try:
            server = await loop.create_server(asyncio.Protocol, *args, **options)
        except BaseException as exc:
            trace(label, type(exc).__name__, getattr(exc, "errno", ""))
            continue
        found = []
        for sock in server.sockets:
            keys = [
                (socket.SOL_SOCKET, socket.SO_REUSEADDR),
                (socket.SOL_SOCKET, socket.SO_REUSEPORT),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            ]
            if sock.family == socket.AF_INET6:
                keys.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
            told = tuple(sock.getsockopt(*key) for key in keys)
            found.append((sock.family.name, sock.getsockname()[0], told, type(sock).__name__))
        trace(label, sorted(map(str, found)), os.get_inheritable(server.sockets[0].fileno()))
        server.close()
        await server.wait_closed()


@scenario
async def sockets_of_the_program(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    for listening in (False, True):
        for blocking in (False, True):
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            if listening:
                sock.listen(5)
            sock.setblocking(blocking)
            server = await loop.create_server(
                lambda: StreamTracer(trace, made=lambda p: p.transport.close()), sock=sock
            )
            trace("blocking", sock.getblocking(), server.sockets[0].fileno() == sock.fileno())
            with dial(sock.getsockname()) as peer:
                trace(await asyncio.to_thread(recv_all, peer))
            server.close()
            trace("closed", sock.fileno(), server.sockets)
            await server.wait_closed()
            await settle()
    # Two servers on one socket, one after the other.
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    copy = sock.dup()
    first = await loop.create_server(asyncio.Protocol, sock=sock)
    first.close()
    await first.wait_closed()
    second = await loop.create_server(
        lambda: StreamTracer(trace, made=lambda p: p.transport.close()), sock=copy
    )
    with dial(copy.getsockname()) as peer:
        trace(await asyncio.to_thread(recv_all, peer))
    second.close()
    await second.wait_closed()
    await settle()


@scenario
async def connecting(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: StreamTracer(trace, "s", eof=lambda p: None), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    closed = free.getsockname()[1]
    sock = socket.socket()
    connected = socket.create_connection(("127.0.0.1", port))
    for label, args, options in (
        ("plain", ("127.0.0.1", port), {}),
        ("name", ("localhost", port), {"family": socket.AF_INET}),
        ("text port", ("127.0.0.1", str(port)), {}),
        ("any family", ("localhost", port), {}),
        ("local", ("127.0.0.1", port), {"local_addr": ("127.0.0.1", 0)}),
        ("local other", ("127.0.0.1", port), {"local_addr": ("127.0.0.3", 0)}),
        ("local six", ("127.0.0.1", port), {"local_addr": ("::1", 0)}),
        ("local in use", ("127.0.0.1", port), {"local_addr": ("127.0.0.1", closed)}),
        ("local wrong", ("127.0.0.1", port), {"local_addr": ("192.0.2.1", 0)}),
        ("eyeballs", ("localhost", port), {"happy_eyeballs_delay": 0.01}),
        ("eyeballs", ("localhost", port), {"happy_eyeballs_delay": 0.01, "interleave": 2}),
        ("interleave", ("localhost", port), {"interleave": 1}),
        ("refused", ("127.0.0.1", closed), {}),
        ("refused all", ("localhost", closed), {"family": socket.AF_INET}),
        ("eyeballs refused", ("127.0.0.1", closed), {"happy_eyeballs_delay": 0.01}),
        ("sock", (), {"sock": connected}),
        ("unconnected", (), {"sock": sock}),
        ("flags", ("localhost", port), {"flags": socket.AI_NUMERICHOST}),
        ("proto", ("127.0.0.1", port), {"proto": socket.IPPROTO_TCP}),
        ("proto", ("127.0.0.1", port), {"proto": socket.IPPROTO_UDP}),
        ("port None", ("127.0.0.1", None), {}),
        ("host None", (None, closed), {"family": socket.AF_INET}),
        ("nonsense", ("127.0.0.1", port), {"nonsense": 1}),
    ):
        p = StreamTracer(trace, "c")
        p.connection_made = lambda transport: None  # type: ignore[method-assign]
        try:
            transport, made = await loop.create_connection(lambda p=p: p, *args, **options)
        except BaseException as exc:
            trace(label, failure(exc, port, closed)[:120])
            continue
        name = transport.get_extra_info("sockname")[0]
        trace(label, made is p, name, transport.get_extra_info("peername")[0])
        await settle()
        transport.close()
        await settle()
    sock.close()
    free.close()
    server.close()
    await server.wait_closed()


@scenario
async def several_addresses(trace: Trace) -> None:
    """A name of which the first addresses refuse."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: StreamTracer(trace, "s", made=lambda p: p.transport.close()), "127.0.0.5", 0
    )
    port = server.sockets[0].getsockname()[1]
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    plain = loop.getaddrinfo

    def resolve(addresses):
        async def getaddrinfo(host, port, **_):
            return [(*kind, (address, port)) for address in addresses]

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]

    for addresses, options in (
        (["127.0.0.2", "127.0.0.3", "127.0.0.5"], {}),
        (["127.0.0.2", "127.0.0.5"], {"happy_eyeballs_delay": 5}),
        (["127.0.0.2", "127.0.0.3"], {}),
        (["127.0.0.2", "127.0.0.3"], {"happy_eyeballs_delay": 0.01}),
        (["127.0.0.2", "127.0.0.3"], {"all_errors": True}),
        ([], {}),
    ):
        if "all_errors" in options and sys.version_info < (3, 12):
            continue
        resolve(addresses)
        try:
            reader, writer = await asyncio.open_connection("name", port, **options)
        except BaseException as exc:
            trace(addresses, options, failure(exc, port))
        else:
            trace(addresses, options, writer.get_extra_info("peername")[0], await reader.read())
            writer.close()
            await writer.wait_closed()
        await settle()
    loop.getaddrinfo = plain  # type: ignore[method-assign]
    server.close()
    await server.wait_closed()


@scenario
async def factories_that_fail(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    def broken():
        raise ArithmeticError("factory")

    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    before = len(os.listdir("/proc/self/fd"))
    await trace.wait("connect", loop.create_connection(broken, *address))
    await trace.wait(
        "tls",
        loop.create_connection(broken, *address, ssl=client_context(), server_hostname="x"),
    )
    await settle()
    trace(len(os.listdir("/proc/self/fd")) - before)
    await trace.wait("endpoint", loop.create_datagram_endpoint(broken, local_addr=("127.0.0.1", 0)))
    with socket.socket() as sock:
        sock.connect(address)
        await trace.wait("sock", loop.create_connection(broken, sock=sock))
        trace("open", sock.fileno() >= 0)
    with socket.socket() as sock:
        sock.connect(address)
        await trace.wait("accepted", loop.connect_accepted_socket(broken, sock))
        trace("open", sock.fileno() >= 0)
    server.close()
    await settle()


@scenario
async def cancelled_while_connecting(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as full:
        # Nobody accepts and the queue is full: a further connection waits.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        held = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            held.append(sock)
        before = len(os.listdir("/proc/self/fd"))
        for options in ({}, {"happy_eyeballs_delay": 0.01}):
            task = asyncio.ensure_future(
                loop.create_connection(asyncio.Protocol, *full.getsockname(), **options)
            )
            await settle()
            trace("done", task.done())
            task.cancel()
            await trace.wait("cancelled", task)
            trace(len(os.listdir("/proc/self/fd")) - before)
        await trace.wait(
            "timeout",
            asyncio.wait_for(loop.create_connection(asyncio.Protocol, *full.getsockname()), 0.01),
        )
        trace(len(os.listdir("/proc/self/fd")) - before)
        for sock in held:
            sock.close()


@scenario
async def unix_paths(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="cw-") as directory:
        path = os.path.join(directory, "s")
        for kind in (path, os.fsencode(path), pathlib.Path(path), "\0cw-contract-test"):
            server = await loop.create_unix_server(
                lambda: StreamTracer(trace, "s", made=lambda p: p.transport.close()), kind
            )
            name = server.sockets[0].getsockname()
            trace(type(kind).__name__, "exists", os.path.exists(path))
            if isinstance(name, str):
                name = name.replace(directory, "DIR")
            trace("name", name)
            reader, writer = await asyncio.open_unix_connection(kind)
            trace(await reader.read(), writer.get_extra_info("sockname"))
            peer = writer.get_extra_info("peername")
            trace("peer", peer.replace(directory, "DIR") if isinstance(peer, str) else peer)
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
            trace("exists", os.path.exists(path))
        # A socket that was left behind is replaced; one in use as well; what is no socket is not.
        for _ in range(2):
            server = await loop.create_unix_server(asyncio.Protocol, path)
            if sys.version_info >= (3, 13):
                keep = await loop.create_unix_server(
                    asyncio.Protocol, path + "k", cleanup_socket=False
                )
                keep.close()
                trace("kept", os.path.exists(path + "k"))
            second = await loop.create_unix_server(asyncio.Protocol, path)
            server.close()
            trace("exists", os.path.exists(path))
            second.close()
            trace("exists", os.path.exists(path))
        if os.path.exists(path):
            os.unlink(path)
        with open(path, "w"):
            pass
        for label, coroutine in (
            ("file", loop.create_unix_server(asyncio.Protocol, path)),
            ("file", loop.create_unix_connection(asyncio.Protocol, path)),
            ("missing", loop.create_unix_server(asyncio.Protocol, directory + "/no/such")),
            ("missing", loop.create_unix_connection(asyncio.Protocol, directory + "/no")),
            ("long", loop.create_unix_server(asyncio.Protocol, "/tmp/" + "x" * 200)),
            ("long", loop.create_unix_connection(asyncio.Protocol, "/tmp/" + "x" * 200)),
            ("number", loop.create_unix_server(asyncio.Protocol, 7)),
            ("nothing", loop.create_unix_server(asyncio.Protocol)),
            ("nothing", loop.create_unix_connection(asyncio.Protocol)),
            ("hostname", loop.create_unix_connection(asyncio.Protocol, path, server_hostname="x")),
            ("ssl", loop.create_unix_connection(asyncio.Protocol, path, ssl=True)),
        ):
            try:
                await coroutine
            except Exception as exc:
                trace(
                    label,
                    type(exc).__name__,
                    getattr(exc, "errno", ""),
                    own_text(exc).replace(directory, "DIR"),
                )
        stream = socket.socket()
        await trace.wait("not unix", loop.create_unix_server(asyncio.Protocol, sock=stream))
        await trace.wait("not unix", loop.create_unix_connection(asyncio.Protocol, sock=stream))
        await trace.wait("both", loop.create_unix_server(asyncio.Protocol, path, sock=stream))
        stream.close()


@scenario
async def servers_of_streams(trace: Trace) -> None:
    order = []

    async def handler(reader, writer):
        order.append(await reader.readline())
        writer.write(b"answer\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        order.append("done")

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"question\n")
        trace(await reader.read())
        writer.close()
        await writer.wait_closed()
        await settle()
        trace(order, server.is_serving())
    trace(server.is_serving(), repr(server).startswith("<Server sockets="))


@scenario
async def closing_clients(trace: Trace) -> None:
    if sys.version_info < (3, 13):
        return
    loop = asyncio.get_running_loop()
    for how in ("close_clients", "abort_clients"):
        server = await loop.create_server(lambda: StreamTracer(trace, "s"), "127.0.0.1", 0)
        peers = []
        for _ in range(2):
            peers.append(dial(server.sockets[0].getsockname()))
            await settle()
        getattr(server, how)()
        await settle()
        server.close()
        await server.wait_closed()
        trace(how, [recv_all(peer) for peer in peers])
        for peer in peers:
            peer.close()


@scenario
async def waiting_for_the_end_of_a_server(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StreamTracer(trace, "s"), "127.0.0.1", 0)
    with dial(server.sockets[0].getsockname()):
        await settle()
        before = asyncio.ensure_future(server.wait_closed())
        await settle()
        trace("open", before.done())
        server.close()
        after = asyncio.ensure_future(server.wait_closed())
        await settle()
        trace("closed", before.done(), after.done())
    await settle()
    trace("gone", before.done(), after.done())
    await asyncio.gather(before, after)
    await trace.wait("again", server.wait_closed())


@scenario
async def protocols_of_a_server_that_fail(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    def broken(*what):
        raise ArithmeticError("of the protocol")

    for where in ("made", "data", "eof", "lost"):
        server = await loop.create_server(
            lambda where=where: StreamTracer(trace, where, **{where: broken}), "127.0.0.1", 0
        )
        with dial(server.sockets[0].getsockname()) as peer:
            await settle()
            peer.send(b"x")
            await settle()
        await settle()
        with dial(server.sockets[0].getsockname()):
            await settle()
        await settle()
        server.close()
        await server.wait_closed()


@scenario
async def tls_servers_and_clients_that_do_not_agree(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: StreamTracer(trace, "s"), "127.0.0.1", 0, ssl=server_context()
    )
    address = server.sockets[0].getsockname()
    for label, options in (
        ("untrusted", {"ssl": client_context(trusting=False), "server_hostname": "localhost"}),
        ("wrong name", {"ssl": client_context(), "server_hostname": "example.org"}),
    ):
        try:
            await loop.create_connection(lambda: StreamTracer(trace, "c"), *address, **options)
        except ssl.SSLError as exc:
            trace(label, type(exc).__name__, exc.reason)
        await settle()
    with dial(address) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        await asyncio.to_thread(recv_all, peer)
    await settle()
    with dial(address):
        await settle()
    await settle()
    server.close()
    await server.wait_closed()


@scenario
async def names(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    for args, options in (
        (("127.0.0.1", 80), {"type": socket.SOCK_STREAM}),
        (("127.0.0.1", "http"), {"type": socket.SOCK_STREAM}),
        ((None, 80), {"type": socket.SOCK_STREAM, "family": socket.AF_INET}),
        (("::1", 80), {"type": socket.SOCK_STREAM, "flags": socket.AI_NUMERICHOST}),
        (("x", 80), {"flags": socket.AI_NUMERICHOST}),
        (("127.0.0.1", "no such service"), {}),
        ((7, 80), {}),
    ):
        try:
            trace(args, await loop.getaddrinfo(*args, **options))
        except Exception as exc:
            trace(args, type(exc).__name__, exc.args[0] if isinstance(exc, OSError) else exc)
    await trace.wait("info", loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST))
    await trace.wait("wrong", loop.getnameinfo(("127.0.0.1",), 0))


@scenario
async def contexts_of_connections(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    server = await loop.create_server(
        lambda: StreamTracer(trace, "s", made=lambda p: p.transport.write(b"x")), "127.0.0.1", 0
    )
    for options in ({}, {"happy_eyeballs_delay": 0.1}):
        var.set("connecting")
        p = StreamTracer(trace, "c", made=see, data=see, lost=see)
        transport, _ = await loop.create_connection(
            lambda p=p: p, *server.sockets[0].getsockname(), **options
        )
        var.set("later")
        await settle()
        transport.close()
        await p.lost
        await settle()
    server.close()
    await server.wait_closed()
