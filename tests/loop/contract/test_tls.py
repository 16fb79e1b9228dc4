"""TLS transports: order of callbacks, ends, errors, what is refused."""

from __future__ import annotations

import array
import asyncio
import contextvars
import io
import ssl
import tempfile

import pytest

from ...support.certs import client_context, server_context
from ...support.net import reset, settle, tcp_pair
from .harness import BufferTracer, Scenarios, StreamTracer, Trace, compare

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


class Peer:
    """The other end by hand: the records of an ``ssl.SSLObject`` over a blocking socket, all in this thread."""

    def __init__(self, sock, server_side=False):
        self.sock = sock
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        context = server_context() if server_side else client_context()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )

    async def do(self, operation, *args):
        """Until OpenSSL is content; the loop runs meanwhile."""
        while True:
            try:
                result = operation(*args)
            except ssl.SSLWantReadError:
                self.flush()
                await settle()
                self.take()
            else:
                self.flush()
                await settle()
                return result

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.sock.sendall(data)

    def take(self):
        self.sock.setblocking(False)
        try:
            while True:
                data = self.sock.recv(1 << 16)
                if not data:
                    self.incoming.write_eof()
                    break
                self.incoming.write(data)
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(8)

    async def send(self, data):
        await self.do(self.tls.write, data)

    async def receive(self, size=1 << 16):
        """What has been sent to us; b"" for nothing yet."""
        await settle()
        self.take()
        try:
            return self.tls.read(size)
        except ssl.SSLWantReadError:
            return b""


