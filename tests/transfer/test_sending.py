"""``send_file``: a head and a part of a file over a transport, on every loop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from clearway.transfer import Transfer, send_file

from ..support.loops import Factory, in_thread, until
from ..support.net import Recorder, attach, closed, pattern, recv_exactly, reset, small_buffers

SIZE = 1_500_000


@pytest.fixture
def file(tmp_path: Path) -> Any:
    (tmp_path / "content").write_bytes(pattern(SIZE))
    fd = os.open(tmp_path / "content", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_one_after_the_other_in_order(factory: Factory, pair: Any, file: int, run: Any) -> None:
    async def main() -> None:
        ours, peer = pair()
        with peer:
            protocol = Recorder()
            transport = await attach(ours, protocol)
            expected = b"before" + b"head" + pattern(SIZE)[10:] + b"between" + pattern(SIZE)[:5]
            received = asyncio.ensure_future(in_thread(recv_exactly, peer, len(expected)))
            transport.write(b"before")
            account = await send_file(transport, file, 10, SIZE - 10, head=b"head")
            assert (account.moved, account.ended) == (SIZE - 10, False)
            transport.write(b"between")
            account = await send_file(transport, file, 0, 5)
            assert (account.moved, account.path) == (5, "sendfile")
            assert await received == expected
            assert os.lseek(file, 0, os.SEEK_CUR) == 0
            # It has gone on reading.
            peer.sendall(b"question")
            assert await protocol.until_received(8) == b"question"
            # Nothing waits for more to come.
            transport.write(b"end")
            assert await in_thread(recv_exactly, peer, 3) == b"end"
            await closed(transport, protocol)

    run(factory, main)


def test_a_file_that_is_shorter_than_asked_for(
    factory: Factory, pair: Any, file: int, run: Any
) -> None:
    async def main() -> None:
        ours, peer = pair()
        with peer:
            protocol = Recorder()
            transport = await attach(ours, protocol)
            account = await send_file(transport, file, SIZE - 3, 10, head=b"head")
            assert (account.moved, account.ended) == (3, True)
            assert await in_thread(recv_exactly, peer, 7) == b"head" + pattern(SIZE)[-3:]
            await closed(transport, protocol)

    run(factory, main)


@pytest.mark.parametrize("how", ["reset", "abort"])
def test_a_connection_that_is_lost(
    factory: Factory, pair: Any, file: int, run: Any, how: str
) -> None:
    async def main() -> None:
        ours, peer = pair()
        small_buffers(ours, peer)
        protocol = Recorder()
        transport = await attach(ours, protocol)
        progress = Transfer()
        task = asyncio.ensure_future(
            send_file(transport, file, 0, SIZE, head=b"head", progress=progress)
        )
        await until(lambda: progress.moved)
        if how == "reset":
            reset(peer)
        else:
            transport.abort()
        with pytest.raises(ConnectionError):
            await task
        assert 0 < progress.moved < SIZE
        await protocol.until_lost()
        peer.close()

    run(factory, main)


def test_a_cancelled_one_is_counted(factory: Factory, pair: Any, file: int, run: Any) -> None:
    async def main() -> None:
        ours, peer = pair()
        small_buffers(ours, peer)
        with peer:
            protocol = Recorder()
            transport = await attach(ours, protocol)
            progress = Transfer()
            task = asyncio.ensure_future(send_file(transport, file, 0, SIZE, progress=progress))
            await until(lambda: progress.moved)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            transport.write(b"end")
            count = progress.moved + 3
            received = await in_thread(recv_exactly, peer, count)
            assert received == pattern(SIZE)[: progress.moved] + b"end"
            await closed(transport, protocol)

    run(factory, main)
