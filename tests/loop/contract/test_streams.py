"""Transports of connected sockets: order of callbacks, writing, closing, half-closing, errors."""

from __future__ import annotations

import array
import asyncio
import contextvars
import gc
import socket
import sys
import warnings
import weakref

import pytest

from ...support.net import (
    recv_all,
    recv_exactly,
    reset,
    settle,
    small_buffers,
    tcp_pair,
    unix_pair,
)
from .harness import BufferTracer, Scenarios, StreamTracer, compare

scenario = Scenarios()


async def attach(sock, protocol):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock=sock)
    return transport


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


def keeps_transports() -> bool:
    """Asyncio's own transports stay until a collection before 3.12: no oracle for ours, which never do."""
    return sys.version_info < (3, 12) and type(asyncio.get_running_loop()).__module__.startswith(
        "asyncio."
    )


def both(function):
    """The scenario over a TCP and over a Unix pair."""

    def over(pair, name):
        async def run(trace):
            await function(trace, pair)

        run.__name__ = f"{function.__name__}_{name}"
        scenario(run)

    over(tcp_pair, "tcp")
    over(unix_pair, "unix")
    return function


@both
async def life(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    trace("closing", transport.is_closing(), "reading", transport.is_reading())
    peer.send(b"one")
    await settle()
    peer.send(b"two")
    await settle()
    transport.write(b"answer")
    trace(recv_exactly(peer, 6))
    peer.close()
    await settle()
    trace("closing", transport.is_closing(), "reading", transport.is_reading())
    await p.lost


@both
async def connection_made_order(trace, pair):
    ours, peer = pair()
    loop = asyncio.get_running_loop()

    def made(p):
        loop.call_soon(trace, "soon from made")

    p = StreamTracer(trace, made=made)
    loop.call_soon(trace, "before")
    task = asyncio.ensure_future(attach(ours, p))
    loop.call_soon(trace, "after")
    transport = await task
    trace("attached")
    transport.abort()
    trace("aborted")
    await p.lost
    peer.close()


@both
async def pause_in_connection_made(trace, pair):
    ours, peer = pair()
    peer.send(b"early")
    p = StreamTracer(trace, made=lambda p: p.transport.pause_reading())
    transport = await attach(ours, p)
    await settle()
    trace("reading", transport.is_reading())
    transport.pause_reading()
    transport.resume_reading()
    transport.resume_reading()
    trace("reading", transport.is_reading())
    await settle()
    transport.close()
    transport.resume_reading()
    transport.pause_reading()
    await p.lost
    transport.pause_reading()
    transport.resume_reading()
    trace("reading", transport.is_reading())
    peer.close()


@both
async def pause_and_resume_in_connection_made(trace, pair):
    ours, peer = pair()
    peer.send(b"early")

    def made(p):
        p.transport.pause_reading()
        p.transport.resume_reading()

    p = StreamTracer(trace, made=made)
    transport = await attach(ours, p)
    await settle()
    transport.close()
    await p.lost
    peer.close()


@both
async def close_in_connection_made(trace, pair):
    ours, peer = pair()
    peer.send(b"early")
    p = StreamTracer(trace, made=lambda p: p.transport.close())
    await attach(ours, p)
    trace("attached")
    await settle()
    peer.close()


@both
async def abort_in_connection_made(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace, made=lambda p: p.transport.abort())
    await attach(ours, p)
    trace("attached")
    await settle()
    peer.close()


@both
async def write_in_connection_made_then_close(trace, pair):
    ours, peer = pair()

    def made(p):
        p.transport.write(b"hello")
        p.transport.close()

    p = StreamTracer(trace, made=made)
    await attach(ours, p)
    trace(recv_all(peer))
    await settle()
    peer.close()


@both
async def connection_made_raises(trace, pair):
    ours, peer = pair()

    def made(p):
        raise RuntimeError("made")

    p = StreamTracer(trace, made=made)
    transport = await attach(ours, p)
    peer.send(b"data")
    await settle()
    transport.close()
    await p.lost
    peer.close()


@both
async def data_received_raises(trace, pair):
    ours, peer = pair()

    def data(p, chunk):
        raise RuntimeError("data")

    p = StreamTracer(trace, data=data)
    transport = await attach(ours, p)
    peer.send(b"data")
    await settle()
    trace("closing", transport.is_closing())
    trace(recv_all(peer))
    peer.close()


@both
async def eof_received_raises(trace, pair):
    ours, peer = pair()

    def eof(p):
        raise RuntimeError("eof")

    p = StreamTracer(trace, eof=eof)
    await attach(ours, p)
    peer.close()
    await settle()


@both
async def connection_lost_raises(trace, pair):
    ours, peer = pair()

    def lost(p, exc):
        raise RuntimeError("lost")

    p = StreamTracer(trace, lost=lost)
    transport = await attach(ours, p)
    transport.close()
    await settle()
    trace(recv_all(peer))
    peer.close()


@both
async def pause_and_resume_writing_raise(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)

    def fail(p):
        raise RuntimeError("writing")

    p = StreamTracer(trace, pause_writing=fail, resume_writing=fail)
    transport = await attach(ours, p)
    transport.write(bytes(1_000_000))
    await settle()
    received = 0
    while received < 1_000_000:
        received += len(await asyncio.to_thread(peer.recv, 1 << 20))
    await settle()
    transport.close()
    await p.lost
    peer.close()


@both
async def eof_received_keeps_open(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace, eof=lambda p: True)
    transport = await attach(ours, p)
    peer.send(b"last")
    peer.shutdown(socket.SHUT_WR)
    await settle()
    trace("closing", transport.is_closing(), "reading", transport.is_reading())
    transport.write(b"answer")
    transport.write_eof()
    trace(recv_all(peer))
    transport.write_eof()
    trace.call("write after eof", transport.write, b"x")
    trace.call("empty write after eof", transport.write, b"")
    trace.call("writelines after eof", transport.writelines, [b"x"])
    transport.close()
    await p.lost
    peer.close()


@both
async def eof_received_writes_then_returns_none(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace, eof=lambda p: p.transport.write(b"bye"))
    await attach(ours, p)
    peer.shutdown(socket.SHUT_WR)
    await settle()
    trace(recv_all(peer))
    peer.close()


@both
async def eof_received_closes_and_keeps_open(trace, pair):
    ours, peer = pair()

    def eof(p):
        p.transport.close()
        return True

    p = StreamTracer(trace, eof=eof)
    await attach(ours, p)
    peer.shutdown(socket.SHUT_WR)
    await settle()
    trace(recv_all(peer))
    peer.close()


@both
async def write_eof_with_pending_data(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.write(bytes(1_000_000))
    transport.write_eof()
    trace("can", transport.can_write_eof())
    trace.call("write after eof", transport.write, b"x")
    data = await asyncio.to_thread(recv_all, peer)
    trace(data)
    await settle()
    trace("closing", transport.is_closing())
    peer.send(b"still open this way")
    await settle()
    peer.close()
    await p.lost


@both
async def write_eof_then_close(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.write(b"x")
    transport.write_eof()
    transport.close()
    trace.call("write_eof after close", transport.write_eof)
    trace(recv_all(peer))
    await p.lost
    trace.call("write_eof after lost", transport.write_eof)
    peer.close()


@both
async def close_then_write(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.close()
    for _ in range(7):
        trace.call("write", transport.write, b"x")
    trace.call("empty", transport.write, b"")
    trace.call("size", transport.get_write_buffer_size)
    await p.lost
    await settle()
    for _ in range(3):
        trace.call("write", transport.write, b"x")
        trace.call("empty", transport.write, b"")
    trace.call("close", transport.close)
    trace.call("abort", transport.abort)
    trace.call("size", transport.get_write_buffer_size)
    trace.call("limits", transport.get_write_buffer_limits)
    trace.call("set limits", transport.set_write_buffer_limits, 10)
    trace.call("protocol", transport.get_protocol)
    trace.call("closing", transport.is_closing)
    trace.call("sockname", transport.get_extra_info, "nothing", 7)
    trace(recv_all(peer))
    peer.close()


@both
async def empty_writes_do_not_count_as_lost(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.abort()
    for _ in range(9):
        transport.write(b"")
    trace("no warning so far")
    for _ in range(6):
        transport.write(b"x")
        trace("written")
    await p.lost
    peer.close()


@both
async def close_with_pending_data(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.write(bytes(500_000))
    transport.close()
    transport.write(b"more")  # accepted: the connection is not lost yet
    await settle()
    trace(await asyncio.to_thread(recv_all, peer))
    await p.lost
    peer.close()


@both
async def abort_with_pending_data(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.write(bytes(500_000))
    trace("pending", transport.get_write_buffer_size() > 0)
    transport.abort()
    trace("pending", transport.get_write_buffer_size())
    transport.abort()
    await p.lost
    peer.close()


@both
async def abort_after_close_with_pending_data(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.write(bytes(500_000))
    transport.close()
    await settle()
    transport.abort()
    await p.lost
    peer.close()


@both
async def abort_in_pause_writing(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace, pause_writing=lambda p: p.transport.abort())
    transport = await attach(ours, p)
    transport.write(bytes(500_000))
    await p.lost
    peer.close()


@both
async def close_in_pause_writing(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace, pause_writing=lambda p: p.transport.close())
    transport = await attach(ours, p)
    transport.write(bytes(500_000))
    trace(await asyncio.to_thread(recv_all, peer))
    await p.lost
    peer.close()


@both
async def write_in_resume_writing(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)

    p = StreamTracer(trace, resume_writing=lambda p: p.transport.write(b"z" * 10))
    transport = await attach(ours, p)
    transport.write(bytes(500_000))
    trace(await asyncio.to_thread(recv_exactly, peer, 500_010))
    transport.close()
    await p.lost
    peer.close()


@both
async def close_in_data_received(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace, data=lambda p, d: p.transport.close())
    await attach(ours, p)
    peer.send(b"one")
    await settle()
    peer.close()


@both
async def abort_in_data_received_with_more_waiting(trace, pair):
    ours, peer = pair()
    peer.send(b"a" * 300_000 if pair is unix_pair else b"a" * 100)
    p = StreamTracer(trace, data=lambda p, d: p.transport.abort())
    await attach(ours, p)
    await settle()
    peer.close()


@both
async def pause_in_data_received(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace, data=lambda p, d: p.transport.pause_reading())
    transport = await attach(ours, p)
    peer.send(b"one")
    await settle()
    peer.send(b"two")
    peer.shutdown(socket.SHUT_WR)
    await settle()
    trace("resume")
    transport.resume_reading()
    await settle()
    trace("resume")
    transport.resume_reading()
    await settle()
    await p.lost
    peer.close()


@both
async def set_protocol_in_data_received(trace, pair):
    ours, peer = pair()
    second = StreamTracer(trace, "second")
    p = StreamTracer(trace, data=lambda p, d: p.transport.set_protocol(second))
    transport = await attach(ours, p)
    peer.send(b"one")
    await settle()
    trace("second", transport.get_protocol() is second)
    peer.send(b"two")
    await settle()
    peer.close()
    await second.lost
    p.lost.cancel()


@both
async def set_protocol_before_connection_made(trace, pair):
    ours, peer = pair()
    second = StreamTracer(trace, "second")
    p = StreamTracer(trace, made=lambda p: p.transport.set_protocol(second))
    transport = await attach(ours, p)
    peer.send(b"two")
    await settle()
    transport.close()
    await second.lost
    peer.close()


@both
async def set_protocol_to_buffered_and_back(trace, pair):
    ours, peer = pair()
    first, second = StreamTracer(trace, "first"), BufferTracer(trace, "second")
    transport = await attach(ours, first)
    peer.send(b"1")
    await settle()
    transport.set_protocol(second)
    peer.send(b"abcdefghijklmno")
    await settle()
    transport.set_protocol(first)
    peer.send(b"3")
    await settle()
    peer.close()
    await first.lost


@both
async def data_received_is_looked_up_at_each_call(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    await attach(ours, p)
    peer.send(b"one")
    await settle()
    p.data_received = lambda data: trace("replaced", data)
    peer.send(b"two")
    await settle()
    del p.data_received
    peer.send(b"three")
    await settle()
    p.eof_received = lambda: trace("eof replaced")
    p.connection_lost = lambda exc: trace("lost replaced", exc)
    peer.close()
    await settle()


@both
async def buffered_life(trace, pair):
    ours, peer = pair()
    p = BufferTracer(trace)
    await attach(ours, p)
    peer.send(b"0123456789abcdef01")
    await settle()
    peer.close()
    await p.lost


@both
async def get_buffer_is_empty(trace, pair):
    ours, peer = pair()
    p = BufferTracer(trace, get_buffer=lambda p, hint: bytearray())
    await attach(ours, p)
    peer.send(b"x")
    await settle()
    peer.close()
    await settle()


@both
async def get_buffer_raises(trace, pair):
    ours, peer = pair()

    def get_buffer(p, hint):
        raise RuntimeError("get_buffer")

    p = BufferTracer(trace, get_buffer=get_buffer)
    await attach(ours, p)
    peer.send(b"x")
    await settle()
    peer.close()
    await settle()


@both
async def get_buffer_is_no_buffer(trace, pair):
    for wrong in (None, 7):
        ours, peer = pair()
        p = BufferTracer(trace, get_buffer=lambda p, hint, wrong=wrong: wrong)
        await attach(ours, p)
        peer.send(b"x")
        await settle()
        trace("closed", p.transport.is_closing())
        peer.close()
        await settle()


@both
async def buffer_updated_raises(trace, pair):
    ours, peer = pair()

    def updated(p, data):
        raise RuntimeError("updated")

    p = BufferTracer(trace, updated=updated)
    await attach(ours, p)
    peer.send(b"x")
    await settle()
    peer.close()
    await settle()


@both
async def buffer_of_other_kinds(trace, pair):
    for buffer in (memoryview(bytearray(4)), array.array("B", bytes(4)), array.array("I", [0, 0])):
        ours, peer = pair()
        p = BufferTracer(trace, get_buffer=lambda p, hint, buffer=buffer: buffer)
        p.buffer = buffer
        transport = await attach(ours, p)
        peer.send(b"abcd")
        await settle()
        trace(bytes(memoryview(buffer).cast("B"))[:4])
        transport.close()
        await p.lost
        peer.close()


@both
async def buffered_eof_keeps_open(trace, pair):
    ours, peer = pair()
    p = BufferTracer(trace, eof=lambda p: True)
    transport = await attach(ours, p)
    peer.send(b"x")
    peer.shutdown(socket.SHUT_WR)
    await settle()
    transport.write(b"y")
    trace(peer.recv(10))
    transport.close()
    await p.lost
    peer.close()


@both
async def buffered_close_in_updated(trace, pair):
    ours, peer = pair()
    p = BufferTracer(trace, updated=lambda p, d: p.transport.close())
    await attach(ours, p)
    peer.send(b"0123456789")
    await settle()
    peer.close()


@both
async def buffered_pause_in_updated(trace, pair):
    ours, peer = pair()
    p = BufferTracer(trace, updated=lambda p, d: p.transport.pause_reading())
    transport = await attach(ours, p)
    peer.send(b"0123456789")
    await settle()
    trace("resume")
    transport.resume_reading()
    await settle()
    transport.close()
    await p.lost
    peer.close()


@scenario
async def reset_by_peer(trace):
    ours, peer = tcp_pair()
    p = StreamTracer(trace)
    await attach(ours, p)
    reset(peer)
    await settle()
    await p.lost


@scenario
async def reset_by_peer_with_pending_output(trace):
    ours, peer = tcp_pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.pause_reading()
    transport.write(bytes(500_000))
    reset(peer)
    await p.lost
    trace("size", transport.get_write_buffer_size())


@scenario
async def reset_by_peer_while_paused(trace):
    ours, peer = tcp_pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.pause_reading()
    await settle()
    reset(peer)
    await settle()
    trace("closing", transport.is_closing())
    transport.write(b"x")
    trace("closing", transport.is_closing())
    await p.lost


@both
async def write_to_closed_peer(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace, eof=lambda p: True)
    transport = await attach(ours, p)
    peer.close()
    await settle()
    transport.write(b"one")
    await settle()
    transport.write(b"two")
    trace("closing", transport.is_closing())
    await p.lost


@both
async def peer_data_then_close(trace, pair):
    ours, peer = pair()
    peer.send(b"all")
    peer.close()
    p = StreamTracer(trace)
    await attach(ours, p)
    trace("attached")
    await p.lost


@both
async def write_kinds(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    for data in (b"a", bytearray(b"b"), memoryview(b"c"), memoryview(bytearray(b"d"))):
        trace.call("write", transport.write, data)
    for data in ("text", 7, None, [b"x"], array.array("B", b"x"), object):
        trace.call("write", transport.write, data)

    class Bytes(bytes):
        pass

    trace.call("write", transport.write, Bytes(b"e"))
    await settle()  # on io_uring all but the first leave at the end of the step
    trace(recv_exactly(peer, 5))
    transport.close()
    await p.lost
    peer.close()


@both
async def writelines_kinds(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    trace.call("list", transport.writelines, [b"a", b"", bytearray(b"b"), memoryview(b"c")])
    trace.call("tuple", transport.writelines, (b"d",))
    trace.call("generator", transport.writelines, (bytes([n]) for n in b"efg"))
    trace.call("empty", transport.writelines, [])
    trace.call("array", transport.writelines, [array.array("B", b"hi")])
    await settle()
    trace(recv_exactly(peer, 9))
    transport.close()
    await p.lost
    peer.close()


@both
async def mutated_after_write(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    data = bytearray(b"right")
    transport.write(data)
    data[:] = b"wrong"
    data.clear()
    trace(recv_exactly(peer, 5))
    transport.close()
    await p.lost
    peer.close()


@both
async def flow_control_steps(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    trace("limits", transport.get_write_buffer_limits())
    for limits in (
        {"high": 10},
        {"low": 5},
        {"high": 10, "low": 3},
        {"high": 0},
        {},
        {"high": 2, "low": 9},
        {"low": -1},
    ):
        trace.call(f"set {limits}", transport.set_write_buffer_limits, **limits)
        trace("limits", transport.get_write_buffer_limits())
    transport.set_write_buffer_limits(high=1000, low=100)
    transport.write(bytes(400_000))
    trace("above", transport.get_write_buffer_size() > 1000)
    transport.write(b"more")
    transport.set_write_buffer_limits(high=10_000_000)
    trace("limits raised")
    got = len(await asyncio.to_thread(recv_exactly, peer, 400_004))
    trace(got)
    await settle()
    trace("size", transport.get_write_buffer_size())
    transport.close()
    await p.lost
    peer.close()


@both
async def zero_high_water(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.set_write_buffer_limits(high=0)
    transport.write(b"fits")
    trace("written")
    transport.write(bytes(400_000))
    trace("written")
    await asyncio.to_thread(recv_exactly, peer, 400_004)
    await settle()
    transport.close()
    await p.lost
    peer.close()


@both
async def limits_lowered_beneath_what_waits(trace, pair):
    ours, peer = pair()
    small_buffers(ours, peer)
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    transport.set_write_buffer_limits(high=10_000_000)
    transport.write(bytes(400_000))
    trace("not paused")
    transport.set_write_buffer_limits(high=10)
    trace("paused")
    await asyncio.to_thread(recv_exactly, peer, 400_000)
    await settle()
    transport.close()
    await p.lost
    peer.close()


@both
async def extra_info(trace, pair):
    ours, peer = pair()
    ours_name, peer_name = ours.getsockname(), ours.getpeername()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    sock = transport.get_extra_info("socket")
    trace(type(sock).__name__, sock.fileno() == ours.fileno(), sock.family == ours.family)
    trace("sockname", transport.get_extra_info("sockname") == ours_name)
    trace("peername", transport.get_extra_info("peername") == peer_name)
    for name in (
        "sslcontext",
        "ssl_object",
        "peercert",
        "cipher",
        "compression",
        "pipe",
        "subprocess",
    ):
        trace(name, transport.get_extra_info(name), transport.get_extra_info(name, "default"))
    if pair is tcp_pair:
        trace("nodelay", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
    trace(
        "isinstance",
        isinstance(transport, asyncio.Transport),
        isinstance(transport, asyncio.BaseTransport),
    )
    transport.close()
    await p.lost
    trace("peername after", transport.get_extra_info("peername") == peer_name)
    trace("fileno after", transport.get_extra_info("socket").fileno())
    peer.close()


@both
async def attributes_and_weak_references(trace, pair):
    ours, peer = pair()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    ref = weakref.ref(transport)
    trace("hashable", transport in {transport}, transport == transport)
    trace("_sock", transport._sock is ours, "_sock_fd", transport._sock_fd == ours.fileno())
    trace(
        "_protocol",
        transport._protocol is p,
        "_loop",
        transport._loop is asyncio.get_running_loop(),
    )
    for name in (
        "_closing",
        "_eof",
        "_paused",
        "_conn_lost",
        "_protocol_paused",
        "_high_water",
        "_low_water",
        "_server",
    ):
        trace.call(name, getattr, transport, name)
    trace("_extra", sorted(transport._extra))
    transport.close()
    await p.lost
    del transport, p
    await settle()
    trace("gone", ref() is None or keeps_transports())
    peer.close()


@both
async def freed_without_a_collection(trace, pair):
    ours, peer = pair()
    gc.disable()
    try:
        p = StreamTracer(trace)
        transport = await attach(ours, p)
        refs = weakref.ref(p), weakref.ref(transport)
        peer.send(b"x")
        await settle()
        transport.write(b"y")
        transport.close()
        await p.lost
        p.transport = None
        del p, transport
        await settle()
        trace("freed", [ref() is None or keeps_transports() for ref in refs])
    finally:
        gc.enable()
    peer.close()


@both
async def contexts(trace, pair):
    var = contextvars.ContextVar("var", default="unset")
    ours, peer = pair()

    def see(p, *what):
        trace("var", var.get())

    def made(p):
        see(p)
        var.set("made")

    p = StreamTracer(
        trace, made=made, data=see, eof=see, lost=see, pause_writing=see, resume_writing=see
    )
    var.set("attached")
    transport = await attach(ours, p)
    var.set("later")
    peer.send(b"x")
    await settle()
    small_buffers(ours, peer)
    transport.write(bytes(400_000))
    await asyncio.to_thread(recv_exactly, peer, 400_000)
    var.set("closing")
    peer.close()
    await p.lost


@both
async def contexts_of_abort(trace, pair):
    var = contextvars.ContextVar("var", default="unset")
    ours, peer = pair()

    def see(p, *what):
        trace("var", var.get())

    p = StreamTracer(trace, lost=see)
    var.set("attached")
    transport = await attach(ours, p)
    var.set("later")
    transport.abort()
    await p.lost
    peer.close()


@both
async def add_reader_on_a_transport(trace, pair):
    ours, peer = pair()
    loop = asyncio.get_running_loop()
    p = StreamTracer(trace)
    transport = await attach(ours, p)
    for method in (loop.add_reader, loop.add_writer):
        for fd in (ours.fileno(), ours, transport.get_extra_info("socket")):
            try:
                method(fd, trace, "never")
            except RuntimeError as exc:
                trace(
                    "RuntimeError",
                    str(exc).startswith("File descriptor"),
                    "is used by transport" in str(exc),
                )
    for method in (loop.remove_reader, loop.remove_writer):
        try:
            method(ours)
        except RuntimeError as exc:
            trace("RuntimeError", "is used by transport" in str(exc))
    for coroutine in (loop.sock_recv(ours, 1), loop.sock_recv_into(ours, bytearray(1))):
        try:
            await coroutine
        except RuntimeError as exc:
            trace("RuntimeError", "is used by transport" in str(exc))
    transport.close()
    await p.lost
    peer.close()


@both
async def large_both_ways(trace, pair):
    loop = asyncio.get_running_loop()
    ours, peer = pair()
    peer.setblocking(False)
    total = 2_000_000
    got = {"a": 0, "b": 0}

    class Count(asyncio.Protocol):
        def __init__(self, name):
            self.name = name
            self.lost = loop.create_future()

        def data_received(self, data):
            got[self.name] += len(data)

        def connection_lost(self, exc):
            trace(self.name, "lost", exc)
            self.lost.set_result(None)

        def eof_received(self):
            return True

    a, b = Count("a"), Count("b")
    ta, tb = await attach(ours, a), await attach(peer, b)
    for transport in (ta, tb):
        for _ in range(20):
            transport.write(bytes(total // 20))
        transport.write_eof()
    while min(got.values()) < total:
        await settle(1)
    await settle()
    ta.close()
    tb.close()
    await a.lost
    await b.lost
    trace(got["a"], got["b"])


@scenario
async def half_open_and_forgotten(trace):
    """Nobody has the writer any more, and the peer has sent its end: the collector closes the connection."""
    answers = []

    async def handler(reader, writer):
        answers.append(await reader.read())

    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    peer = socket.create_connection(server.sockets[0].getsockname())
    peer.settimeout(8)
    peer.sendall(b"question")
    peer.shutdown(socket.SHUT_WR)
    await settle()
    trace(answers)
    await settle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the socket and the writer too: who holds what differs
        gc.collect()
    await settle()
    trace("closed", await asyncio.to_thread(peer.recv, 10))
    peer.close()
    server.close()
    await server.wait_closed()


@both
async def half_open_and_kept(trace, pair):
    """Whoever has the transport goes on writing, more than the kernel takes at once as well."""
    ours, peer = pair()
    p = StreamTracer(trace, eof=lambda p: True)
    transport = await attach(ours, p)
    small_buffers(ours, peer)
    peer.shutdown(socket.SHUT_WR)
    await settle()
    gc.collect()
    for size in (5, 500_000, 5):
        transport.write(bytes(size))
        await settle()
        gc.collect()
        trace(len(await asyncio.to_thread(recv_exactly, peer, size)))
        await settle()
        gc.collect()
        trace("closing", transport.is_closing())
    # What is on its way keeps it, even where nobody else does.
    transport.write(bytes(500_000))
    transport.close()
    p.transport = None
    lost = p.lost
    del transport, p
    gc.collect()
    trace(len(await asyncio.to_thread(recv_all, peer)))
    await lost
    peer.close()


@scenario
async def no_protocol(trace):
    loop = asyncio.get_running_loop()
    for factory in (lambda: None, object):
        ours, peer = unix_pair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # asyncio makes a transport first
            try:
                await loop.connect_accepted_socket(factory, ours)
            except AttributeError as exc:
                trace(str(exc).split(":")[0])
            gc.collect()
        ours.close()
        peer.close()
