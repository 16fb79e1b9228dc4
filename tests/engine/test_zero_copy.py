"""Zero-copy sends on io_uring.

Over loopback the kernel copies in the end, so what is tested is that bytes, memory and ends are right, not that
anything is saved: the sends are asked for although the peer is on this machine (``zero_copy_local``).
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys

import pytest

from clearway import streams
from clearway.buffers import Memory
from clearway.engine import zero_copy

from ..support.loops import Factory, cancelled, in_thread, run, until
from ..support.net import (
    pattern,
    recv_all,
    recv_exactly,
    settle,
    small_buffers,
    tcp_pair,
    unix_pair,
)

BIG = 4 << 20


@pytest.fixture
def uring(clearway_factory: Factory) -> Factory:
    if clearway_factory.name != "uring":
        pytest.skip("io_uring's only")
    return clearway_factory


def engine():
    return asyncio.get_running_loop()._engine


@pytest.fixture
def sends(uring):
    """Run a coroutine function where zero-copy sends go to this machine too."""

    def runner(main, **options):
        async def whole():
            engine().zero_copy_local = True
            if not has_zero_copy():
                pytest.skip("the kernel has no zero-copy sends (6.1)")
            await main()

        run(uring, whole, **options)

    return runner


def has_zero_copy():
    from clearway.engine.uring import probe

    return dict(probe())["zero-copy send (6.0)"]


async def writer_of(sock):
    _, writer = await asyncio.open_connection(sock=sock)
    return writer


def test_all_bytes_arrive_and_the_stream_notices_that_they_were_copied(sends):
    async def main():
        ours, peer = tcp_pair()
        with peer:
            small_buffers(ours, peer)
            writer = await writer_of(ours)
            writer.write(b"begin")
            writer.write(pattern(BIG))
            writer.write(b"end")
            receiving = asyncio.ensure_future(in_thread(recv_exactly, peer, BIG + 8))
            await writer.drain()
            assert await receiving == b"begin" + pattern(BIG) + b"end"
            await until(lambda: asyncio.get_running_loop().statistics().zero_copy_copied)
            assert engine().zero_copy_sends >= 1
            before = engine().zero_copy_sends
            writer.write(pattern(BIG))
            assert await in_thread(recv_exactly, peer, BIG) == pattern(BIG)
            assert engine().zero_copy_sends == before, "it had been told that they are copied"
            writer.close()
            await writer.wait_closed()

    sends(main)


def test_memory_is_held_until_the_kernel_says_so(sends):
    async def main():
        ours, peer = tcp_pair()
        with peer:
            small_buffers(ours, peer)
            writer = await writer_of(ours)
            data = pattern(BIG)
            writer.write(data)
            await settle()
            # Once by us, once by getrefcount, and by whoever may still send from it.
            assert sys.getrefcount(data) > 2
            assert await in_thread(recv_exactly, peer, BIG) == data
            await until(lambda: sys.getrefcount(data) == 2)
            writer.close()
            await writer.wait_closed()

    sends(main)


def test_leases_that_nobody_can_write_to(sends):
    async def main():
        ours, peer = tcp_pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                fixed, other = Memory(pattern(BIG)).lend(), Memory(bytearray(pattern(BIG))).lend()
                receiving = asyncio.ensure_future(in_thread(recv_exactly, peer, BIG))
                with fixed:
                    await stream.send(fixed)
                assert await receiving == pattern(BIG)
                assert engine().zero_copy_sends >= 1
                before = engine().zero_copy_sends
                receiving = asyncio.ensure_future(in_thread(recv_exactly, peer, BIG))
                with other:
                    await stream.send(other)
                assert await receiving == pattern(BIG)
                assert engine().zero_copy_sends == before
                await stream.drain()

    sends(main)


@pytest.mark.parametrize("end", ["abort", "close", "reset"])
def test_a_connection_that_ends_with_a_send_under_way(sends, end):
    async def main():
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        writer = await writer_of(ours)
        data = pattern(BIG)
        writer.write(data)
        await settle()
        assert writer.transport.get_write_buffer_size() > 0
        if end == "abort":
            writer.transport.abort()
        elif end == "close":
            writer.close()
            assert await in_thread(recv_all, peer) == data
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            assert end == "reset"
        peer.close()
        await until(lambda: sys.getrefcount(data) == 2)
        assert engine().inflight() <= 1  # what wakes the loop

    sends(main)


def test_a_drain_that_is_cancelled_loses_nothing(sends):
    async def main():
        ours, peer = tcp_pair()
        with peer:
            small_buffers(ours, peer)
            writer = await writer_of(ours)
            writer.write(pattern(BIG))
            await cancelled(asyncio.ensure_future(writer.drain()))
            writer.write(b"more")
            assert await in_thread(recv_exactly, peer, BIG + 4) == pattern(BIG) + b"more"
            writer.close()
            await writer.wait_closed()

    sends(main)


def test_memory_whose_notification_will_not_come_is_kept(monkeypatch):
    kept = []
    monkeypatch.setattr(zero_copy, "_kept", kept)
    lease = Memory(b"bytes").lend()
    notice = zero_copy.Notice(None, [b"plain", lease])
    lease.release()
    notice.keep()
    gc.collect()
    ((plain, held),) = kept
    assert (plain, bytes(held)) == (b"plain", b"bytes")
    held.release()


def test_sockets_that_cannot(sends):
    async def main():
        ours, peer = unix_pair()
        with peer:
            writer = await writer_of(ours)
            receiving = asyncio.ensure_future(in_thread(recv_exactly, peer, BIG))
            writer.write(pattern(BIG))
            await writer.drain()
            assert await receiving == pattern(BIG)
            before = engine().zero_copy_sends
            writer.write(pattern(BIG))
            assert await in_thread(recv_exactly, peer, BIG) == pattern(BIG)
            assert engine().zero_copy_sends == before
            writer.close()
            await writer.wait_closed()

    sends(main)


def test_within_this_machine_it_is_not_tried(uring):
    async def main():
        ours, peer = tcp_pair()
        with peer:
            writer = await writer_of(ours)
            receiving = asyncio.ensure_future(in_thread(recv_exactly, peer, BIG))
            writer.write(pattern(BIG))
            await writer.drain()
            assert await receiving == pattern(BIG)
            assert engine().zero_copy_sends == 0
            writer.close()
            await writer.wait_closed()

    run(uring, main)


def test_what_is_worth_it():
    large, small = bytes(zero_copy.SEND_MIN), b"small"
    mutable = Memory(bytearray(zero_copy.SEND_MIN)).lend()
    assert zero_copy.choose([large], 0, 0) == [large]
    assert zero_copy.choose([small, large, mutable, large], 0, 0) == [small, large]
    assert zero_copy.choose([small, large], 1, 0) == [large]
    assert zero_copy.choose([large], 0, 1) is None
    assert zero_copy.choose([mutable], 0, 0) is None
    assert zero_copy.choose([bytes(1024)] * 100, 0, 0) is None
    mutable.release()


def test_a_notice_holds_the_memory_whoever_lets_go_of_it():
    given_back = []

    class Watched(Memory):
        def idle(self):
            given_back.append(self)

    lease = Watched(b"bytes").lend()
    notice = zero_copy.Notice(None, [lease])
    lease.release()  # as the stream does once the kernel has taken all of it
    gc.collect()
    assert not given_back
    notice.run()
    assert given_back
