"""Slow readers and slow receivers: what is held in memory stays bounded, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from ..support.loops import in_thread, run
from ..support.net import (
    PEER_TIMEOUT_S,
    BufferedRecorder,
    Echo,
    Recorder,
    attach,
    closed,
    fill,
    pattern,
    recv_exactly,
    settle,
    small_buffers,
    tcp_pair,
)


def test_pause_writing_and_resume_writing_come_in_turn(factory, pair):
    async def main():
        ours, peer = pair()
        small_buffers(ours, peer)
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.set_write_buffer_limits(high=100_000, low=20_000)
        assert transport.get_write_buffer_limits() == (20_000, 100_000)
        with peer:
            for turn in range(3):
                assert protocol.events.count("pause") == turn
                transport.write(bytes(4_000_000))
                assert protocol.events[-1] == "pause", "pause_writing comes from inside write()"
                transport.write(bytes(1000))
                size = transport.get_write_buffer_size()
                assert 100_000 < size <= 4_001_000
                await settle()
                assert protocol.events.count("resume") == turn
                await in_thread(recv_exactly, peer, 4_001_000)
                await protocol.until(lambda turn=turn: protocol.events.count("resume") == turn + 1)
                assert transport.get_write_buffer_size() <= 20_000
            await closed(transport, protocol)

    run(factory, main)


def test_the_default_limits_are_asyncio_s(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        assert transport.get_write_buffer_limits() == (16_384, 65_536)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_write_buffer_limits(0)
        assert transport.get_write_buffer_limits() == (0, 0)
        with peer:
            transport.write(bytes(5_000_000))
            assert protocol.events[-1] == "pause"
            await in_thread(recv_exactly, peer, 5_000_000)
            await protocol.until(lambda: protocol.events[-1] == "resume")
            assert transport.get_write_buffer_size() == 0
            await closed(transport, protocol)

    run(factory, main)


def test_a_slow_reader_holds_memory_flat(factory, pair):
    """A producer that honours pause_writing never has more than the limit and one write waiting."""
    chunk = bytes(50_000)
    total = 400

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        high = transport.get_write_buffer_limits()[1]
        sizes = []

        async def produce():
            for _ in range(total):
                transport.write(chunk)
                sizes.append(transport.get_write_buffer_size())
                await protocol.until(
                    lambda: protocol.events.count("pause") == protocol.events.count("resume")
                )

        with peer:
            producing = asyncio.ensure_future(produce())
            await settle()
            assert not producing.done()
            await in_thread(recv_exactly, peer, total * len(chunk))
            await producing
            await closed(transport, protocol)
        assert max(sizes) <= high + len(chunk)

    run(factory, main)


def test_drain_waits_and_memory_stays_flat(factory):
    async def main():
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        _, writer = await asyncio.open_connection(sock=ours)
        sizes = []

        async def produce():
            for _ in range(300):
                writer.write(bytes(30_000))
                sizes.append(writer.transport.get_write_buffer_size())
                await writer.drain()

        with peer:
            producing = asyncio.ensure_future(produce())
            await settle()
            assert not producing.done()
            assert len(sizes) < 100
            await in_thread(recv_exactly, peer, 9_000_000)
            await producing
            writer.close()
            await writer.wait_closed()
        assert max(sizes) <= 65_536 + 30_000

    run(factory, main)


@pytest.mark.parametrize("buffered", [False, True], ids=["protocol", "buffered"])
def test_paused_reading_leaves_the_data_with_the_kernel(factory, pair, buffered):
    """The peer is held back; what the loop itself may hold meanwhile is bounded."""
    data = pattern(12_000_000)

    async def main():
        ours, peer = pair()
        small_buffers(ours, peer)
        protocol = BufferedRecorder(65_536) if buffered else Recorder()
        transport = await attach(ours, protocol)
        with peer:
            peer.sendall(data[:10])
            await protocol.until_received(10)
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await settle()
            peer.setblocking(False)
            sent = 10
            try:
                while sent < len(data):
                    sent += peer.send(data[sent : sent + 65_536])
                    await settle(1)
            except BlockingIOError:
                pass
            peer.settimeout(PEER_TIMEOUT_S)
            # Two kernel buffers of 64 KiB (the kernel doubles what was asked for) and, at the
            # very most, a megabyte of receive buffers of the engine.
            assert sent < 1_500_000, f"{sent} bytes were taken in although reading is paused"
            assert len(protocol.data) == 10
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()

            def rest():
                peer.sendall(data[sent:])

            await asyncio.gather(in_thread(rest), protocol.until_received(len(data)))
            assert protocol.data == data
            await closed(transport, protocol)

    run(factory, main)


def test_pause_inside_data_received_holds_at_once(factory, pair):
    data = pattern(3_000_000)

    async def main():
        ours, peer = pair()

        class OneAtATime(Recorder):
            def data_received(self, chunk):
                assert self.transport.is_reading(), "data_received while paused"
                super().data_received(chunk)
                self.transport.pause_reading()

        protocol = OneAtATime()
        transport = await attach(ours, protocol)
        with peer:
            sending = asyncio.ensure_future(in_thread(peer.sendall, data))
            seen = 0
            while len(protocol.data) < len(data):
                await protocol.until(lambda seen=seen: len(protocol.events) > seen + 1)
                held = len(protocol.data)
                await settle(2)
                assert len(protocol.data) == held, "data_received while paused"
                seen = len(protocol.events) - 1
                transport.resume_reading()
            await sending
            assert protocol.data == data
            transport.resume_reading()
            await closed(transport, protocol)

    run(factory, main)


def test_eof_waits_for_resume(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.pause_reading()
        await settle()
        peer.sendall(b"before the end")
        peer.close()
        await settle()
        assert protocol.events == ["made"]
        transport.resume_reading()
        await protocol.until_lost()
        assert protocol.events == ["made", "data", "eof", "lost"]

    run(factory, main)


def test_flapping_between_pause_and_resume_loses_nothing(factory, pair):
    """Each pause meets a receive in another state: not armed, in flight, ended, with data."""
    data = pattern(2_000_000)

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:

            def send():
                for start in range(0, len(data), 1777):
                    peer.sendall(data[start : start + 1777])

            sending = asyncio.ensure_future(in_thread(send))
            turn = 0
            while len(protocol.data) < len(data):
                turn += 1
                transport.pause_reading()
                for _ in range(turn % 4):
                    await asyncio.sleep(0)
                held = len(protocol.data)
                if turn % 7 == 0:
                    await settle(1)
                    assert len(protocol.data) == held
                transport.resume_reading()
                if turn % 3 == 0:
                    transport.pause_reading()
                    transport.resume_reading()
                for _ in range(turn % 5):
                    await asyncio.sleep(0)
            await sending
            assert protocol.data == data
            await closed(transport, protocol)

    run(factory, main)


def test_close_while_paused(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.pause_reading()
        peer.sendall(b"never read")
        await settle()
        with peer:
            await closed(transport, protocol)
        transport.resume_reading()  # after the end: ignored
        transport.pause_reading()
        await settle()
        assert protocol.events == ["made", "lost"]

    run(factory, main)


def test_an_echo_server_with_a_client_that_never_reads(factory):
    """The echo's own back-pressure reaches the sender, through both directions."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        transport, _ = await loop.connect_accepted_socket(Echo, sock=ours)
        high = transport.get_write_buffer_limits()[1]
        with peer:
            sent = 0
            stuck = 0
            while stuck < 10:
                more = fill(peer, 1 << 20)
                sent += more
                stuck = 0 if more else stuck + 1
                await settle(1)
                assert sent < 5_000_000, "no back-pressure"
            # One receive beyond the limit: asyncio's receive is at most 256 KiB.
            assert transport.get_write_buffer_size() <= high + 262_144
            assert await in_thread(recv_exactly, peer, sent) == bytes(sent)
            transport.close()
        await settle()

    run(factory, main)


def test_a_stream_reader_that_nobody_reads_is_bounded(factory):
    async def main():
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        reader, writer = await asyncio.open_connection(sock=ours, limit=10_000)
        with peer:
            sent = 0
            stuck = 0
            while stuck < 10:
                more = fill(peer, 1 << 20)
                sent += more
                stuck = 0 if more else stuck + 1
                await settle(1)
                assert sent < 5_000_000, "no back-pressure"
            assert await reader.readexactly(sent) == bytes(sent)
            writer.close()
            await writer.wait_closed()

    run(factory, main)
