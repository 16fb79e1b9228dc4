"""Transports of pipes."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pty
import socket
import tempfile

import pytest

from ...support.net import settle
from .harness import Scenarios, StreamTracer, Trace, compare

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


async def reader(trace: Trace, name="r", **on):
    r, w = os.pipe()
    p = StreamTracer(trace, name, **on)
    pipe = os.fdopen(r, "rb", 0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: p, pipe)
    return transport, p, w, pipe


async def writer(trace: Trace, name="w", **on):
    r, w = os.pipe()
    p = StreamTracer(trace, name, **on)
    pipe = os.fdopen(w, "wb", 0)
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(lambda: p, pipe)
    return transport, p, r, pipe


@scenario
async def reading(trace: Trace) -> None:
    transport, p, w, pipe = await reader(trace)
    trace("info", sorted(transport._extra), transport.get_extra_info("pipe") is pipe)
    trace("reading", transport.is_reading(), transport.is_closing())
    os.write(w, b"one")
    await settle()
    transport.pause_reading()
    transport.pause_reading()
    os.write(w, b"two")
    await settle()
    trace("reading", transport.is_reading())
    transport.resume_reading()
    transport.resume_reading()
    await settle()
    os.close(w)
    await p.lost
    trace("reading", transport.is_reading(), transport.is_closing(), pipe.closed)
    transport.pause_reading()
    transport.resume_reading()
    transport.close()
    trace("protocol", transport.get_protocol())


@scenario
async def closing_a_reader(trace: Trace) -> None:
    for where in ("made", "data", "eof"):
        _transport, p, w, pipe = await reader(
            trace, where, **{where: lambda p, *_: p.transport.close()}
        )
        for data in (b"one", b"two"):
            try:
                os.write(w, data)
            except OSError as exc:
                trace(type(exc).__name__)
            await settle()
        os.close(w)
        await p.lost
        trace("closed", pipe.closed)


@scenario
async def callbacks_of_a_reader_that_fail(trace: Trace) -> None:
    def fail(*what):
        raise ArithmeticError("of the protocol")

    for where in ("made", "data", "eof", "lost"):
        transport, p, w, pipe = await reader(trace, where, **{where: fail})
        os.write(w, b"one")
        await settle()
        os.write(w, b"two")
        await settle()
        trace("closing", transport.is_closing())
        os.close(w)
        await p.lost
        await settle()
        trace("closed", pipe.closed)


@scenario
async def pausing_in_callbacks(trace: Trace) -> None:
    transport, p, w, _ = await reader(
        trace,
        made=lambda p: p.transport.pause_reading(),
        data=lambda p, _: p.transport.pause_reading(),
    )
    os.write(w, b"one")
    await settle()
    trace("resume")
    transport.resume_reading()
    await settle()
    os.write(w, b"two")
    os.close(w)
    await settle()
    trace("resume")
    transport.resume_reading()
    await settle()
    trace("resume")
    transport.resume_reading()
    await p.lost


@scenario
async def set_protocol(trace: Trace) -> None:
    transport, _p, w, _ = await reader(trace)
    q = StreamTracer(trace, "q")
    transport.set_protocol(q)
    trace("protocol", transport.get_protocol() is q)
    os.write(w, b"one")
    await settle()
    os.close(w)
    await q.lost


@scenario
async def writing(trace: Trace) -> None:
    transport, p, r, pipe = await writer(trace)
    trace("info", sorted(transport._extra), transport.get_extra_info("pipe") is pipe)
    trace("limits", transport.get_write_buffer_limits(), transport.get_write_buffer_size())
    trace("eof", transport.can_write_eof())
    for data in (
        b"",
        b"bytes",
        bytearray(b"array"),
        memoryview(b"view"),
    ):
        trace.call(f"write {data!r}", transport.write, data)
    for lines in ([b"a", bytearray(b"b")], [], (b"c",), iter([b"d"]), ["e"], None):
        trace.call(f"lines {type(lines).__name__}", transport.writelines, lines)
    trace(os.read(r, 1000))
    for limits in ({"high": 1, "low": 2}, {"high": 0}, {"low": 3}, {}):
        trace.call("limits", lambda limits=limits: transport.set_write_buffer_limits(**limits))
        trace("limits", transport.get_write_buffer_limits())
    transport.close()
    trace("closing", transport.is_closing())
    for _ in range(7):
        trace.call("late", transport.write, b"late")
    await p.lost
    transport.close()
    trace("read", os.read(r, 100))
    os.close(r)


@scenario
async def an_end_with_nothing_pending(trace: Trace) -> None:
    transport, p, r, _ = await writer(trace)
    transport.write_eof()
    transport.write_eof()
    await p.lost
    trace("read", os.read(r, 100))
    os.close(r)


@scenario
async def a_slow_reader(trace: Trace) -> None:
    transport, p, r, _ = await writer(trace)
    transport.write(bytes(1_000_000))
    trace("size", transport.get_write_buffer_size())
    changing = bytearray(b"x" * 10)
    transport.write(changing)
    changing[:] = b"y" * 10
    transport.write_eof()
    trace.call("after eof", transport.write, b"z")
    trace("closing", transport.is_closing())

    def drain():
        data = b""
        while part := os.read(r, 1 << 16):
            data += part
        return data

    data = await asyncio.to_thread(drain)
    trace(len(data), data[-10:])
    await p.lost
    os.close(r)


@scenario
async def a_reader_that_goes(trace: Trace) -> None:
    for pending in (0, 1_000_000):
        for after in (True, False):
            transport, p, r, _ = await writer(trace)
            if pending:
                transport.write(bytes(pending))
            os.close(r)
            if after:
                trace.call("write", transport.write, b"x")
            await p.lost
            trace("closing", transport.is_closing(), transport.get_write_buffer_size())
            trace.call("write", transport.write, b"x")


@scenario
async def ends_of_a_writer(trace: Trace) -> None:
    for how in ("close", "abort", "write_eof"):
        for pending in (0, 200_000):
            transport, p, r, pipe = await writer(trace, f"{how} {pending}")
            if pending:
                transport.write(bytes(pending))
            getattr(transport, how)()
            await settle()
            trace("closed", pipe.closed, transport.is_closing())
            if pending and how != "abort":
                transport.abort()
            await p.lost
            transport.close()
            trace("closed", pipe.closed, transport.is_closing())
            os.close(r)


@scenario
async def callbacks_of_a_writer_that_fail(trace: Trace) -> None:
    def fail(*what):
        raise ArithmeticError("of the protocol")

    transport, p, r, pipe = await writer(
        trace, made=fail, pause_writing=fail, resume_writing=fail, lost=fail
    )
    p.pause_writing = lambda: fail()  # type: ignore[method-assign]
    transport.write(bytes(1_000_000))
    await settle()
    trace("closing", transport.is_closing())
    transport.abort()
    await p.lost
    await settle()
    trace("closed", pipe.closed)
    os.close(r)


@scenario
async def closing_in_made(trace: Trace) -> None:
    for how in ("close", "abort", "write_eof"):
        _transport, p, r, _pipe = await writer(
            trace, how, made=lambda p, how=how: getattr(p.transport, how)()
        )
        await p.lost
        os.close(r)


@scenario
async def contexts(trace: Trace) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    var.set("made")
    transport, p, r, _pipe = await writer(trace, made=see, lost=see)
    p.on.update(pause_writing=see, resume_writing=see)
    var.set("writing")
    transport.write(bytes(300_000))
    var.set("reading")

    def drain():
        count = 300_000
        while count:
            count -= len(os.read(r, count))

    await asyncio.to_thread(drain)
    await settle()
    var.set("closing")
    transport.close()
    var.set("later")
    await p.lost
    os.close(r)


@scenario
async def refused(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            with pytest.raises(ValueError, match="Pipe transport is"):
                await connect(asyncio.Protocol, file)
    await trace.wait("none", loop.connect_read_pipe(asyncio.Protocol, None))
    await trace.wait("none", loop.connect_write_pipe(asyncio.Protocol, None))

    def broken():
        raise ArithmeticError("factory")

    r, w = os.pipe()
    with os.fdopen(r, "rb", 0) as read, os.fdopen(w, "wb", 0) as write:
        await trace.wait("factory", loop.connect_read_pipe(broken, read))
        await trace.wait("factory", loop.connect_write_pipe(broken, write))
        trace("open", read.closed, write.closed)


@scenario
async def a_terminal(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    master, slave = pty.openpty()
    p = StreamTracer(trace, "r")
    q = StreamTracer(trace, "w")
    _r, _ = await loop.connect_read_pipe(lambda: p, os.fdopen(master, "rb", 0))
    w, _ = await loop.connect_write_pipe(lambda: q, os.fdopen(slave, "wb", 0))
    w.write(b"hello")
    await settle()
    w.close()
    await q.lost
    await p.lost


@scenario
async def a_socket_as_pipe(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    p = StreamTracer(trace, "r")
    q = StreamTracer(trace, "w")
    _r, _ = await loop.connect_read_pipe(lambda: p, a)
    w, _ = await loop.connect_write_pipe(lambda: q, b)
    w.write(b"hello")
    await settle()
    w.write_eof()
    await q.lost
    await p.lost
