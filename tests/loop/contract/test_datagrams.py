"""Datagram transports: order of callbacks, pausing, addresses, errors, closing."""

from __future__ import annotations

import array
import asyncio
import contextvars
import os
import socket
import tempfile

import pytest

from ...support.net import PEER_TIMEOUT_S, settle
from .harness import DatagramTracer, Scenarios, Trace, compare, own_text

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


def plain() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(PEER_TIMEOUT_S)
    return sock


async def endpoint(trace: Trace, name: str = "d", on=None, **options):
    protocol = DatagramTracer(trace, name, **(on or {}))
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(lambda: protocol, **options)
    assert made is protocol
    return transport, protocol


LOCAL = {"local_addr": ("127.0.0.1", 0)}


@scenario
async def life(trace: Trace) -> None:
    transport, p = await endpoint(trace, **LOCAL)
    name = transport.get_extra_info("sockname")
    trace("closing", transport.is_closing(), "peer", transport.get_extra_info("peername"))
    with plain() as peer:
        peer.sendto(b"one", name)
        await settle()
        transport.sendto(b"answer", peer.getsockname())
        trace(peer.recv(100))
    transport.close()
    transport.close()
    trace("closing", transport.is_closing())
    await p.lost
    transport.close()
    transport.abort()
    trace("socket", transport.get_extra_info("socket").fileno())


@scenario
async def pausing(trace: Trace) -> None:
    transport, p = await endpoint(trace, **LOCAL)
    name = transport.get_extra_info("sockname")
    with plain() as peer:
        trace("reading", transport.is_reading())
        transport.pause_reading()
        transport.pause_reading()
        trace("reading", transport.is_reading())
        peer.sendto(b"waits", name)
        await settle()
        trace("resume")
        transport.resume_reading()
        transport.resume_reading()
        await settle()
        trace("reading", transport.is_reading())
        peer.sendto(b"goes", name)
        await settle()
    transport.close()
    trace("reading", transport.is_reading())
    transport.pause_reading()
    transport.resume_reading()
    await p.lost
    transport.pause_reading()
    transport.resume_reading()


@scenario
async def pausing_in_callbacks(trace: Trace) -> None:
    def pause(p, *_):
        p.transport.pause_reading()

    transport, p = await endpoint(trace, on={"made": pause, "datagram": pause}, **LOCAL)
    name = transport.get_extra_info("sockname")
    with plain() as peer:
        for number in range(4):
            peer.sendto(b"%d" % number, name)
        await settle()
        for _ in range(5):
            trace("resume")
            transport.resume_reading()
            await settle()
    transport.close()
    await p.lost


