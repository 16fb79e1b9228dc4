"""A file that is not in the page cache is read by a worker, never by the loop."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from clearway.kernel import pagecache
from clearway.loop import readahead

from ..support.loops import Factory, in_thread, run
from ..support.net import pattern, recv_exactly, tcp_pair

SIZE = 3 * readahead.WINDOW + 77


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file that has been dropped from the cache, where the file system does that."""
    path = tmp_path / "cold"
    with path.open("wb") as file:
        file.write(pattern(SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def test_the_cache_is_asked(cold: Path) -> None:
    with cold.open("rb", buffering=0) as file:
        fd = file.fileno()
        if pagecache.is_resident(fd, 0, SIZE):
            pytest.skip("this file system keeps its pages: nothing is ever cold (tmpfs)")
        assert not pagecache.is_resident(fd, SIZE - 1, 1)
        file.read()
        assert pagecache.is_resident(fd, 0, SIZE)
        assert pagecache.is_resident(fd, SIZE - 1, 1)


def test_the_same_answers_without_cachestat(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecache, "_has_cachestat", False)
    with cold.open("rb", buffering=0) as file:
        assert pagecache.cached_pages(file.fileno(), 0, SIZE) == -1
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError:
            pytest.skip("this file system refuses RWF_NOWAIT: every file counts as cold (tmpfs)")
        file.read()
        assert pagecache.is_resident(file.fileno(), 0, SIZE)


def test_a_descriptor_that_cannot_be_asked() -> None:
    with pytest.raises(OSError):
        pagecache.is_resident(2**20, 0, 1)


@pytest.mark.parametrize("how", ["socket", "transport"])
def test_sendfile_has_a_cold_file_fetched_first(
    clearway_factory: Factory, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cache says, here it says "cold": each window is read in a worker before it is sent."""
    (tmp_path / "content").write_bytes(pattern(SIZE))
    fetched: list[tuple[int, int]] = []
    sendfile = os.sendfile

    def spy(out: int, source: int, offset: int, count: int) -> int:
        if threading.current_thread() is threading.main_thread():
            assert offset == SIZE or any(a <= offset and offset + count <= b for a, b in fetched)
            return sendfile(out, source, offset, count)
        sent = sendfile(out, source, offset, count)
        fetched.append((offset, offset + sent))
        return sent

    monkeypatch.setattr(pagecache, "is_resident", lambda *_: False)
    monkeypatch.setattr(os, "sendfile", spy)

    async def main() -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with peer, (tmp_path / "content").open("rb") as file:
            received = asyncio.ensure_future(in_thread(recv_exactly, peer, SIZE))
            if how == "socket":
                with ours:
                    assert await loop.sock_sendfile(ours, file) == SIZE
            else:
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
                assert await loop.sendfile(transport, file) == SIZE
                transport.close()
            assert await received == pattern(SIZE)

    run(clearway_factory, main)
    assert max(end for _, end in fetched) == SIZE


def test_a_truly_cold_file_arrives_whole(
    clearway_factory: Factory, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        import asyncio

        ours, peer = tcp_pair()
        with ours, peer, cold.open("rb") as file:
            received = asyncio.ensure_future(in_thread(recv_exactly, peer, SIZE))
            assert await asyncio.get_running_loop().sock_sendfile(ours, file) == SIZE
            assert await received == pattern(SIZE)

    run(clearway_factory, main)


def test_a_cancelled_fetch_has_ended_when_the_caller_goes_on(
    clearway_factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker holds the descriptor: the caller may close it as soon as it runs on."""
    (tmp_path / "content").write_bytes(pattern(SIZE))
    entered, go = threading.Event(), threading.Event()
    running: list[Any] = []

    def fetch(fd: int, offset: int, count: int) -> None:
        running.append(fd)
        entered.set()
        assert go.wait(8)
        running.remove(fd)

    monkeypatch.setattr(pagecache, "is_resident", lambda *_: False)
    monkeypatch.setattr(readahead, "_fetch", fetch)

    async def main() -> None:
        import asyncio

        ours, peer = tcp_pair()
        with ours, peer, (tmp_path / "content").open("rb") as file:
            task = asyncio.ensure_future(asyncio.get_running_loop().sock_sendfile(ours, file))
            await in_thread(entered.wait, 8)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not running

    run(clearway_factory, main)
