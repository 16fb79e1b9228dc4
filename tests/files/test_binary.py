"""BinaryFile: the results of Python's own files, whatever the loop and wherever operations are carried out."""

from __future__ import annotations

import asyncio
import io
import os
import random
from pathlib import Path

import pytest

import clearway
from clearway.files import BinaryFile, open_file

from ..support.loops import cancelled, run

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


LINES = b"first\nsecond\r\n\n" + b"x" * 100_000 + b"\nlast without end"


def test_reading(factory, path):
    path.write_bytes(LINES)

    async def main():
        async with open_file(path, "rb") as file:
            assert isinstance(file, BinaryFile)
            assert (file.name, file.mode, file.closed) == (str(path), "rb", False)
            assert (file.readable(), file.writable(), file.seekable()) == (True, False, True)
            assert await file.read(3) == b"fir"
            assert await file.readline() == b"st\n"
            assert await file.tell() == 6
            assert await file.readline(3) == b"sec"
            assert await file.readline(100) == b"ond\r\n"
            assert await file.read() == LINES[14:]
            assert await file.read() == await file.read(5) == await file.readline() == b""
            assert await file.seek(-4, os.SEEK_END) == len(LINES) - 4
            assert await file.read(100) == b" end"
            assert await file.seek(6) == 6
            assert [line async for line in file] == LINES[6:].splitlines(keepends=True)
            await file.seek(0)
            assert await file.readlines(7) == [b"first\n", b"second\r\n"]
            assert await file.seek(2, os.SEEK_CUR) == 16
            buffer = bytearray(20)
            assert await file.readinto(memoryview(buffer)[5:]) == 15
            assert buffer == bytes(5) + LINES[16:31]
            assert await file.tell() == 31
            assert await file.pread(5, 1) == b"irst\n"
            assert await file.pread(10, len(LINES) - 3) == b"end"
            assert await file.pread(10, len(LINES) + 5) == await file.pread(0, 0) == b""
            assert await file.preadinto(buffer, 0) == 20
            assert buffer == LINES[:20]
            assert await file.tell() == 31
            assert await file.read1(4) == LINES[31:35]
        assert file.closed

    run(factory, main)


def test_writing(factory, path):
    async def main():
        async with await open_file(path, "w+b") as file:
            assert await file.write(b"0123456789") == 10
            assert await file.write(bytearray(b"ab")) == await file.write(memoryview(b"cd")) == 2
            assert await file.write(b"") == 0
            assert path.read_bytes() == b"0123456789abcd"  # not kept back
            await file.seek(2)
            await file.writelines([b"X", b"Y", b"Z"])
            assert await file.tell() == 5
            assert await file.pwrite(b"end", 20) == 3
            assert await file.tell() == 5
            assert await file.read() == b"56789abcd" + bytes(6) + b"end"
            assert await file.truncate(7) == 7
            await file.seek(3)
            assert await file.truncate() == 3
            await file.flush()
            await file.flush(fsync=True)
            await file.flush(fsync="data")
            with pytest.raises(ValueError, match="fsync"):
                await file.flush(fsync="no")
        assert path.read_bytes() == b"01X"

    run(factory, main)


def test_large_data(factory, path):
    """More than one piece, in both directions."""
    data = random.Random(1).randbytes(3_500_001)

    async def main():
        async with open_file(path, "w+b") as file:
            assert await file.write(data) == len(data)
            await file.seek(0)
            assert await file.read() == data
            assert await file.pread(2_000_000, 1_000_001) == data[1_000_001:3_000_001]
            buffer = bytearray(len(data) + 9)
            await file.seek(0)
            assert await file.readinto(buffer) == len(data)
            assert buffer[: len(data)] == data
        lines = [data[at : at + 1000].replace(b"\n", b"") + b"\n" for at in range(0, 900_000, 1000)]
        async with open_file(path, "wb") as file:
            await file.writelines(lines)
        async with open_file(path, "rb") as file:
            assert await file.readlines() == lines

    run(factory, main)