async def connected(trace: Trace, kind=StreamTracer, name="p", **on):
    """A transport on the server's side and the client at the other end."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    p = kind(trace, name, **on)
    peer = Peer(theirs)
    making = asyncio.ensure_future(
        loop.connect_accepted_socket(lambda: p, ours, ssl=server_context())
    )
    await settle()
    await peer.do(peer.tls.do_handshake)
    transport, _ = await making
    return transport, p, peer


@scenario
async def life(trace: Trace) -> None:
    transport, p, peer = await connected(trace)
    trace("kinds", isinstance(transport, asyncio.Transport), transport.is_closing())
    trace("reading", transport.is_reading(), transport.can_write_eof())
    trace("protocol", transport.get_protocol() is p)
    await peer.send(b"hello")
    transport.write(b"answer")
    trace(await peer.receive())
    transport.close()
    trace("closing", transport.is_closing())
    transport.close()
    await settle()
    peer.take()
    trace.call("read", peer.tls.read, 10)
    trace.call("unwrap", peer.tls.unwrap)
    peer.flush()
    await p.lost
    peer.sock.close()
    trace("closing", transport.is_closing())
    transport.close()
    transport.abort()


@scenario
async def the_peer_ends(trace: Trace) -> None:
    for keep_open in (None, False, True):
        _transport, p, peer = await connected(trace, eof=lambda p, keep_open=keep_open: keep_open)
        await peer.send(b"last")
        trace.call("unwrap", lambda peer=peer: _ignore_want(peer.tls.unwrap))
        peer.flush()
        await p.lost
        peer.take()
        trace.call("unwrap", peer.tls.unwrap)
        peer.sock.close()


def _ignore_want(call):
    try:
        return call()
    except ssl.SSLWantReadError:
        return "want"


@scenario
async def last_words(trace: Trace) -> None:
    """What is written in eof_received still goes to the peer, which has only said that it sends no more."""
    for kind in (StreamTracer, BufferTracer):
        for size in (4, 1_000_000):
            transport, p, peer = await connected(
                trace, kind, eof=lambda p, size=size: p.transport.write(bytes(size))
            )
            peer.tls.write(b"last")
            trace(_ignore_want(peer.tls.unwrap))
            peer.flush()
            total = 0
            while total < size:
                total += len(await peer.receive())
            trace(total)
            await p.lost
            trace(transport.is_closing())
            peer.sock.close()


@scenario
async def the_peer_vanishes(trace: Trace) -> None:
    for vanish in (lambda sock: sock.close(), reset):
        transport, p, peer = await connected(trace)
        await peer.send(b"last")
        vanish(peer.sock)
        await p.lost
        trace("closing", transport.is_closing())


@scenario
async def data_and_end_at_once(trace: Trace) -> None:
    _transport, p, peer = await connected(trace)
    peer.tls.write(b"one")
    peer.tls.write(b"two")
    trace(_ignore_want(peer.tls.unwrap))
    peer.flush()
    peer.sock.shutdown(1)
    await p.lost
    peer.sock.close()


@scenario
async def kinds_of_data(trace: Trace) -> None:
    transport, p, peer = await connected(trace)
    for data in (
        b"",
        b"bytes",
        bytearray(b"array"),
        memoryview(b"view"),
        memoryview(array.array("I", [1])),
        "text",
        None,
        7,
        array.array("b", [1]),
    ):
        trace.call(f"write {data!r}", transport.write, data)
    for lines in ([b"a", bytearray(b"b"), memoryview(b"c")], [], (b"d",), iter([b"e"])):
        trace.call(f"lines {type(lines).__name__}", transport.writelines, lines)
    got = b""
    while len(got) < 23:
        got += await peer.receive()
    trace(got)
    with pytest.raises(NotImplementedError):
        transport.write_eof()
    transport.abort()
    await p.lost
    peer.sock.close()


@scenario
async def water_marks(trace: Trace) -> None:
    transport, p, peer = await connected(trace)
    trace(transport.get_write_buffer_limits(), transport.get_write_buffer_size())
    for limits in ({"high": 1, "low": 2}, {"high": -1}, {"high": 1}, {"low": 3}, {}):
        trace.call("limits", lambda limits=limits: transport.set_write_buffer_limits(**limits))
        trace(transport.get_write_buffer_limits())
    trace(transport.get_read_buffer_limits(), transport.get_read_buffer_size())
    for limits in ({"high": 1, "low": 2}, {"high": 5000}, {}):
        trace.call("limits", lambda limits=limits: transport.set_read_buffer_limits(**limits))
        trace(transport.get_read_buffer_limits())
    transport.abort()
    await p.lost
    peer.sock.close()


@scenario
async def pausing(trace: Trace) -> None:
    transport, p, peer = await connected(trace)
    transport.pause_reading()
    trace("reading", transport.is_reading())
    await peer.send(b"one")
    await peer.send(b"two")
    trace("resume")
    transport.resume_reading()
    await settle()
    transport.resume_reading()
    p.on["data"] = lambda p, _: p.transport.pause_reading()
    await peer.send(b"three")
    await peer.send(b"four")
    trace("resume")
    transport.resume_reading()
    await settle()
    transport.abort()
    trace("reading", transport.is_reading())
    await p.lost
    peer.sock.close()


@scenario
async def buffered(trace: Trace) -> None:
    transport, p, peer = await connected(trace, BufferTracer)
    await peer.send(b"0123456789abcdef")
    await peer.send(b"x")
    q = StreamTracer(trace, "q")
    transport.set_protocol(q)
    await peer.send(b"to q")
    transport.set_protocol(p)
    await peer.send(b"to p")
    transport.abort()
    await p.lost
    peer.sock.close()


@scenario
async def callbacks_that_fail(trace: Trace) -> None:
    def fail(*what):
        raise ArithmeticError("of the protocol")

    for where in ("data", "eof", "lost"):
        transport, p, peer = await connected(trace, name=where, **{where: fail})
        await peer.send(b"one")
        if not p.lost.done():
            trace(_ignore_want(peer.tls.unwrap))
            peer.flush()
        await p.lost
        await settle()
        trace("closing", transport.is_closing())
        peer.sock.close()


@scenario
async def closing_in_callbacks(trace: Trace) -> None:
    for how in ("close", "abort"):
        for where in ("made", "data", "eof"):
            if (how, where) == ("close", "made"):
                continue  # what the peer sends after it is an error to asyncio: docs/differences.md
            _transport, p, peer = await connected(
                trace,
                name=f"{how} in {where}",
                **{where: lambda p, *_, how=how: getattr(p.transport, how)()},
            )
            await peer.send(b"one")
            if not p.transport.is_closing():
                trace(_ignore_want(peer.tls.unwrap))
                peer.flush()
            peer.sock.close()
            await p.lost
            await settle()


@scenario
async def closing_with_pending_data(trace: Trace) -> None:
    transport, p, peer = await connected(trace)
    transport.write(bytes(3_000_000))
    transport.close()
    for _ in range(3):
        trace.call("late", transport.write, b"late")
    total = 0
    while total < 3_000_000:
        total += len(await peer.receive())
    trace.call("unwrap", peer.tls.unwrap)
    peer.flush()
    await p.lost
    peer.sock.close()


@scenario
async def extra_info(trace: Trace) -> None:
    transport, p, peer = await connected(trace)
    for name in ("socket", "sslcontext", "ssl_object"):
        trace(name, type(transport.get_extra_info(name)).__name__)
    for name in ("peercert", "cipher", "compression", "nothing"):
        trace(name, transport.get_extra_info(name), transport.get_extra_info(name, 7))
    for name in ("sockname", "peername"):
        trace(name, len(transport.get_extra_info(name)))
    transport.abort()
    await p.lost
    trace("after", type(transport.get_extra_info("ssl_object")).__name__)
    peer.sock.close()


@scenario
async def contexts(trace: Trace) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    var.set("made")
    _transport, p, peer = await connected(trace, made=see, data=see, eof=see, lost=see)
    var.set("later")
    await peer.send(b"one")
    trace(_ignore_want(peer.tls.unwrap))
    peer.flush()
    await p.lost
    peer.sock.close()


@scenario
async def failing_handshakes(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    for vanish in (
        lambda sock: sock.close(),
        reset,
        lambda sock: sock.sendall(b"GET / HTTP/1.1\r\n\r\n"),
    ):
        for server_side in (True, False):
            ours, theirs = tcp_pair()
            p = StreamTracer(trace)
            if server_side:
                making = loop.connect_accepted_socket(lambda p=p: p, ours, ssl=server_context())
            else:
                making = loop.create_connection(
                    lambda p=p: p, sock=ours, ssl=client_context(), server_hostname="localhost"
                )
            making = asyncio.ensure_future(making)
            await settle()
            vanish(theirs)
            try:
                await making
            except OSError as exc:
                trace(type(exc).__name__, getattr(exc, "reason", exc.errno))
            await settle()
            theirs.close()


@scenario
async def refused_arguments(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    with ours, theirs:
        make = loop.create_connection
        for options in (
            {"ssl_handshake_timeout": 0},
            {"ssl_handshake_timeout": -1},
            {"ssl_shutdown_timeout": 0},
            {"ssl": client_context(), "ssl_handshake_timeout": 0},
            {"ssl": client_context(), "server_hostname": "localhost", "ssl_handshake_timeout": -1},
            {"ssl": client_context(), "server_hostname": "localhost", "ssl_shutdown_timeout": -1},
            {"ssl": client_context()},
            {"ssl": "yes", "server_hostname": "localhost"},
        ):
            await trace.wait(f"{sorted(options)}", make(asyncio.Protocol, sock=ours, **options))
            await settle()
            if ours.fileno() < 0:
                ours, theirs = tcp_pair()
    await trace.wait("accepted", loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=True))
    ours.close()
    theirs.close()


@scenario
async def start_tls(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    plain = StreamTracer(trace, "plain")
    transport, _ = await loop.connect_accepted_socket(lambda: plain, ours)
    theirs.sendall(b"STARTTLS")
    await settle()
    peer = Peer(theirs)
    p = StreamTracer(trace, "tls")
    making = asyncio.ensure_future(loop.start_tls(transport, p, server_context(), server_side=True))
    await settle()
    await peer.do(peer.tls.do_handshake)
    encrypted = await making
    trace("protocol", encrypted.get_protocol() is p, transport.get_protocol() is p)
    trace("names", encrypted.get_extra_info("peername") == transport.get_extra_info("peername"))
    await peer.send(b"secret")
    encrypted.write(b"answer")
    trace(await peer.receive())
    trace(_ignore_want(peer.tls.unwrap))
    peer.flush()
    await p.lost
    trace("closing", transport.is_closing(), encrypted.is_closing())
    theirs.close()
    for bad in (None, object()):
        try:
            await loop.start_tls(bad, p, server_context(), server_side=True)
        except Exception as exc:
            trace(type(exc).__name__)


@scenario
async def start_tls_that_fails(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    for vanish in (lambda sock: sock.close(), reset, None):
        ours, theirs = tcp_pair()
        plain = StreamTracer(trace, "plain")
        transport, _ = await loop.connect_accepted_socket(lambda plain=plain: plain, ours)
        p = StreamTracer(trace, "tls")
        p.connection_lost = lambda exc, p=p: p.lost.set_result(None)  # type: ignore[method-assign]
        making = asyncio.ensure_future(
            loop.start_tls(transport, p, server_context(), server_side=True)
        )
        await settle()
        if vanish is None:
            making.cancel()
        else:
            vanish(theirs)
        try:
            await making
        except BaseException as exc:
            trace("start_tls", type(exc).__name__)
        await settle()
        trace("closing", transport.is_closing(), plain.lost.done(), p.lost.done())
        theirs.close()


@scenario
async def sendfile(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    transport, p, peer = await connected(trace)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(100_000))
        file.seek(0)
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        total = 0
        while total < 100_000:
            total += len(await peer.receive())
        await trace.wait("sendfile", sending)
        try:
            await loop.sendfile(transport, file, fallback=False)
        except RuntimeError as exc:
            trace("no fallback", str(exc)[:60])
    await trace.wait("object", loop.sendfile(transport, io.BytesIO(b"bytes")))
    while not (data := await peer.receive()):
        pass
    trace(data)
    transport.abort()
    await trace.wait("closing", loop.sendfile(transport, io.BytesIO(b"bytes")))
    await p.lost
    peer.sock.close()


@scenario
async def streams(trace: Trace) -> None:
    ours, theirs = tcp_pair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.sendall(b"hello\n")
    trace(await reader.readline())
    peer = Peer(theirs, server_side=True)
    upgrading = asyncio.ensure_future(
        writer.start_tls(client_context(), server_hostname="localhost")
    )
    await settle()
    await peer.do(peer.tls.do_handshake)
    await trace.wait("upgrade", upgrading)
    await peer.send(b"secret\n")
    trace(await reader.readline())
    writer.write(b"answer\n")
    await writer.drain()
    trace(await peer.receive())
    trace(_ignore_want(peer.tls.unwrap))
    peer.flush()
    trace(await reader.read())
    writer.close()
    await trace.wait("closed", writer.wait_closed())
    theirs.close()
