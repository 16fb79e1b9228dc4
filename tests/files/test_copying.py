"""copyfile: every way the kernel has, holes, progress, and nothing half-made left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from clearway import files
from clearway.files import copying

from ..support.loops import run

MIB = 1024 * 1024


@pytest.fixture(params=["copy_file_range", "sendfile", "buffer"])
def method(request, monkeypatch):
    """Refuses the ways before this one, as other file systems and old kernels do."""

    def refuse(*_):
        raise OSError(errno.EXDEV, "refused")

    if request.param != "copy_file_range":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    if request.param == "buffer":
        monkeypatch.setattr(os, "sendfile", refuse)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(copying, "PIECE", MIB)


def test_contents(factory, tmp_path, method, small_pieces):
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes(b"before" * 10 * MIB)
    data = random.Random(1).randbytes(3 * MIB + 17)
    source.write_bytes(data)
    seen = []

    async def main():
        progress = lambda done, total: seen.append((done, total))  # noqa: E731
        assert await files.copyfile(source, target, progress=progress) == len(data)
        assert target.read_bytes() == data
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1] == (len(data), len(data)) and len(seen) >= 4
        source.write_bytes(b"")
        assert await files.copyfile(source, target) == 0
        assert target.read_bytes() == b""

    run(factory, main)


def test_holes_stay_holes(factory, tmp_path, method, small_pieces):
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.seek(5 * MIB)
        file.write(b"x" * 10_000)
        file.truncate(64 * MIB)

    async def main():
        assert await files.copyfile(source, target) == 64 * MIB
        assert target.stat().st_size == 64 * MIB
        assert target.stat().st_blocks <= source.stat().st_blocks + 64
        with open(target, "rb") as file:
            file.seek(5 * MIB - 5)
            assert file.read(10_010) == bytes(5) + b"x" * 10_000 + bytes(5)

    run(factory, main)


def test_files_that_say_they_are_empty(factory, tmp_path):
    async def main():
        count = await files.copyfile("/proc/self/cmdline", tmp_path / "copy")
        assert count == len(Path("/proc/self/cmdline").read_bytes())

    run(factory, main)


def test_permissions_and_times(factory, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    source.chmod(0o751)
    os.utime(source, ns=(10**18, 10**18 + 5))

    async def main():
        await files.copyfile(source, tmp_path / "plain")
        await files.copyfile(source, tmp_path / "same", preserve=True)
        assert (tmp_path / "same").stat().st_mode == source.stat().st_mode
        assert (tmp_path / "same").stat().st_mtime_ns == 10**18 + 5
        assert (tmp_path / "plain").stat().st_mtime_ns != 10**18 + 5

    run(factory, main)


def test_refusals(factory, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    link = tmp_path / "link"
    link.hardlink_to(source)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def main():
        for one, other, error in (
            (source, link, shutil.SameFileError),
            (source, source, shutil.SameFileError),
            (tmp_path / "none", tmp_path / "new", FileNotFoundError),
            (tmp_path, tmp_path / "new", IsADirectoryError),
            (source, tmp_path, IsADirectoryError),
            (pipe, tmp_path / "new", shutil.SpecialFileError),
        ):
            with pytest.raises(error):
                await files.copyfile(one, other)
        assert source.read_bytes() == b"x"
        assert not (tmp_path / "new").exists()

    run(factory, main)


def test_cancelled_in_the_middle(factory, tmp_path, small_pieces):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 8 * MIB)

    async def main():
        def stop(done, total):
            if done >= 2 * MIB:
                task.cancel()

        task = asyncio.ensure_future(files.copyfile(source, target, progress=stop))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not target.exists()
        # What was there before stays, with what has been copied.
        target.write_bytes(b"old")
        task = asyncio.ensure_future(files.copyfile(source, target, progress=stop))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 2 * MIB <= target.stat().st_size < 8 * MIB

    run(factory, main)


def test_a_full_disk(factory, tmp_path, monkeypatch, small_pieces):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 3 * MIB)
    original = os.copy_file_range

    def fills_up(source, target, length, at, to):
        if to >= 2 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(source, target, length, at, to)

    monkeypatch.setattr(os, "copy_file_range", fills_up)

    async def main():
        with pytest.raises(OSError) as caught:
            await files.copyfile(source, target)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == target
        assert not target.exists()

    run(factory, main)