@pytest.mark.parametrize("seed", range(3))
def test_as_pythons_own_files(factory, tmp_path, seed):
    """A random program on a BinaryFile and on io.BufferedRandom."""
    generator = random.Random(seed)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    start = generator.randbytes(5000).replace(b"\x07", b"\n")
    ours.write_bytes(start)
    theirs.write_bytes(start)

    async def main():
        with open(theirs, "r+b") as control:
            async with open_file(ours, "r+b") as file:
                for _ in range(300):
                    number = generator.choice((0, 1, 7, 100, 3000, 70_000))
                    method, arguments = generator.choice(
                        [
                            ("read", (number,)),
                            ("read", (-1,)),
                            ("readline", ()),
                            ("readline", (number,)),
                            ("readlines", (number,)),
                            ("seek", (number,)),
                            ("seek", (generator.randrange(4000),)),
                            ("seek", (0, os.SEEK_END)),
                            ("seek", (number, os.SEEK_CUR)),
                            ("tell", ()),
                            ("write", (generator.randbytes(number % 3001),)),
                            ("truncate", (generator.randrange(8000),)),
                        ]
                    )
                    # What it keeps back is no difference that we care about.
                    control.flush()
                    expected = getattr(control, method)(*arguments)
                    assert await getattr(file, method)(*arguments) == expected, (method, arguments)
        assert ours.read_bytes() == theirs.read_bytes()

    run(factory, main)


def test_appending(factory, path):
    path.write_bytes(b"before|")

    async def main():
        async with open_file(path, "a+b") as file, open_file(path, "ab") as other:
            assert await file.tell() == 7
            await file.write(b"1")
            await other.write(b"2")
            await file.write(b"3")
            assert await file.tell() == 10
            assert await other.tell() == 9
            await file.seek(0)
            assert await file.read(3) == b"bef"
            await file.write(b"4")  # at the end, wherever the position is
            assert await file.tell() == 11
            with pytest.raises(io.UnsupportedOperation, match="append"):
                await file.pwrite(b"x", 0)
        assert path.read_bytes() == b"before|1234"

    run(factory, main)


def test_exclusive_creation_and_permissions(factory, path):
    async def main():
        old = os.umask(0o022)
        try:
            async with open_file(path, "xb", permissions=0o640) as file:
                await file.write(b"x")
        finally:
            os.umask(old)
        assert path.stat().st_mode & 0o777 == 0o640
        with pytest.raises(FileExistsError):
            await open_file(path, "xb")

    run(factory, main)


def test_files_that_say_they_are_empty(factory):
    async def main():
        async with open_file("/proc/self/status", "rb") as file:
            assert (await file.read()).startswith(b"Name:")
            await file.seek(0)
            assert (
                await file.readline()
                == Path("/proc/self/status").read_bytes().splitlines(keepends=True)[0]
            )

    run(factory, main)


def test_tasks_that_share_a_file_each_get_the_next_bytes(factory, path):
    data = random.Random(2).randbytes(64 * 1000)
    path.write_bytes(data)

    async def main():
        async with open_file(path, "rb") as file:
            parts = await asyncio.gather(*(file.read(1000) for _ in range(64)))
            assert b"".join(parts) == data
            assert await file.tell() == len(data)
        async with open_file(path, "wb") as file:
            await asyncio.gather(*(file.write(part) for part in parts))
            assert await file.tell() == len(data)
        assert path.read_bytes() == data
        async with open_file(path, "rb") as file:
            offsets = list(range(0, 64000, 500))
            random.Random(3).shuffle(offsets)
            parts = await asyncio.gather(*(file.pread(500, at) for at in offsets))
            assert parts == [data[at : at + 500] for at in offsets]

    run(factory, main)


def test_a_cancelled_read_has_moved_nothing(factory, path, way):
    path.write_bytes(b"0123456789\nrest")

    async def main():
        async with open_file(path, "rb") as file:
            await file.read(2)
            for read in (lambda: file.read(5), file.read, file.readline, lambda: file.pread(9, 0)):
                task = asyncio.ensure_future(read())
                await asyncio.sleep(0)
                if not task.done():
                    await cancelled(task)
                    assert await file.tell() == 2
                await file.seek(2)
            assert await file.read() == b"23456789\nrest"

    run(factory, main)


def test_a_cancelled_write_is_counted_exactly(factory, path):
    async def main():
        async with open_file(path, "wb") as file:
            for _ in range(20):
                data = bytearray(b"x" * 300_000)
                task = asyncio.ensure_future(file.write(data))
                await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                data.clear()  # nobody holds it any more
                assert await file.tell() == os.stat(path).st_size

    run(factory, main)


def test_open_file_is_public():
    assert clearway.open_file is open_file
    assert clearway.files.open_file is open_file
