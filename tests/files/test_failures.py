"""When the disk, the path or the program is at fault: clear errors, and what was reported written is written."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import resource
import signal
import subprocess

import pytest

from clearway.files import open_file

from ..support.loops import run

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@pytest.fixture
def size_limit():
    """No file may grow beyond 150,000 bytes: what a full disk does, a short write and then an error."""
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    yield 150_000
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("method", ["write", "pwrite"])
def test_a_write_that_stops_in_the_middle(factory, path, size_limit, method):
    async def main():
        async with open_file(path, "wb") as file:
            assert await file.write(b"a" * 100_000) == 100_000
            data = bytearray(b"b" * 100_000)
            with pytest.raises(OSError, match=r"50,000 of 100,000 bytes were written") as caught:
                if method == "write":
                    await file.write(data)
                else:
                    await file.pwrite(data, 100_000)
            assert caught.value.errno == errno.EFBIG
            assert caught.value.filename == os.fspath(path)
            assert caught.value.characters_written == 50_000
            assert await file.tell() == (150_000 if method == "write" else 100_000)
            data.clear()
            # The file goes on working.
            await file.seek(0)
            await file.write(b"c")
        assert path.read_bytes() == b"c" + b"a" * 99_999 + b"b" * 50_000

    run(factory, main)


def test_a_text_write_that_stops(factory, path, size_limit):
    async def main():
        async with open_file(path, "w", encoding="utf-16-le") as file:
            with pytest.raises(OSError, match="150,000 of 200,000 bytes"):
                await file.write("x" * 100_000)
            assert await file.tell() == 150_000

    run(factory, main)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "clearway-test", str(where)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(
            "mounting a file system takes root; /dev/full and the size limit cover the rest"
        )
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk(factory, small_disk):
    async def main():
        async with open_file(small_disk / "file", "wb") as file:
            with pytest.raises(OSError) as caught:
                for _ in range(20):
                    await file.write(b"x" * 30_000)
            assert caught.value.errno == errno.ENOSPC
            written = await file.tell()
        assert os.stat(small_disk / "file").st_size == written == 256 * 1024

    run(factory, main)


def test_dev_full(factory):
    async def main():
        async with open_file("/dev/full", "wb") as file:
            with pytest.raises(OSError, match="No space left") as caught:
                await file.write(b"x")
            assert caught.value.errno == errno.ENOSPC

    run(factory, main)


def test_what_cannot_be_opened(factory, path, tmp_path):
    async def main():
        for name, mode, error in (
            (path, "r", FileNotFoundError),
            (tmp_path, "rb", IsADirectoryError),
            (tmp_path, "wb", IsADirectoryError),
            (path / "below", "wb", FileNotFoundError),
            (str(path) * 200, "rb", OSError),
        ):
            with pytest.raises(error) as caught:
                await open_file(name, mode)
            assert caught.value.filename == os.fspath(name)
        with pytest.raises(ValueError, match="null byte"):
            await open_file("with\0null", "rb")

    run(factory, main)


@pytest.mark.parametrize("mode", ["", "b", "rw", "rr", "r++", "rbt", "U", "q"])
def test_modes_that_are_none(path, mode):
    with pytest.raises(ValueError, match="mode"):
        open_file(path, mode)


def test_what_is_no_path():
    for wrong in (None, 1.5, 0):
        with pytest.raises(TypeError):
            open_file(wrong)


def test_bytes_and_other_paths(factory, path):
    path.write_bytes(b"x")

    async def main():
        for name in (path, str(path), os.fsencode(path)):
            async with open_file(name, "rb") as file:
                assert file.name == os.fspath(name)
                assert await file.read() == b"x"

    run(factory, main)


def test_the_wrong_direction(factory, path):
    path.write_bytes(b"x")

    async def main():
        async with open_file(path, "rb") as file:
            for method, arguments in (
                ("write", (b"",)),
                ("pwrite", (b"", 0)),
                ("truncate", (0,)),
                ("writelines", ([],)),
            ):
                with pytest.raises(io.UnsupportedOperation, match="not writable"):
                    await getattr(file, method)(*arguments)
            with pytest.raises(ValueError, match="negative"):
                await file.seek(-1)
            with pytest.raises(ValueError, match="negative"):
                await file.pread(1, -1)
            with pytest.raises((BufferError, TypeError)):
                await file.readinto(b"read-only")
        async with open_file(path, "wb") as file:
            for method in ("read", "readline", "readlines", "read1"):
                with pytest.raises(io.UnsupportedOperation, match="not readable"):
                    await getattr(file, method)()
            with pytest.raises(TypeError):
                await file.write("text")
            with pytest.raises(ValueError, match="negative"):
                await file.truncate(-1)

    run(factory, main)


def test_after_close(factory, path):
    async def main():
        file = await open_file(path, "w+b")
        await file.close()
        await file.close()
        await file.aclose()
        for method, arguments in (
            ("read", ()),
            ("readline", ()),
            ("pread", (1, 0)),
            ("write", (b"",)),
            ("seek", (0,)),
            ("tell", ()),
            ("flush", ()),
            ("truncate", (0,)),
        ):
            with pytest.raises(ValueError, match="closed"):
                await getattr(file, method)(*arguments)
        assert "closed" in repr(file)

    run(factory, main)


def test_a_file_that_vanishes(factory, path):
    """Removed or shortened by somebody else while it is open."""

    async def main():
        async with open_file(path, "w+b") as file:
            await file.write(b"x" * 100_000)
            path.unlink()
            await file.seek(0)
            assert len(await file.read()) == 100_000
            os.truncate(f"/proc/self/fd/{file.fileno()}", 10)
            assert await file.pread(100, 5) == b"x" * 5
            assert await file.read() == b""
            await file.seek(0)
            assert await file.readline() == b"x" * 10
            await file.write(b"y")

    run(factory, main)


def test_a_signal_interrupts_nothing(clearway_factory, path):
    """EINTR: a handler runs, the operation goes on."""
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(1))
        async with open_file(path, "w+b") as file:
            for _ in range(20):
                writing = asyncio.ensure_future(file.write(b"x" * 200_000))
                await asyncio.sleep(0)
                os.kill(os.getpid(), signal.SIGUSR1)
                assert await writing == 200_000
            await file.seek(0)
            assert len(await file.read()) == 4_000_000
        loop.remove_signal_handler(signal.SIGUSR1)

    run(clearway_factory, main)
    assert seen
