"""Pipes and devices given to open_file: no positions, waits that can be cancelled, nothing lost."""

from __future__ import annotations

import asyncio
import errno
import io
import os

import pytest

from clearway.files import open_file

from ..support.loops import cancelled, run
from ..support.net import settle


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_named_pipe(factory, pipe):
    async def main():
        reader = await open_file(pipe, "rb")
        writer = await open_file(pipe, "wb")
        assert not reader.seekable() and not writer.seekable()
        for call in (lambda: reader.seek(0), reader.tell, lambda: reader.pread(1, 0)):
            with pytest.raises(io.UnsupportedOperation, match="no positions"):
                await call()
        waiting = asyncio.ensure_future(reader.read(6))
        await settle()
        assert await writer.write(b"abc") == 3
        await settle()
        assert not waiting.done()
        await writer.write(b"defghi")
        assert await waiting == b"abcdef"
        assert await reader.read1() == b"ghi"
        await writer.write(b"line\nrest")
        assert await reader.readline() == b"line\n"
        buffer = bytearray(2)
        assert await reader.readinto(buffer) == 2
        await writer.close()
        assert await reader.read() == b"st"
        assert await reader.read1() == b""
        await reader.close()

    run(factory, main)


def test_a_cancelled_read_of_a_pipe_has_taken_nothing(factory, pipe):
    async def main():
        async with open_file(pipe, "rb") as reader, open_file(pipe, "wb") as writer:
            waiting = asyncio.ensure_future(reader.read(10))
            await settle()
            await writer.write(b"begin")
            await settle()
            await cancelled(waiting)
            await writer.write(b"ning\n")
            assert await reader.readline() == b"beginning\n"

    run(factory, main)


def test_a_full_pipe_makes_the_writer_wait(factory, pipe):
    data = os.urandom(1_000_000)

    async def main():
        async with open_file(pipe, "rb") as reader, open_file(pipe, "wb") as writer:
            writing = asyncio.ensure_future(writer.write(data))
            await settle()
            assert not writing.done()
            assert await reader.read(len(data)) == data
            assert await writing == len(data)
            writing = asyncio.ensure_future(writer.write(data))
            await settle()
            await cancelled(writing)

    run(factory, main)


def test_a_pipe_without_the_other_side(factory, pipe):
    async def main():
        with pytest.raises(OSError) as caught:
            await open_file(pipe, "wb")
        assert caught.value.errno == errno.ENXIO
        reader = await open_file(pipe, "rb")
        writer = await open_file(pipe, "wb")
        await reader.close()
        with pytest.raises(BrokenPipeError):
            await writer.write(b"x")
        await writer.close()

    run(factory, main)


def test_text_through_a_pipe(factory, pipe):
    async def main():
        async with open_file(pipe) as reader, open_file(pipe, "w") as writer:
            await writer.write("zwölf\nBoxer")
            assert await reader.readline() == "zwölf\n"
            with pytest.raises(io.UnsupportedOperation):
                await reader.tell()
            await writer.close()
            assert await reader.read() == "Boxer"

    run(factory, main)


def test_devices(factory):
    async def main():
        async with open_file("/dev/zero", "rb") as file:
            assert await file.read(100_000) == bytes(100_000)
        async with open_file("/dev/null", "r+b") as file:
            assert await file.write(b"x" * 1_000_000) == 1_000_000
            assert await file.read() == b""

    run(factory, main)


def test_a_terminal(factory):
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)

    async def main():
        async with open_file(name, "rb") as file:
            assert file.isatty()
            waiting = asyncio.ensure_future(file.readline())
            await settle()
            await cancelled(waiting)
            waiting = asyncio.ensure_future(file.readline())
            await settle()
            os.write(ours, b"typed\n")
            assert await waiting == b"typed\n"

    try:
        run(factory, main)
    finally:
        os.close(ours)
        os.close(theirs)