@scenario
async def a_stream_s_methods(trace: Trace) -> None:
    transport, p = await endpoint(trace, **LOCAL)
    for name, args in (
        ("write", (b"x",)),
        ("writelines", ([b"x"],)),
        ("write_eof", ()),
        ("can_write_eof", ()),
    ):
        try:
            getattr(transport, name)(*args)
        except NotImplementedError:
            trace(name, "NotImplementedError")
    trace(transport.get_write_buffer_limits(), transport.get_write_buffer_size())
    for limits in ({"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 0}, {"low": 3}):
        trace.call("limits", lambda limits=limits: transport.set_write_buffer_limits(**limits))
        trace("limits", transport.get_write_buffer_limits())
    trace(
        "kinds",
        [
            isinstance(transport, kind)
            for kind in (asyncio.Transport, asyncio.ReadTransport, asyncio.BaseTransport)
        ],
    )
    transport.close()
    await p.lost


@scenario
async def kinds_of_data(trace: Trace) -> None:
    with plain() as peer:
        transport, p = await endpoint(trace, remote_addr=peer.getsockname())
        for data in (
            b"bytes",
            bytearray(b"array"),
            memoryview(b"view"),
            memoryview(b"a-b-c-")[::2],
            memoryview(array.array("I", [1, 2])),
            b"",
            bytearray(),
            "text",
            None,
            7,
            [b"x"],
            array.array("b", [1]),
        ):
            trace.call(f"send {data!r}", transport.sendto, data)
            await settle()
        peer.setblocking(False)
        while True:
            try:
                trace(peer.recv(100))
            except BlockingIOError:
                break
        transport.close()
        await p.lost


@scenario
async def addresses(trace: Trace) -> None:
    with plain() as peer, plain() as other:
        name = peer.getsockname()
        transport, p = await endpoint(trace, remote_addr=name)
        trace("peer", transport.get_extra_info("peername") == name)
        trace.call("none", transport.sendto, b"none")
        trace.call("its own", transport.sendto, b"own", name)
        try:
            transport.sendto(b"x", other.getsockname())
        except ValueError as exc:
            trace("other", str(exc).startswith("Invalid address"))
        trace([peer.recv(9), peer.recv(9)])
        transport.close()
        await p.lost
        for wrong in (("127.0.0.1",), ("127.0.0.1", "x"), 7, "text", ("127.0.0.1", 70000)):
            transport, p = await endpoint(trace, **LOCAL)
            trace.call(f"wrong {wrong!r}", transport.sendto, b"x", wrong)
            await settle()
            trace("closing", transport.is_closing())
            transport.close()
            await p.lost


@scenario
async def no_address(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: trace(type(context["exception"]).__name__))
    p = DatagramTracer(trace, "d")
    p.connection_lost = lambda exc: trace("lost", type(exc).__name__)  # type: ignore[method-assign]
    transport, _ = await loop.create_datagram_endpoint(lambda: p, **LOCAL)
    transport.sendto(b"x")
    await settle()
    loop.set_exception_handler(before)
    trace("closing", transport.is_closing())


@scenario
async def refused(trace: Trace) -> None:
    with plain() as peer:
        name = peer.getsockname()
    transport, p = await endpoint(trace, remote_addr=name)
    transport.sendto(b"one")
    await settle()
    trace("between")
    transport.sendto(b"two")
    await settle()
    transport.sendto(b"three")
    trace("at once")
    await settle()
    trace("closing", transport.is_closing())
    transport.abort()
    trace("aborted")
    await p.lost


@scenario
async def callbacks_that_fail(trace: Trace) -> None:
    def fail(p, *what):
        raise ArithmeticError("of the protocol")

    transport, p = await endpoint(trace, on={"made": fail, "datagram": fail, "lost": fail}, **LOCAL)
    with plain() as peer:
        for number in range(2):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            await settle()
    trace("closing", transport.is_closing())
    transport.close()
    await p.lost
    await settle()
    with plain() as peer:
        name = peer.getsockname()
    transport, p = await endpoint(trace, on={"error": fail}, remote_addr=name)
    transport.sendto(b"x")
    await settle()
    trace("closing", transport.is_closing())
    transport.close()
    await p.lost


@scenario
async def closing_in_callbacks(trace: Trace) -> None:
    for how in ("close", "abort"):

        def end(p, *what, how=how):
            getattr(p.transport, how)()

        for where in ("made", "datagram"):
            transport, p = await endpoint(trace, f"{how} in {where}", on={where: end}, **LOCAL)
            name = transport.get_extra_info("sockname")
            with plain() as peer:
                for number in range(3):
                    peer.sendto(b"%d" % number, name)
                await p.lost
                await settle()


@scenario
async def sending_after_close(trace: Trace) -> None:
    with plain() as peer:
        transport, p = await endpoint(trace, remote_addr=peer.getsockname())
        transport.close()
        for _ in range(8):
            trace.call("closing", transport.sendto, b"late")
        await p.lost
        peer.setblocking(False)
        try:
            trace(peer.recv(100))
        except BlockingIOError:
            trace("nothing")
        transport, p = await endpoint(trace, **LOCAL)
        transport.close()
        trace.call("closing", transport.sendto, b"late", peer.getsockname())
        try:
            trace(peer.recv(100))
        except BlockingIOError:
            trace("nothing")
        await p.lost


@scenario
async def contexts_of_errors(trace: Trace) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    with plain() as peer:
        name = peer.getsockname()
    var.set("made")
    transport, p = await endpoint(trace, on=dict.fromkeys(("error", "lost"), see), remote_addr=name)
    var.set("sending")
    transport.sendto(b"x")
    await settle()
    transport.sendto(b"x")
    transport.sendto(b"x")
    var.set("aborting")
    transport.abort()
    var.set("later")
    await p.lost


@scenario
async def unix_names(trace: Trace) -> None:
    with tempfile.TemporaryDirectory(prefix="cw-") as directory:
        path = os.path.join(directory, "s")
        transport, p = await endpoint(trace, local_addr=path, family=socket.AF_UNIX)
        trace("name", transport.get_extra_info("sockname") == path)
        trace("peer", transport.get_extra_info("peername"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"one", path)
            peer.sendto(b"", path)
            await settle()
        other, q = await endpoint(trace, "q", remote_addr=path, family=socket.AF_UNIX)
        other.sendto(b"two")
        other.sendto(b"three", path)
        await settle()
        trace("exists", os.path.exists(path))
        for t, protocol in ((transport, p), (other, q)):
            t.close()
            await protocol.lost
        trace("exists", os.path.exists(path))
        # A socket that was left is replaced; what is no socket is not.
        transport, p = await endpoint(trace, local_addr=path, family=socket.AF_UNIX)
        transport.close()
        await p.lost
        os.unlink(path)
        with open(path, "w"):
            pass
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=path, family=socket.AF_UNIX
            )
        except OSError as exc:
            trace(type(exc).__name__, exc.errno)


@scenario
async def ways_to_make_one(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    async def make(label, **options):
        try:
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, **options)
        except BaseException as exc:
            trace(label, type(exc).__name__, own_text(exc).replace(str(PORT), "PORT")[:40])
            return
        sock = transport.get_extra_info("socket")
        trace(
            label,
            sock.family.name,
            sock.type.name,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST),
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT),
            sock.gettimeout(),
        )
        transport.abort()
        await settle()

    with plain() as peer:
        PORT = peer.getsockname()[1]
        await make("nothing")
        await make("family", family=socket.AF_INET)
        await make("family 6", family=socket.AF_INET6)
        await make("unix", family=socket.AF_UNIX)
        await make("broadcast", family=socket.AF_INET, allow_broadcast=True)
        await make("reuse_port", **LOCAL, reuse_port=True)
        await make("reuse_address", **LOCAL, reuse_address=True)
        await make("in use", local_addr=("127.0.0.1", PORT))
        await make("remote 4 local 6", local_addr=("::1", 0), remote_addr=("127.0.0.1", PORT))
        await make("remote text", remote_addr="127.0.0.1")
        await make("local triple", local_addr=("127.0.0.1", 0, 0))
        await make("unix tuple", local_addr=("127.0.0.1", 0), family=socket.AF_UNIX)
        await make("flags", **LOCAL, flags=socket.AI_NUMERICHOST)
        await make("proto", **LOCAL, proto=socket.IPPROTO_UDP)
        await make("proto", **LOCAL, proto=socket.IPPROTO_TCP)
        await make("sock blocking", sock=socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with socket.socket() as stream:
            await make("sock stream", sock=stream)
            await make("sock and more", sock=peer, **LOCAL, reuse_port=True)
            await make("object", sock=object())


@scenario
async def order_of_answers(trace: Trace) -> None:
    def answer(p, data):
        p.transport.sendto(b"to " + data, peer.getsockname())
        asyncio.get_running_loop().call_soon(trace, "soon after", data)

    with plain() as peer:
        transport, p = await endpoint(trace, on={"datagram": answer}, **LOCAL)
        name = transport.get_extra_info("sockname")
        for number in range(5):
            peer.sendto(b"%d" % number, name)
            await settle()
        trace([peer.recv(9) for _ in range(5)])
        transport.close()
        await p.lost


@scenario
async def extra_info(trace: Trace) -> None:
    with plain() as peer:
        for options in (LOCAL, {"remote_addr": peer.getsockname()}):
            transport, p = await endpoint(trace, **options)
            trace(sorted(transport._extra))
            for name in ("sslcontext", "pipe", "nothing"):
                trace(name, transport.get_extra_info(name), transport.get_extra_info(name, 7))
            trace("protocol", transport.get_protocol() is p)
            q = DatagramTracer(trace, "q")
            transport.set_protocol(q)
            trace("protocol", transport.get_protocol() is q)
            transport.close()
            await q.lost
            trace("protocol", transport.get_protocol())
