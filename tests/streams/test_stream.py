"""Streams hand out leases, in order, whole, and give every buffer back."""

from __future__ import annotations

import asyncio
import socket

import pytest

from clearway import streams
from clearway.buffers import Lease, Pool
from clearway.streams import (
    SeparatorNotFound,
    StreamBroken,
    StreamBusy,
    StreamClosed,
    StreamEmpty,
    StreamEnded,
)

from ..support.loops import cancelled, in_thread, run, until
from ..support.net import (
    PEER_TIMEOUT_S,
    fill,
    pattern,
    recv_all,
    recv_exactly,
    reset,
    settle,
    small_buffers,
    unix_pair,
)


async def read_all(stream):
    data = bytearray()
    async for lease in stream:
        with lease:
            data += lease.view
    return bytes(data)


# -- receiving ---------------------------------------------------------------------------------------------------


def test_a_lease_has_what_the_peer_sent(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                peer.sendall(b"hello")
                with await stream.receive() as lease:
                    assert lease.view == b"hello"
                peer.shutdown(socket.SHUT_WR)
                end = await stream.receive()
                assert not end and len(end) == 0
                assert not await stream.receive()

    run(factory, main)


def test_all_bytes_arrive_in_order(factory, pair):
    data = pattern(3_000_001)

    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:

                def send():
                    peer.sendall(data)
                    peer.shutdown(socket.SHUT_WR)

                sending = asyncio.ensure_future(in_thread(send))
                assert await read_all(stream) == data
                await sending
                assert stream.statistics().received == len(data)

    run(factory, main)


def test_a_cancelled_receive_loses_nothing(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                task = asyncio.ensure_future(stream.receive())
                await settle()
                await cancelled(task)
                peer.sendall(b"first")
                # Cancelled after the bytes had arrived and its wake-up was under way, too.
                task = asyncio.ensure_future(stream.receive())
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    task.result().release()
                    peer.sendall(b"first")
                got = await stream.receive_exactly(5)
                with got:
                    assert got.view == b"first"

    run(factory, main)


def test_a_receiver_that_is_cancelled_as_it_is_woken_leaves_the_bytes(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:

                async def receive():
                    return await stream.receive()

                task = asyncio.ensure_future(receive())
                await settle()
                peer.sendall(b"kept")
                await until(lambda: stream.statistics().unread or task.done())
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if task.cancelled():
                    with await stream.receive() as lease:
                        assert lease.view == b"kept"
                else:
                    task.result().release()

    run(factory, main)


def test_one_receiver_at_a_time(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                first = asyncio.ensure_future(stream.receive())
                await asyncio.sleep(0)
                with pytest.raises(StreamBusy):
                    await stream.receive()
                with pytest.raises(StreamBusy):
                    stream.receive_nowait()
                peer.sendall(b"x")
                (await first).release()
                with pytest.raises(StreamEmpty):
                    stream.receive_nowait()
                whole = asyncio.ensure_future(stream.receive_exactly(4))
                await asyncio.sleep(0)
                peer.sendall(b"ab")
                await settle()
                with pytest.raises(StreamBusy):
                    await stream.receive_until(b"\n")
                peer.sendall(b"cd")
                with await whole as lease:
                    assert lease.view == b"abcd"

    run(factory, main)


def test_receive_nowait(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                peer.sendall(b"now")
                await settle()
                with stream.receive_nowait() as lease:
                    assert lease.view == b"now"

    run(factory, main)


def test_receive_exactly_copies_across_boundaries_only(factory):
    async def main():
        ours, peer = unix_pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                peer.sendall(b"abcdefgh")
                await settle()
                with await stream.receive_exactly(3) as lease:
                    assert lease.view == b"abc"
                with await stream.receive_exactly(4) as lease:
                    assert lease.view == b"defg"
                assert stream.statistics().received_copied == 0
                task = asyncio.ensure_future(stream.receive_exactly(3))
                await settle()
                peer.sendall(b"ijk")
                with await task as lease:
                    assert lease.view == b"hij"
                assert stream.statistics().received_copied == 3
                with await stream.receive() as lease:
                    assert lease.view == b"k"
                assert not await stream.receive_exactly(0)
                with pytest.raises(ValueError, match="negative"):
                    await stream.receive_exactly(-1)

    run(factory, main)


def test_receive_exactly_of_more_than_any_buffer(factory, pair):
    data = pattern(1_200_003)

    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                sending = asyncio.ensure_future(in_thread(peer.sendall, data))
                for start, stop in ((0, 1_000_000), (1_000_000, len(data))):
                    with await stream.receive_exactly(stop - start) as lease:
                        assert lease.view == data[start:stop]
                await sending

    run(factory, main)


def test_what_a_cancelled_receive_exactly_gathered_is_still_there(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                task = asyncio.ensure_future(stream.receive_exactly(10))
                await settle()
                for part in (b"abc", b"def"):
                    peer.sendall(part)
                    await settle()
                await cancelled(task)
                with await stream.receive() as lease:
                    assert lease.view == b"abcdef"

    run(factory, main)


def test_the_end_before_all_has_come(factory, pair):
    async def main():
        ours, peer = pair()
        async with streams.from_socket(ours) as stream:
            peer.sendall(b"abc")
            peer.close()
            with pytest.raises(StreamEnded, match="3 of 10"):
                await stream.receive_exactly(10)
            with pytest.raises(StreamEnded):
                await stream.receive_until(b"\n")
            with await stream.receive() as lease:
                assert lease.view == b"abc"
            assert not await stream.receive()
            with pytest.raises(StreamEnded):
                await stream.receive_exactly(1)

    run(factory, main)


@pytest.mark.parametrize("parts", [[b"head\r\n\r\nrest"], [b"head\r", b"\n", b"\r", b"\nrest"]])
def test_receive_until(factory, pair, parts):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                task = asyncio.ensure_future(stream.receive_until(b"\r\n\r\n"))
                for part in parts:
                    await settle()
                    peer.sendall(part)
                with await task as lease:
                    assert lease.view == b"head\r\n\r\n"
                with await stream.receive() as lease:
                    assert lease.view == b"rest"
                copied = stream.statistics().received_copied
                assert copied == (0 if len(parts) == 1 else 8)

    run(factory, main)


def test_a_separator_that_does_not_come(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                task = asyncio.ensure_future(stream.receive_until(b"\n", 6))
                await settle()
                peer.sendall(b"abc")
                await settle()
                peer.sendall(b"defg\n")
                with pytest.raises(SeparatorNotFound):
                    await task
                with await stream.receive_until(b"\n", 8) as lease:
                    assert lease.view == b"abcdefg\n"
                with pytest.raises(ValueError, match="empty"):
                    await stream.receive_until(b"")
                with pytest.raises(ValueError, match="not within"):
                    await stream.receive_until(b"ab", 1)

    run(factory, main)


# -- sending -----------------------------------------------------------------------------------------------------


def test_all_kinds_of_data_are_sent_in_order(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                lease = Lease.of(b"3456789")
                with lease:
                    await stream.send(b"0")
                    await stream.send(bytearray(b"1"))
                    await stream.send(memoryview(b"2"))
                    await stream.send(lease[:3])
                    await stream.send_many([b"6", lease[4:], b"", bytearray(b"!")])
                await stream.send(b"")
                assert await in_thread(recv_exactly, peer, 11) == b"0123456789!"
                await stream.drain()
                assert stream.statistics().sent == 11
                assert stream.statistics().sent_copied == 3
                with pytest.raises(TypeError):
                    await stream.send("text")
                with pytest.raises(ValueError, match="released"):
                    await stream.send(lease)

    run(factory, main)


def test_a_send_holds_its_memory_until_it_has_gone(factory, pair):
    data = pattern(200_000)

    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            async with streams.from_socket(ours) as stream:
                pool = Pool(block_size=len(data), blocks=1)
                lease = pool.take_nowait()
                with lease.view as view:
                    view[:] = data
                await stream.send(lease)
                lease.release()
                assert stream.pending
                assert pool.statistics().lent == 1
                assert await in_thread(recv_exactly, peer, len(data)) == data
                await stream.drain()
                await until(lambda: not pool.statistics().lent)

    run(factory, main)


def test_a_slow_peer_holds_the_sender_up(factory, pair):
    chunk = bytes(64 * 1024)

    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            async with streams.from_socket(ours) as stream:
                sent = 0

                async def send():
                    nonlocal sent
                    for _ in range(64):
                        await stream.send(chunk)
                        sent += len(chunk)
                    await stream.send_eof()

                task = asyncio.ensure_future(send())
                await settle(10)
                before = sent
                assert before < 16 * len(chunk)
                assert stream.pending <= 5 * len(chunk)
                data = await in_thread(recv_all, peer)
                await task
                assert len(data) == sent == 64 * len(chunk)

    run(factory, main)


def test_a_cancelled_send_has_sent_nothing(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            async with streams.from_socket(ours) as stream:
                accepted = 0
                while stream.pending <= 256 * 1024:
                    await stream.send(b"a" * 65536)
                    accepted += 65536
                tasks = [asyncio.ensure_future(stream.send(b"%d" % n)) for n in range(4)]
                await settle()
                await cancelled(tasks[0])
                await cancelled(tasks[2])
                data = await in_thread(recv_exactly, peer, accepted + 2)
                assert data == b"a" * accepted + b"13"
                await asyncio.gather(tasks[1], tasks[3])
                assert stream.pending == 0

    run(factory, main)


def test_aborting_tells_what_was_lost(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            stream = streams.from_socket(ours)
            await stream.send(bytes(1_000_000))
            pending = stream.pending
            assert pending
            assert stream.abort() == pending
            data = await in_thread(recv_all, peer)
            assert len(data) == 1_000_000 - pending
            assert stream.abort() == 0
            with pytest.raises(StreamClosed):
                await stream.send(b"x")

    run(factory, main)


def test_half_close(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                await stream.send(b"question")
                await stream.send_eof()
                await stream.send_eof()
                assert await in_thread(recv_all, peer) == b"question"
                with pytest.raises(StreamClosed, match="send_eof"):
                    await stream.send(b"more")
                peer.sendall(b"answer")
                peer.shutdown(socket.SHUT_WR)
                assert await read_all(stream) == b"answer"

    run(factory, main)


def test_a_cancelled_send_eof_still_ends_the_output(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            async with streams.from_socket(ours) as stream:
                await stream.send(bytes(500_000))
                task = asyncio.ensure_future(stream.send_eof())
                await settle()
                await cancelled(task)
                assert len(await in_thread(recv_all, peer)) == 500_000

    run(factory, main)


# -- ends and errors ---------------------------------------------------------------------------------------------


def test_closing_waits_for_what_was_accepted(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            stream = streams.from_socket(ours)
            await stream.send(bytes(500_000))
            closing = asyncio.ensure_future(stream.aclose())
            await settle()
            assert not closing.done()
            assert len(await in_thread(recv_all, peer)) == 500_000
            await closing
            await stream.aclose()
            assert stream.closed

    run(factory, main)


def test_a_cancelled_close_is_a_close(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            stream = streams.from_socket(ours)
            await stream.send(bytes(500_000))
            closing = asyncio.ensure_future(stream.aclose())
            await settle()
            await cancelled(closing)
            assert len(await in_thread(recv_all, peer)) < 500_000

    run(factory, main)


def test_closing_wakes_who_waits(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            stream = streams.from_socket(ours)
            receiving = asyncio.ensure_future(stream.receive())
            while stream.pending <= 256 * 1024:
                await stream.send(bytes(65536))
            sending = asyncio.ensure_future(stream.send(b"x"))
            draining = asyncio.ensure_future(stream.drain())
            await settle()
            stream.abort()
            for task in (receiving, sending, draining):
                with pytest.raises(StreamClosed):
                    await task
            with pytest.raises(StreamClosed):
                await stream.receive()

    run(factory, main)


def test_a_block_that_fails_does_not_wait_for_the_peer(factory, pair):
    async def main():
        ours, peer = pair()
        with peer:
            small_buffers(ours, peer)
            with pytest.raises(ZeroDivisionError):
                async with streams.from_socket(ours) as stream:
                    await stream.send(bytes(500_000))
                    raise ZeroDivisionError
            assert len(await in_thread(recv_all, peer)) < 500_000

    run(factory, main)


def test_a_reset_breaks_receiving_and_sending(factory):
    async def main():
        from ..support.net import tcp_pair

        ours, peer = tcp_pair()
        stream = streams.from_socket(ours)
        receiving = asyncio.ensure_future(stream.receive())
        await settle()
        reset(peer)
        with pytest.raises(StreamBroken) as caught:
            await receiving
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(StreamBroken):
            await stream.receive()
        with pytest.raises(StreamBroken):
            for _ in range(100):
                await stream.send(b"x" * 100)
                await stream.drain()
        await stream.aclose()

    run(factory, main)


def test_output_that_was_accepted_and_is_lost_is_told_once(factory):
    async def main():
        from ..support.net import tcp_pair

        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        stream = streams.from_socket(ours)
        await stream.send(bytes(1_000_000))
        reset(peer)
        with pytest.raises(StreamBroken):
            await stream.aclose()

        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        stream = streams.from_socket(ours)
        await stream.send(bytes(1_000_000))
        reset(peer)
        with pytest.raises(StreamBroken):
            await stream.drain()
        await stream.aclose()

    run(factory, main)


def test_a_task_that_never_has_to_wait_lets_others_run(factory):
    async def main():
        ours, peer = unix_pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                peer.sendall(bytes(1000))
                await settle()
                ran = 0

                async def other():
                    nonlocal ran
                    while True:
                        ran += 1
                        await asyncio.sleep(0)

                task = asyncio.ensure_future(other())
                for _ in range(500):
                    (await stream.receive_exactly(1)).release()
                assert ran >= 2
                ran = 0
                for _ in range(500):
                    await stream.send(b"x")
                assert ran >= 2
                await cancelled(task)
                assert len(await in_thread(recv_exactly, peer, 500)) == 500

    run(factory, main)


def test_nobody_asks_and_the_peer_is_held_up(factory):
    async def main():
        ours, peer = unix_pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                sent = 0
                while part := fill(peer, 64 << 20):
                    sent += part
                    await settle()
                assert sent < 4 << 20
                peer.shutdown(socket.SHUT_WR)
                assert len(await read_all(stream)) == sent

    run(factory, main)


def test_many_streams_at_once(factory):
    size = 200_000
    data = pattern(size + 60)

    async def main():
        async def handle(stream):
            async for lease in stream:
                with lease:
                    await stream.send(lease)

        async def client(number):
            mine = data[number : number + size]
            async with await streams.connect("127.0.0.1", port) as stream:
                sending = asyncio.ensure_future(stream.send(mine))
                with await stream.receive_exactly(size) as lease:
                    assert lease.view == mine
                await sending

        async with await streams.serve(handle, "127.0.0.1") as server:
            port = server.addresses[0][1]
            await asyncio.gather(*(client(n) for n in range(50)))
            assert server.handled == 50

    run(factory, main)


def test_what_is_used_wrongly(factory):
    async def main():
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            pytest.raises(ValueError, match="stream socket"),
        ):
            streams.from_socket(sock)
        ours, peer = unix_pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                operation = stream.send(b"x")
                await operation
                with pytest.raises(RuntimeError, match="once"):
                    await operation
                assert "ByteStream open" in repr(stream)
            assert "closed" in repr(stream)
            peer.settimeout(PEER_TIMEOUT_S)

    run(factory, main)
