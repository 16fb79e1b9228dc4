"""The file calls beneath clearway.files, compiled and in ordinary Python: one interface."""

from __future__ import annotations

import errno
import importlib.util
import os
from pathlib import Path

import pytest

import clearway.kernel.fileio


def _plain():
    path = Path(clearway.kernel.fileio.__file__).with_name("fileio.py")
    spec = importlib.util.spec_from_file_location("plain_fileio", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["as built", "ordinary Python"])
def fileio(request):
    return clearway.kernel.fileio if request.param == "as built" else _plain()


@pytest.fixture
def fd(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_fresh_memory_becomes_bytes_once(fileio, fd):
    block = fileio.Block.fresh(20)
    assert block.size == 20
    assert block.read(fd, 2, 10, 5) == 5
    assert block.read(fd, 0, 2, 0) == 2
    assert block.finish(7) == b"0156789"
    with pytest.raises(ValueError, match="once"):
        block.finish(0)
    assert fileio.Block.fresh(0).finish(0) == b""
    with pytest.raises(ValueError, match="negative"):
        fileio.Block.fresh(-1)


def test_the_callers_memory(fileio, fd):
    memory = bytearray(b"..........")
    block = fileio.Block.into(memory)
    with pytest.raises(BufferError):
        memory.clear()
    assert block.read(fd, 3, 4, 6) == 4
    assert memory == b"...6789..."
    with pytest.raises(ValueError, match="fresh"):
        block.finish(1)
    block.pins += 1
    block.release()
    with pytest.raises(BufferError):
        memory.clear()
    block.pins -= 1
    block.release()
    memory.clear()
    with pytest.raises((BufferError, TypeError)):
        fileio.Block.into(b"read-only")
    with pytest.raises((BufferError, TypeError)):
        fileio.Block.of(memoryview(b"abcd")[::2])
    with pytest.raises(TypeError):
        fileio.Block.of("text")


def test_bounds(fileio, fd):
    block = fileio.Block.fresh(10)
    for start, length in ((0, 11), (-1, 2), (5, 6), (11, 0), (2, -1)):
        for call in (block.read, block.write, block.read_now, block.write_now):
            with pytest.raises(IndexError, match="not within 10 bytes"):
                call(fd, start, length, 0)
    with pytest.raises(IndexError):
        block.copy(5, fileio.Block.of(b"123456"), 0, 6)
    with pytest.raises(IndexError):
        block.copy(0, fileio.Block.of(b"123456"), 3, 4)
    block.copy(2, fileio.Block.of(b"123456"), 1, 4)
    assert block.finish(6)[2:] == b"2345"


def test_writing(fileio, fd):
    block = fileio.Block.of(b"abcdef")
    assert block.write(fd, 1, 3, 4) == 3
    assert os.pread(fd, 100, 0) == b"0123bcd789"
    assert block.write(fd, 0, 2, -1) == 2  # at the descriptor's own position
    assert block.write(fd, 4, 2, -1) == 2
    assert os.pread(fd, 100, 0) == b"abefbcd789"
    count = block.write_now(fd, 0, 6, 10)
    assert count in (6, fileio.WOULD_WAIT, fileio.NO_WAY)


def test_errors_are_results_where_it_may_wait(fileio):
    block = fileio.Block.fresh(10)
    assert block.read(-1, 0, 10, 0) == -errno.EBADF
    assert block.write(-1, 0, 10, 0) == -errno.EBADF
    with pytest.raises(OSError):
        block.read_now(-1, 0, 10, 0)
    with pytest.raises(OSError):
        fileio.pread_now(-1, 10, 0)


def test_what_is_cached_is_read_at_once(fileio, fd):
    assert os.pread(fd, 10, 0)
    block = fileio.Block.fresh(10)
    if block.read_now(fd, 0, 10, 0) == fileio.NO_WAY:
        pytest.skip("the file system of the temporary directory has no reads that do not wait")
    assert block.finish(10) == b"0123456789"
    assert fileio.pread_now(fd, 4, 2) == b"2345"
    assert fileio.pread_now(fd, 100, 2) == b"23456789"
    assert fileio.pread_now(fd, 100, 10) == fileio.pread_now(fd, 0, 0) == b""
    assert fileio.pread_now(fd, -1, 0) is None


def test_both_offer_the_same():
    plain = _plain()
    built = clearway.kernel.fileio
    for name in vars(plain):
        if name.isupper() and not name.startswith("_"):
            assert getattr(plain, name) == getattr(built, name), name
    offered = {name for name in vars(plain.Block) if not name.startswith("_")}
    assert offered <= set(dir(built.Block))
