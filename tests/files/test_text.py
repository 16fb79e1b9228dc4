"""TextFile: what io.TextIOWrapper gives, character by character and position by position."""

from __future__ import annotations

import asyncio
import io
import os
import random

import pytest

from clearway.files import TextFile, open_file

from ..support.loops import cancelled, run

pytestmark = pytest.mark.usefixtures("way")

TEXT = "one\ntwo\r\nthree\rhäßlich 漢字 \U0001f600\n\n" + "long " * 5000 + "\r\nend"
ENCODINGS = ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32-be", "shift_jis", "utf-7"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_reads_as_pythons_own_files(factory, path, encoding, newline):
    path.write_bytes(TEXT.encode(encoding, "replace"))
    generator = random.Random(f"{encoding}{newline}")
    options = {"encoding": encoding, "newline": newline}

    async def main():
        with open(path, **options) as control:
            async with open_file(path, **options) as file:
                assert isinstance(file, TextFile)
                told = [0]
                for _ in range(60):
                    number = generator.choice((0, 1, 2, 3, 50, 9000))
                    method, arguments = generator.choice(
                        [
                            ("read", (number,)),
                            ("readline", ()),
                            ("readline", (number,)),
                            ("tell", ()),
                            ("seek", (generator.choice(told),)),
                            ("seek", (0, os.SEEK_CUR)),
                        ]
                    )
                    expected = getattr(control, method)(*arguments)
                    got = await getattr(file, method)(*arguments)
                    named = method == "tell" or arguments == (0, os.SEEK_CUR)
                    if named and got != expected:
                        # A position has several names; what counts is where they lead.
                        rest = control.read()
                        assert await file.read() == rest
                        for name in (got, expected):
                            control.seek(name)
                            await file.seek(name)
                            assert control.read() == await file.read() == rest
                        control.seek(expected)
                        await file.seek(got)
                    else:
                        assert got == expected, (method, arguments)
                    if named:
                        told.append(expected)
                control.seek(0)
                await file.seek(0)
                assert [line async for line in file] == list(control)
                assert file.newlines == control.newlines

    run(factory, main)


@pytest.mark.parametrize("newline", [None, "", "\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_writes_as_pythons_own_files(factory, tmp_path, encoding, newline):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    options = {"encoding": encoding, "newline": newline, "errors": "xmlcharrefreplace"}

    async def main():
        for mode in ("w", "a", "r+", "a+"):
            with open(theirs, mode, **options) as control:
                async with open_file(ours, mode, **options) as file:
                    assert (file.encoding, file.errors) == (control.encoding, control.errors)
                    for text in ("zeile\n", "漢\r\n", "", "x" * 9000, "ende"):
                        assert await file.write(text) == control.write(text) == len(text)
                    await file.writelines(["a\n", "b\n"])
                    control.writelines(["a\n", "b\n"])
                    if mode == "r+":
                        assert await file.seek(0, os.SEEK_END) == control.seek(0, os.SEEK_END)
                        await file.write("angehängt")
                        control.write("angehängt")
                        await file.seek(0)
                        control.seek(0)
                        assert await file.readline() == control.readline()
            assert ours.read_bytes() == theirs.read_bytes(), mode

    run(factory, main)


def test_writing_goes_on_where_reading_was(factory, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for one in (ours, theirs):
        one.write_text("0123456789" * 3)

    async def main():
        with open(theirs, "r+") as control:
            async with open_file(ours, "r+") as file:
                assert await file.read(3) == control.read(3)
                position = control.tell()
                assert await file.tell() == position
                control.seek(position)
                await file.seek(position)
                control.write("XY")
                await file.write("XY")
                assert await file.tell() == control.tell()
                assert await file.truncate() == control.truncate()
        assert ours.read_text() == theirs.read_text() == "012XY"

    run(factory, main)


def test_errors_of_the_codecs(factory, path):
    path.write_bytes(b"fine\n\xff\n")

    async def main():
        async with open_file(path, "r+", encoding="utf-8") as file:
            with pytest.raises(UnicodeDecodeError):
                await file.read()
        async with open_file(path, "r+", encoding="ascii") as file:
            with pytest.raises(UnicodeEncodeError):
                await file.write("ä")
            with pytest.raises(TypeError, match="must be str"):
                await file.write(b"bytes")
        async with open_file(path, encoding="utf-8", errors="surrogateescape") as file:
            assert await file.read() == "fine\n\udcff\n"
        assert path.read_bytes() == b"fine\n\xff\n"

    run(factory, main)


def test_refusals(path):
    path.write_text("x")
    with pytest.raises(LookupError):
        open_file(path, encoding="no such encoding")
    with pytest.raises(ValueError, match="newline"):
        open_file(path, newline="x")
    with pytest.raises(ValueError, match="text mode"):
        open_file(path, "rb", encoding="utf-8")
    with pytest.raises(ValueError, match="binary"):
        open_file(path, direct=True)


def test_seeking(factory, path):
    path.write_text("text")

    async def main():
        async with open_file(path) as file:
            for whence in (os.SEEK_CUR, os.SEEK_END):
                with pytest.raises(io.UnsupportedOperation, match="nonzero"):
                    await file.seek(1, whence)
            with pytest.raises(ValueError, match="negative"):
                await file.seek(-1)
            with pytest.raises(io.UnsupportedOperation, match="not writable"):
                await file.write("x")
            assert file.fileno() > 2 and not file.isatty()
            assert file.buffer.name == file.name == str(path)
        with pytest.raises(ValueError, match="closed"):
            await file.read()

    run(factory, main)


def test_a_cancelled_read_has_moved_nothing(factory, path):
    text = "ä" * 20_000 + "\r\nnext\n"
    path.write_bytes(text.encode())

    async def main():
        async with open_file(path, encoding="utf-8") as file:
            assert await file.read(7) == "ä" * 7
            for turns in range(1, 8):
                task = asyncio.ensure_future(file.readline())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not task.done():
                    await cancelled(task)
                else:
                    await file.seek(14)
                position = await file.tell()
                assert await file.readline() == text[7:20_000] + "\n"
                await file.seek(position)
            assert await file.read() == text[7:].replace("\r", "")

    run(factory, main)


def test_tasks_that_share_a_file_each_get_whole_lines(factory, path):
    lines = [f"line {number}\n" * 3 for number in range(500)]
    path.write_text("".join(lines))

    async def main():
        async with open_file(path) as file:
            got = await asyncio.gather(*(file.readline() for _ in range(1500)))
            assert got == "".join(lines).splitlines(keepends=True)

    run(factory, main)
