"""Reading and writing files in ordinary Python: the stand-in for ``fileio.pyx`` when nothing is compiled.

The interface, results and errors are the same, but a bytes object is copied out of its block once more.
"""

from __future__ import annotations

import errno
import os
from typing import Any

# Numbers of the kernel's interface, as in uring.h: named by requests even where no ring takes them.
READ = 22
WRITE = 23
FSYNC = 3
OPENAT = 18
RENAMEAT = 35
UNLINKAT = 36
MKDIRAT = 37
SYMLINKAT = 38
LINKAT = 39

WOULD_WAIT = -1
NO_WAY = -2

_NO_WAY = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)  # not off Linux


class Block:
    """Memory that a read fills or a write takes from; it stays where it is as long as this object lives."""

    #: No ring takes it here, so nobody asks.
    address = 0

    def __init__(self, memory: Any, fresh: bool) -> None:
        self._export = memoryview(memory)
        if not self._export.c_contiguous:
            raise BufferError("the memory is not contiguous")
        self.size = self._export.nbytes
        self._view = self._export.cast("B") if self.size else memoryview(b"")
        self._fresh = fresh
        self.pins = 0

    @staticmethod
    def fresh(size: int) -> Block:
        """New memory that becomes a bytes object by ``finish``."""
        if size < 0:
            raise ValueError("negative size")
        return Block(bytearray(size), True)

    @staticmethod
    def into(buffer: Any) -> Block:
        """The caller's own memory, to be filled.

        :raises BufferError: it is read-only or not contiguous.
        """
        if memoryview(buffer).readonly:
            raise BufferError("Object is not writable.")
        return Block(buffer, False)

    @staticmethod
    def of(data: Any) -> Block:
        """The caller's own memory, to be written."""
        return Block(data, False)

    def _part(self, start: int, length: int) -> memoryview:
        if start < 0 or length < 0 or start > self.size - length:
            raise IndexError(f"{length} bytes from {start} on are not within {self.size} bytes")
        return self._view[start : start + length]

    def read_now(self, fd: int, start: int, length: int, offset: int) -> int:
        """Fill [start:start + length] from ``offset`` of the file with what is cached.

        :returns: the count, 0 at the end of the file; WOULD_WAIT; NO_WAY.
        :raises OSError: reading fails.
        """
        part = self._part(start, length)
        if not _NOWAIT:
            return NO_WAY
        try:
            return os.preadv(fd, [part], offset, _NOWAIT)
        except BlockingIOError:
            return WOULD_WAIT
        except OSError as exc:
            if exc.errno in _NO_WAY:
                return NO_WAY
            raise

    def write_now(self, fd: int, start: int, length: int, offset: int) -> int:
        """Write [start:start + length] at ``offset`` as far as that needs no waiting; as ``read_now``."""
        part = self._part(start, length)
        if not _NOWAIT:
            return NO_WAY
        try:
            return os.pwritev(fd, [part], offset, _NOWAIT)
        except BlockingIOError:
            return WOULD_WAIT
        except OSError as exc:
            if exc.errno in _NO_WAY:
                return NO_WAY
            raise

    def read(self, fd: int, start: int, length: int, offset: int) -> int:
        """Fill [start:start + length], waiting for the disk: the count, or minus the errno.

        :param offset: negative: at the descriptor's own position.
        """
        part = self._part(start, length)
        try:
            return os.readv(fd, [part]) if offset < 0 else os.preadv(fd, [part], offset)
        except OSError as exc:
            return -(exc.errno or errno.EIO)

    def write(self, fd: int, start: int, length: int, offset: int) -> int:
        """Write [start:start + length]; as ``read``."""
        part = self._part(start, length)
        try:
            return os.write(fd, part) if offset < 0 else os.pwrite(fd, part, offset)
        except OSError as exc:
            return -(exc.errno or errno.EIO)

    def release(self) -> None:
        """Give the caller's memory back now, unless an operation has it: then when this object goes."""
        if not self.pins and not self._fresh:
            self._view.release()
            self._export.release()
            self.size = 0

    def copy(self, start: int, source: Block, source_start: int, length: int) -> None:
        """Copy ``length`` bytes of ``source`` to ``start``."""
        self._part(start, length)[:] = source._part(source_start, length)

    def finish(self, count: int) -> bytes:
        """The first ``count`` bytes of fresh memory as a bytes object; the block is empty after that."""
        if not self._fresh:
            raise ValueError("only fresh memory becomes a bytes object, and only once")
        data = bytes(self._part(0, count))
        self._fresh = False
        self._view = memoryview(b"")
        self.size = 0
        return data


def pread_now(fd: int, size: int, offset: int) -> bytes | None:
    """``size`` bytes from ``offset`` of a file if they are all cached, else None.

    :raises OSError: reading fails.
    """
    if size <= 0:
        return b"" if size == 0 else None
    block = Block.fresh(size)
    count = block.read_now(fd, 0, size, offset)
    if count < 0 or (
        0 < count < size and block.read_now(fd, count, size - count, offset + count) != 0
    ):
        return None
    return block.finish(count)
