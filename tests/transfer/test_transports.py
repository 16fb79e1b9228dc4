"""Transfers past transports and asyncio's streams: received bytes first, none lost, everything given back."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import clearway

from ..support.certs import client_context, server_context
from ..support.loops import Factory, cancelled, in_thread, until
from ..support.net import (
    BufferedRecorder,
    Recorder,
    attach,
    closed,
    pattern,
    recv_all,
    recv_exactly,
    reset,
    settle,
    small_buffers,
    tcp_pair,
    unix_pair,
)

SIZE = 1_000_003


async def streams(sock: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(sock=sock)


async def hang_up(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    for writer in writers:
        await writer.wait_closed()


def test_from_stream_to_stream(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left_peer, right_peer:
            reader, writer = await streams(left)
            _, other = await streams(right)
            left_peer.sendall(b"head\n" + b"body")
            assert await reader.readline() == b"head\n"
            fed = asyncio.ensure_future(in_thread(left_peer.sendall, pattern(SIZE)))
            received = asyncio.ensure_future(in_thread(recv_exactly, right_peer, SIZE + 4))
            result = await clearway.transfer(reader, other, SIZE + 4)
            await fed
            assert result.moved == SIZE + 4
            assert result.path == "splice"
            assert 4 <= result.buffered < SIZE
            assert await received == b"body" + pattern(SIZE)
            # Both are streams again.
            left_peer.sendall(b"more")
            assert await reader.readexactly(4) == b"more"
            other.write(b"tail")
            await other.drain()
            assert recv_exactly(right_peer, 4) == b"tail"
            await hang_up(writer, other)

    run(factory, main)


def test_less_than_the_reader_holds(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left_peer, right_peer:
            reader, writer = await streams(left)
            right.setblocking(False)
            left_peer.sendall(b"0123456789")
            assert await reader.readexactly(1) == b"0"
            result = await clearway.transfer(reader, right, 4)
            assert (result.moved, result.undelivered) == (4, b"")
            assert recv_exactly(right_peer, 4) == b"1234"
            assert await reader.readexactly(5) == b"56789"
            await hang_up(writer)
        right.close()

    run(factory, main)


def test_the_end_is_passed_on_and_still_seen_by_the_reader(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left_peer, right_peer:
            reader, writer = await streams(left)
            back, other = await streams(right)
            left_peer.sendall(b"all")
            left_peer.shutdown(1)
            result = await clearway.transfer(reader, other, send_eof=True)
            assert (result.moved, result.ended) == (3, True)
            assert recv_all(right_peer) == b"all"
            assert await reader.read() == b""
            # The other direction is open.
            right_peer.sendall(b"answer")
            assert await back.readexactly(6) == b"answer"
            await hang_up(writer, other)

    run(factory, main)


def test_a_protocol_gets_what_follows(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = unix_pair()
        with left_peer, right, right_peer:
            protocol = Recorder(keep_open=True)
            transport = await attach(left, protocol)
            left_peer.sendall(b"one")
            await protocol.until_received(3)
            left_peer.sendall(pattern(1000))
            result = await clearway.transfer(transport, right, 1000)
            assert result.moved == 1000
            assert recv_exactly(right_peer, 1000) == pattern(1000)
            assert transport.is_reading()
            assert transport.get_protocol() is protocol
            left_peer.sendall(b"two")
            assert await protocol.until_received(6) == b"onetwo"
            await closed(transport, protocol)

    run(factory, main)


def test_a_buffered_protocol_too(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = unix_pair()
        with left_peer, right, right_peer:
            protocol = BufferedRecorder()
            transport = await attach(left, protocol)
            left_peer.sendall(pattern(1000))
            result = await clearway.transfer(transport, right, 1000 - len(protocol.data))
            assert recv_exactly(right_peer, result.moved) == pattern(1000)[-result.moved :]
            left_peer.sendall(b"two")
            await protocol.until(lambda: bytes(protocol.data).endswith(b"two"))
            await closed(transport, protocol)

    run(factory, main)


def test_paused_transports_stay_paused(factory: Factory, run: Any) -> None:
    """What the engine had received already before reading was paused comes first."""

    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left_peer, right, right_peer:
            protocol = Recorder()
            transport = await attach(left, protocol)
            left_peer.sendall(pattern(100_000))
            transport.pause_reading()
            received = len(protocol.data)
            await settle()
            result = await clearway.transfer(transport, right, 100_000 - received)
            assert recv_exactly(right_peer, result.moved) == pattern(100_000)[received:]
            assert not transport.is_reading()
            left_peer.sendall(b"later")
            await settle()
            assert len(protocol.data) == received
            transport.resume_reading()
            await protocol.until_received(received + 5)
            await closed(transport, protocol)

    run(factory, main)


def test_what_was_written_before_goes_first(factory: Factory, tmp_path: Path, run: Any) -> None:
    (tmp_path / "content").write_bytes(pattern(SIZE))

    async def main() -> None:
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        with peer, (tmp_path / "content").open("rb") as file:
            protocol = Recorder()
            transport = await attach(ours, protocol)
            transport.write(b"h" * SIZE)
            received = asyncio.ensure_future(in_thread(recv_all, peer))
            limits = transport.get_write_buffer_limits()
            result = await clearway.transfer(file, transport, send_eof=True)
            assert (result.moved, result.path) == (SIZE, "sendfile")
            assert transport.get_write_buffer_limits() == limits
            assert await received == b"h" * SIZE + pattern(SIZE)
            await closed(transport, protocol)
            assert protocol.events.count("pause") == protocol.events.count("resume")

    run(factory, main)


def test_both_directions_at_once(factory: Factory, run: Any) -> None:
    """A proxy on transports: the two transfers share them and end in either order."""

    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left_peer, right_peer:
            one, two = Recorder(keep_open=True), Recorder(keep_open=True)
            a, b = await attach(left, one), await attach(right, two)
            forth = asyncio.ensure_future(clearway.transfer(a, b, send_eof=True))
            back = asyncio.ensure_future(clearway.transfer(b, a, send_eof=True))
            left_peer.sendall(b"question")
            left_peer.shutdown(1)
            assert await in_thread(recv_all, right_peer) == b"question"
            assert (await forth).moved == 8
            right_peer.sendall(b"answer")
            right_peer.shutdown(1)
            assert await in_thread(recv_all, left_peer) == b"answer"
            assert (await back).moved == 6
            assert a.get_protocol() is one
            assert b.get_protocol() is two
            a.close()
            b.close()
            await one.until_lost()
            await two.until_lost()

    run(factory, main)


def test_one_transfer_per_direction(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left_peer, right, right_peer:
            protocol = Recorder()
            transport = await attach(left, protocol)
            first = asyncio.ensure_future(clearway.transfer(transport, right))
            await settle()
            with pytest.raises(RuntimeError, match="source of another transfer"):
                await clearway.transfer(transport, right)
            await cancelled(first)
            assert transport.get_protocol() is protocol
            await closed(transport, protocol)
            with pytest.raises(RuntimeError, match="closing"):
                await clearway.transfer(transport, right)

    run(factory, main)


@pytest.mark.parametrize("how", ["reset", "abort", "close"])
def test_the_connection_is_lost_meanwhile(factory: Factory, run: Any, how: str) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        small_buffers(right, right_peer)
        with left, left_peer, right_peer:
            protocol = Recorder()
            transport = await attach(right, protocol)
            progress = clearway.Transfer()
            task = asyncio.ensure_future(clearway.transfer(left, transport, progress=progress))
            fed = asyncio.ensure_future(in_thread(left_peer.sendall, bytes(3_000_000)))
            await until(lambda: progress.moved)
            if how == "reset":
                reset(right_peer)
            elif how == "abort":
                transport.abort()
            else:
                transport.close()
            with pytest.raises((ConnectionError, BrokenPipeError)):
                await task
            transport.abort()
            await protocol.until_lost()
            assert len(protocol.lost_with) == 1
            left.close()
            await asyncio.wait([fed])
            fed.exception()

    run(factory, main)


def test_through_tls(factory: Factory, tmp_path: Path, run: Any) -> None:
    """Encrypted ends go by buffers, in both roles, and say so."""
    (tmp_path / "content").write_bytes(pattern(SIZE))

    async def main() -> None:
        got: asyncio.Future[tuple[clearway.Transfer, bytes]]
        got = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with (tmp_path / "upload").open("wb") as sink:
                assert await reader.readexactly(4) == b"head"
                result = await clearway.transfer(reader, sink, SIZE)
            got.set_result((result, await reader.readexactly(4)))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", ssl=server_context())
        host, port = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(
            host, port, ssl=client_context(), server_hostname="localhost"
        )
        writer.write(b"head")
        with (tmp_path / "content").open("rb") as file:
            sent = await clearway.transfer(file, writer)
            assert (sent.moved, sent.path, sent.buffered) == (SIZE, "buffers", SIZE)
            with pytest.raises(ValueError, match="send_eof"):
                await clearway.transfer(file, writer, send_eof=True)
        writer.write(b"tail")
        await writer.drain()
        received, tail = await got
        assert (received.moved, received.path, tail) == (SIZE, "buffers", b"tail")
        assert (tmp_path / "upload").read_bytes() == pattern(SIZE)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        server.close()
        await server.wait_closed()

    run(factory, main)


def test_to_and_from_a_process(clearway_factory: Factory, tmp_path: Path, run: Any) -> None:
    (tmp_path / "content").write_bytes(pattern(SIZE))
    program = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None
        with (tmp_path / "content").open("rb") as file:
            sent = await clearway.transfer(file, process.stdin, send_eof=True)
        assert sent.moved == SIZE
        with (tmp_path / "copy").open("wb") as sink:
            received = await clearway.transfer(process.stdout, sink)
        assert (received.moved, received.ended) == (SIZE, True)
        assert await process.wait() == 0
        assert (tmp_path / "copy").read_bytes() == pattern(SIZE)[::-1]
        await settle()

    run(clearway_factory, main)


def test_a_reader_that_was_fed_by_hand(factory: Factory, run: Any) -> None:
    async def main() -> None:
        ours, peer = tcp_pair()
        with ours, peer:
            reader = asyncio.StreamReader()
            reader.feed_data(b"abc")
            reader.feed_eof()
            result = await clearway.transfer(reader, ours)
            assert (result.moved, result.path, result.ended) == (3, "buffers", True)
            assert recv_exactly(peer, 3) == b"abc"

    run(factory, main)


def test_cancelled_between_streams_gives_back_what_was_taken(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = unix_pair()
        with left_peer, right_peer:
            reader, writer = await streams(left)
            reader_fd, writer_fd = os.pipe2(os.O_NONBLOCK)
            while True:  # fill it: it takes nothing
                try:
                    os.write(writer_fd, bytes(65536))
                except BlockingIOError:
                    break
            left_peer.sendall(b"precious")
            await settle()
            task = asyncio.ensure_future(clearway.transfer(reader, writer_fd))
            await settle()
            await cancelled(task)
            assert await reader.readexactly(8) == b"precious"
            os.close(reader_fd)
            os.close(writer_fd)
            await hang_up(writer)
        right.close()

    run(factory, main)
