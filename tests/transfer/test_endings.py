"""How a transfer ends early: cancelled, refused, or broken by one of the ends. The count is exact each time."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

import clearway

from ..support.loops import Factory, cancelled, in_thread, until
from ..support.net import (
    fill,
    pattern,
    recv_exactly,
    reset,
    settle,
    small_buffers,
    tcp_pair,
    unix_pair,
)

SIZE = 2_000_000


def received_so_far(peer: Any) -> bytes:
    """All that has been sent to `peer` and can be read without waiting."""
    data = bytearray()
    peer.setblocking(False)
    try:
        while part := peer.recv(1 << 16):
            data += part
    except BlockingIOError:
        pass
    return bytes(data)


def test_cancelled_behind_a_reader_that_does_not_read(
    factory: Factory, tmp_path: Path, run: Any
) -> None:
    (tmp_path / "content").write_bytes(pattern(SIZE))

    async def main() -> None:
        ours, peer = unix_pair()
        small_buffers(ours)
        with ours, peer, (tmp_path / "content").open("rb") as file:
            progress = clearway.Transfer()
            task = asyncio.ensure_future(clearway.transfer(file, ours, progress=progress))
            await until(lambda: progress.moved)
            await settle()
            await cancelled(task)
            assert 0 < progress.moved < SIZE
            assert file.tell() == progress.moved
            assert received_so_far(peer) == pattern(SIZE)[: progress.moved]
            # The rest can be sent later as if nothing had been.
            rest = asyncio.ensure_future(in_thread(recv_exactly, peer, SIZE - progress.moved))
            peer.settimeout(8)
            assert (await clearway.transfer(file, ours)).moved == SIZE - progress.moved
            assert await rest == pattern(SIZE)[progress.moved :]

    run(factory, main)


def test_cancelled_with_bytes_in_the_pipe(factory: Factory, run: Any) -> None:
    """Source → sink that takes no more: what lies between them is handed to the caller."""

    async def main() -> None:
        left, left_peer = unix_pair()
        right, right_peer = unix_pair()
        with left, left_peer, right, right_peer:
            filler = fill(right, 1 << 24)
            right.setblocking(False)
            left_peer.sendall(pattern(5000))
            progress = clearway.Transfer()
            task = asyncio.ensure_future(clearway.transfer(left, right, progress=progress))
            await settle()
            await cancelled(task)
            taken = progress.moved + len(progress.undelivered)
            rest = received_so_far(left)
            assert taken + len(rest) == 5000
            received = received_so_far(right_peer)
            assert len(received) == filler + progress.moved
            assert received[filler:] + progress.undelivered + rest == pattern(5000)

    run(factory, main)


def test_cancelled_while_waiting_for_the_source(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, left_peer, right, right_peer:
            progress = clearway.Transfer()
            task = asyncio.ensure_future(clearway.transfer(left, right, progress=progress))
            left_peer.sendall(b"first")
            await until(lambda: progress.moved == 5)
            await settle()
            await cancelled(task)
            assert (progress.moved, progress.undelivered) == (5, b"")
            # Nobody watches the socket any more: it can be received from.
            left_peer.sendall(b"second")
            assert await asyncio.get_running_loop().sock_recv(left, 100) == b"second"

    run(factory, main)


def test_the_reader_vanishes(factory: Factory, tmp_path: Path, run: Any) -> None:
    (tmp_path / "content").write_bytes(pattern(SIZE))

    async def main() -> None:
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        with ours, (tmp_path / "content").open("rb") as file:
            progress = clearway.Transfer()
            task = asyncio.ensure_future(clearway.transfer(file, ours, progress=progress))
            await until(lambda: progress.moved)
            reset(peer)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await task
            assert 0 < progress.moved < SIZE
            assert file.tell() == progress.moved

    run(factory, main)


def test_the_writer_vanishes(factory: Factory, run: Any) -> None:
    async def main() -> None:
        left, left_peer = tcp_pair()
        right, right_peer = tcp_pair()
        with left, right, right_peer:
            task = asyncio.ensure_future(clearway.transfer(left, right))
            await settle()
            reset(left_peer)
            with pytest.raises(ConnectionResetError):
                await task

    run(factory, main)


def test_a_file_that_may_not_grow(factory: Factory, tmp_path: Path, run: Any) -> None:
    """EFBIG by RLIMIT_FSIZE stands for a full disk: what was counted is in the file."""
    limit = 300_000

    async def main() -> None:
        ours, peer = tcp_pair()
        with ours, peer, (tmp_path / "upload").open("wb") as sink:
            progress = clearway.Transfer()
            task = asyncio.ensure_future(clearway.transfer(ours, sink, progress=progress))
            fed = asyncio.ensure_future(in_thread(peer.sendall, pattern(limit * 2)))
            with pytest.raises(OSError, match="too large"):
                await task
            ours.close()
            await asyncio.wait([fed])  # it may or may not have got rid of everything
            fed.exception()
            assert progress.moved == limit
            taken = progress.moved + len(progress.undelivered)
            assert progress.undelivered == pattern(limit * 2)[limit:taken]
        assert (tmp_path / "upload").read_bytes() == pattern(limit)

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        run(factory, main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_others_run_meanwhile(factory: Factory, tmp_path: Path, run: Any) -> None:
    """A transfer that never has to wait lets others run all the same."""
    (tmp_path / "content").write_bytes(bytes(1 << 20))

    async def main() -> None:
        ran = 0

        async def other() -> None:
            nonlocal ran
            while True:
                ran += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        left, left_peer = unix_pair()
        reader, writer = os.pipe2(os.O_NONBLOCK)
        with left, left_peer, (tmp_path / "content").open("rb") as file:
            # Each piece is read again at once by ourselves: the destination always has room.
            def drain(_: clearway.Transfer) -> None:
                os.read(reader, 1 << 20)

            before = ran
            for _ in range(50):
                await clearway.transfer(file, writer, on_progress=drain, offset=0)
            assert ran > before
        os.close(reader)
        os.close(writer)
        await cancelled(task)

    run(factory, main)


def test_progress_is_told_piece_by_piece(factory: Factory, tmp_path: Path, run: Any) -> None:
    (tmp_path / "content").write_bytes(pattern(SIZE))

    async def main() -> None:
        ours, peer = tcp_pair()
        small_buffers(ours, peer)
        with ours, peer, (tmp_path / "content").open("rb") as file:
            told: list[int] = []
            received = asyncio.ensure_future(in_thread(recv_exactly, peer, SIZE))
            result = await clearway.transfer(
                file, ours, SIZE, on_progress=lambda progress: told.append(progress.moved)
            )
            await received
            assert told == sorted(told)
            assert told[-1] == SIZE == result.moved
            assert len(told) > 1

    run(factory, main)


def test_wrong_arguments(factory: Factory, tmp_path: Path, run: Any) -> None:
    (tmp_path / "content").write_bytes(b"x")

    async def main() -> None:
        ours, peer = tcp_pair()
        datagram = socket.socket(type=socket.SOCK_DGRAM)
        datagram.setblocking(False)
        with ours, peer, datagram, (tmp_path / "content").open("r+b") as file:
            peer.setblocking(True)
            for arguments, options, error, words in [
                ((file, ours, -1), {}, ValueError, "negative"),
                ((file, ours, 1.5), {}, TypeError, "count"),
                ((file, ours, True), {}, TypeError, "count"),
                ((file, ours), {"offset": -1}, ValueError, "negative"),
                ((ours, file), {"offset": 1}, ValueError, "offset"),
                ((file, peer), {}, ValueError, "setblocking"),
                ((peer, file), {}, ValueError, "setblocking"),
                ((ours, file), {"send_eof": True}, ValueError, "send_eof"),
                ((file, datagram), {}, ValueError, "stream"),
                ((file, "somewhere"), {}, TypeError, "str"),
                ((b"bytes", ours), {}, TypeError, "bytes"),
                ((-1, ours), {}, ValueError, "descriptor"),
                ((file, ours), {"progress": clearway.Transfer(path="splice")}, ValueError, "new"),
            ]:
                with pytest.raises(error, match=words):
                    await clearway.transfer(*arguments, **options)  # type: ignore[arg-type]
            with (tmp_path / "content").open() as text, pytest.raises(TypeError, match="binary"):
                await clearway.transfer(text, ours)

    run(factory, main)


GIBIBYTE = 1 << 30
#: Bytes that a process may grow by while it moves a gibibyte: pieces under way, threads' stacks, noise.
GROWTH_MAX = 16 << 20


@pytest.mark.parametrize("through", ["sendfile", "splice", "buffers"])
def test_a_gibibyte_holds_memory_flat(clearway_factory, run, tmp_path, monkeypatch, through):
    """Whatever the way: the destination holds the transfer up, never memory."""

    def refuse(*_):
        raise OSError(errno.EINVAL, "not this way")

    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, GIBIBYTE)
    grown = 0

    def discard(peer):
        left = GIBIBYTE
        with peer:
            while left:
                left -= len(peer.recv(1 << 20, socket.MSG_TRUNC))  # dropped, not copied: tcp(7)

    def look(_):
        nonlocal grown
        grown = max(grown, resident() - before)

    async def main():
        ours, peer = tcp_pair()
        gone = asyncio.ensure_future(in_thread(discard, peer))
        with ours, path.open("rb", buffering=0) as file:
            if through == "splice":
                near, far = tcp_pair()
                far.setblocking(False)
                with near, far:
                    sending = asyncio.ensure_future(clearway.transfer(file, near, send_eof=True))
                    done = await clearway.transfer(far, ours, on_progress=look)
                    await sending
            else:
                if through == "buffers":
                    monkeypatch.setattr(os, "sendfile", refuse)
                done = await clearway.transfer(file, ours, on_progress=look)
            await gone
        assert (done.path, done.moved) == (through, GIBIBYTE)

    before = resident()
    run(clearway_factory, main)
    assert grown < GROWTH_MAX


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
