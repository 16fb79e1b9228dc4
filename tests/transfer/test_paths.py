"""Every pair of ends: all bytes arrive in order, by the way that the kernel has for that pair."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

import clearway
from clearway.transfer import pipes

from ..support.loops import Factory, in_thread
from ..support.net import (
    PAIRS,
    pattern,
    recv_all,
    recv_exactly,
    small_buffers,
    tcp_pair,
    unix_pair,
)

#: More than any buffer on the way, so that back-pressure is met.
SIZE = 3_000_001


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(pattern(SIZE))
    return path


def feed(peer: socket.socket, data: bytes) -> None:
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


def pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, True)
    with os.fdopen(fd, "rb") as reader:
        return reader.read()


def write_all(fd: int, data: bytes) -> None:
    os.set_blocking(fd, True)
    with os.fdopen(fd, "wb") as writer:
        writer.write(data)


def test_file_to_socket(factory: Factory, pair: Any, content: Path, run: Any) -> None:
    async def main() -> None:
        ours, peer = pair()
        small_buffers(ours, peer)
        with ours, peer, content.open("rb") as file:
            received = asyncio.ensure_future(in_thread(recv_all, peer))
            result = await clearway.transfer(file, ours, send_eof=True)
            assert (result.moved, result.path, result.ended) == (SIZE, "sendfile", True)
            assert result.buffered == 0
            assert await received == pattern(SIZE)
            assert file.tell() == SIZE

    run(factory, main)


def test_part_of_a_file_from_its_position(factory: Factory, content: Path, run: Any) -> None:
    async def main() -> None:
        ours, peer = tcp_pair()
        with ours, peer, content.open("rb") as file:
            file.read(100)
            result = await clearway.transfer(file, ours, 1000)
            assert (result.moved, result.ended) == (1000, False)
            assert file.tell() == 1100
            assert file.read(4) == pattern(SIZE)[1100:1104]
            await clearway.transfer(file, ours, 50, offset=7)
            assert file.tell() == 1104, "a transfer from an offset moved the position"
            assert recv_exactly(peer, 1050) == pattern(SIZE)[100:1100] + pattern(SIZE)[7:57]

    run(factory, main)


def test_file_to_pipe(factory: Factory, content: Path, run: Any) -> None:
    async def main() -> None:
        reader, writer = pipe()
        received = asyncio.ensure_future(in_thread(read_all, reader))
        with os.fdopen(writer, "wb", 0) as sink, content.open("rb") as file:
            result = await clearway.transfer(file, sink)
        assert (result.moved, result.path, result.buffered) == (SIZE, "splice", 0)
        assert await received == pattern(SIZE)

    run(factory, main)


def test_file_to_file(factory: Factory, content: Path, tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        with content.open("rb") as source, (tmp_path / "copy").open("wb") as sink:
            sink.write(b"head")
            result = await clearway.transfer(source, sink)
            assert (result.moved, result.buffered, result.ended) == (SIZE, 0, True)
            assert result.path in ("copy_file_range", "sendfile")
            sink.write(b"tail")
        assert (tmp_path / "copy").read_bytes() == b"head" + pattern(SIZE) + b"tail"

    run(factory, main)


def test_file_to_a_file_that_is_appended_to(
    factory: Factory, content: Path, tmp_path: Path, run: Any
) -> None:
    async def main() -> None:
        (tmp_path / "log").write_bytes(b"before")
        with content.open("rb") as source, (tmp_path / "log").open("ab") as sink:
            result = await clearway.transfer(source, sink)
        assert (result.moved, result.path, result.buffered) == (SIZE, "buffers", SIZE)
        assert (tmp_path / "log").read_bytes() == b"before" + pattern(SIZE)

    run(factory, main)


def test_a_file_without_a_size(factory: Factory, tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        with open("/proc/self/limits", "rb") as source, (tmp_path / "copy").open("wb") as sink:
            result = await clearway.transfer(source, sink)
        assert result.path == "buffers"
        assert b"Max open files" in (tmp_path / "copy").read_bytes()

    run(factory, main)


@pytest.mark.parametrize("into", ["tcp", "unix"])
def test_socket_to_socket(factory: Factory, pair: Any, into: str, run: Any) -> None:
    async def main() -> None:
        left, left_peer = pair()
        right, right_peer = PAIRS[into]()
        small_buffers(left, right)
        with left, left_peer, right, right_peer:
            fed = asyncio.ensure_future(in_thread(feed, left_peer, pattern(SIZE)))
            received = asyncio.ensure_future(in_thread(recv_all, right_peer))
            result = await clearway.transfer(left, right, send_eof=True)
            assert (result.moved, result.path, result.ended) == (SIZE, "splice", True)
            assert result.buffered == 0
            await fed
            assert await received == pattern(SIZE)

    run(factory, main)


def test_the_other_direction_stays_open(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, left_peer, right, right_peer:
            feed(left_peer, b"question")
            await clearway.transfer(left, right, send_eof=True)
            assert recv_all(right_peer) == b"question"
            feed(right_peer, b"answer")
            await clearway.transfer(right, left, send_eof=True)
            assert recv_all(left_peer) == b"answer"

    run(factory, main)


def test_a_count_leaves_the_rest_in_the_socket(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, left_peer, right, right_peer:
            left_peer.sendall(b"0123456789")
            result = await clearway.transfer(left, right, 4)
            assert (result.moved, result.ended) == (4, False)
            assert recv_exactly(right_peer, 4) == b"0123"
            assert await asyncio.get_running_loop().sock_recv(left, 100) == b"456789"

    run(factory, main)


def test_socket_to_pipe_and_pipe_to_socket(factory: Factory, pair: Any, run: Any) -> None:
    async def main() -> None:
        left, left_peer = pair()
        right, right_peer = pair()
        reader, writer = pipe()
        with left, left_peer, right, right_peer:
            fed = asyncio.ensure_future(in_thread(feed, left_peer, pattern(SIZE)))
            received = asyncio.ensure_future(in_thread(recv_all, right_peer))

            async def into_pipe() -> clearway.Transfer:
                with os.fdopen(writer, "wb", 0) as sink:
                    return await clearway.transfer(left, sink)

            first = asyncio.ensure_future(into_pipe())
            with os.fdopen(reader, "rb", 0) as source:
                second = await clearway.transfer(source, right, send_eof=True)
            assert (await first).moved == second.moved == SIZE
            assert (await first).path == second.path == "splice"
            await fed
            assert await received == pattern(SIZE)

    run(factory, main)


def test_pipe_to_pipe(factory: Factory, run: Any) -> None:
    async def main() -> None:
        reader, into = pipe()
        out, writer = pipe()
        fed = asyncio.ensure_future(in_thread(write_all, into, pattern(SIZE)))
        received = asyncio.ensure_future(in_thread(read_all, out))
        with os.fdopen(reader, "rb", 0) as source, os.fdopen(writer, "wb", 0) as sink:
            result = await clearway.transfer(source, sink)
        assert (result.moved, result.path) == (SIZE, "splice")
        await fed
        assert await received == pattern(SIZE)

    run(factory, main)


def test_socket_to_file(factory: Factory, pair: Any, tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        ours, peer = pair()
        with ours, peer, (tmp_path / "upload").open("w+b") as sink:
            sink.write(b"head")
            fed = asyncio.ensure_future(in_thread(feed, peer, pattern(SIZE)))
            result = await clearway.transfer(ours, sink)
            assert (result.moved, result.path, result.buffered) == (SIZE, "splice", 0)
            assert sink.tell() == SIZE + 4
            await fed
        assert (tmp_path / "upload").read_bytes() == b"head" + pattern(SIZE)

    run(factory, main)


def test_pipe_to_file(factory: Factory, tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        reader, writer = pipe()
        fed = asyncio.ensure_future(in_thread(write_all, writer, pattern(SIZE)))
        with os.fdopen(reader, "rb", 0) as source, (tmp_path / "copy").open("wb") as sink:
            result = await clearway.transfer(source, sink)
        await fed
        assert (result.moved, result.path) == (SIZE, "splice")
        assert (tmp_path / "copy").read_bytes() == pattern(SIZE)

    run(factory, main)


def test_bare_descriptors(factory: Factory, content: Path, run: Any) -> None:
    async def main() -> None:
        ours, peer = unix_pair()
        with ours, peer:
            source = os.open(content, os.O_RDONLY)
            try:
                os.lseek(source, 10, os.SEEK_SET)
                await clearway.transfer(source, ours.fileno(), 100)
                assert os.lseek(source, 0, os.SEEK_CUR) == 110
            finally:
                os.close(source)
            assert recv_exactly(peer, 100) == pattern(SIZE)[10:110]

    run(factory, main)


def test_nothing_to_move(factory: Factory, tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        ours, peer = tcp_pair()
        (tmp_path / "empty").touch()
        with ours, peer, (tmp_path / "empty").open("rb") as file:
            assert (await clearway.transfer(file, ours)).ended
            assert (await clearway.transfer(ours, file.fileno(), 0)).moved == 0
            peer.close()
            assert (await clearway.transfer(ours, ours)).moved == 0

    run(factory, main)


def test_when_all_pipes_are_in_use_bytes_go_through_memory(
    factory: Factory, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "MAX_PIPES", 0)

    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, left_peer, right, right_peer:
            fed = asyncio.ensure_future(in_thread(feed, left_peer, pattern(SIZE)))
            received = asyncio.ensure_future(in_thread(recv_all, right_peer))
            result = await clearway.transfer(left, right, send_eof=True)
            assert result.moved == result.buffered == SIZE
            await fed
            assert await received == pattern(SIZE)

    run(factory, main)


@pytest.mark.parametrize("call", ["splice", "sendfile", "copy_file_range"])
def test_what_the_kernel_refuses_goes_another_way(
    factory: Factory,
    content: Path,
    tmp_path: Path,
    run: Any,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, call, refuse)

    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, left_peer, right, right_peer, content.open("rb") as file:
            with (tmp_path / "copy").open("wb") as copy:
                copied = await clearway.transfer(file, copy)
            assert copied.path == ("sendfile" if call == "copy_file_range" else "copy_file_range")
            file.seek(0)
            sent = asyncio.ensure_future(clearway.transfer(file, left, send_eof=True))
            received = asyncio.ensure_future(in_thread(recv_all, left_peer))
            assert (await sent).path == ("buffers" if call == "sendfile" else "sendfile")
            assert await received == pattern(SIZE)
            feed(left_peer, b"abc")
            passed = await clearway.transfer(left, right)
            assert (passed.moved, passed.path) == (3, "buffers" if call == "splice" else "splice")
            assert recv_exactly(right_peer, 3) == b"abc"
        assert (tmp_path / "copy").read_bytes() == pattern(SIZE)

    run(factory, main)


def test_a_sink_that_cannot_be_spliced_to_loses_nothing(
    factory: Factory, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = os.splice

    def only_into_pipes(source: int, sink: int, *rest: Any, **options: Any) -> int:
        if options.get("offset_dst") is not None:
            raise OSError(22, "Invalid argument")
        return splice(source, sink, *rest, **options)

    monkeypatch.setattr(os, "splice", only_into_pipes)

    async def main() -> None:
        ours, peer = tcp_pair()
        with ours, peer, (tmp_path / "upload").open("wb") as sink:
            fed = asyncio.ensure_future(in_thread(feed, peer, pattern(SIZE)))
            result = await clearway.transfer(ours, sink)
            assert (result.moved, result.path) == (SIZE, "buffers")
            await fed
        assert (tmp_path / "upload").read_bytes() == pattern(SIZE)

    run(factory, main)


def test_memory_stays_flat(factory: Factory, tmp_path: Path, run: Any) -> None:
    """64 MiB past a slow reader. Resident memory may grow by less than a tenth of that."""
    size = 64 << 20
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)

    def swallow(peer: socket.socket) -> int:
        buffer = bytearray(1 << 16)
        count = 0
        while n := peer.recv_into(buffer):
            count += n
        return count

    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, left_peer, right, right_peer, path.open("rb") as file:
            left_peer.setblocking(False)
            received = asyncio.ensure_future(in_thread(swallow, right_peer))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sent, passed = await asyncio.gather(
                clearway.transfer(file, left_peer, send_eof=True),
                clearway.transfer(left, right, send_eof=True),
            )
            assert sent.moved == passed.moved == await received == size
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown * 1024 < size / 10, f"grew by {grown} KiB"

    run(factory, main)
