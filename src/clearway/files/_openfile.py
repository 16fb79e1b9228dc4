"""What an open file is apart from its bytes: its names, whose it is, and its end."""

from __future__ import annotations

import asyncio
import io
import os
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from clearway.files._host import Host, Request, calling, failure
from clearway.files._moving import Mover, StreamMover


@dataclass(frozen=True)
class FileStatistics:
    """Bytes since the file was opened, between it and memory.

    :ivar read: bytes that were read, ahead of anybody who asked too. :ivar read_copied: bytes copied in user space
        afterwards, once per copy: out of what was read ahead, or between aligned memory and yours.
    :ivar written: bytes that were written. :ivar written_copied: bytes copied first.
    """

    read: int
    read_copied: int
    written: int
    written_copied: int


class OpenFile:
    """An open file of a loop.

    :ivar name: what was opened. :ivar mode: how.
    """

    def __init__(
        self, host: Host, mover: Mover, mode: str, *, readable: bool, writable: bool
    ) -> None:
        self.name = mover.name
        self.mode = mode
        self._host = host
        self._mover = mover
        self._fd = mover.fd
        self._readable = readable
        self._writable = writable
        self._seekable = not isinstance(mover, StreamMover)
        self._closing = False

    def __repr__(self) -> str:
        state = "closed" if self._closing else f"fd={self._fd}"
        return f"<{type(self).__name__} name={self.name!r} mode={self.mode!r} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_closing", True):
            return
        warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing

    def fileno(self) -> int:
        """The descriptor. Its own position is not the object's, and it stays open no longer than the object.

        :raises ValueError: the file is closed.
        """
        if self._closing:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self._readable

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writable

    def seekable(self) -> bool:
        """Whether it has positions; a pipe or a terminal has none."""
        return self._seekable

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.fileno())

    def statistics(self) -> FileStatistics:
        """The figures so far, also of a closed file. Encoding and decoding, in text modes, is not among the copies."""
        read, written = self._mover.read, self._mover.written
        return FileStatistics(read.moved, read.copied, written.moved, written.copied)

    def _check(self) -> None:
        if self._closing:
            raise ValueError("I/O operation on closed file")
        if asyncio.get_running_loop() is not self._host.loop:
            raise RuntimeError(f"{self!r} belongs to another event loop")

    def _check_readable(self) -> None:
        self._check()
        if not self._readable:
            raise io.UnsupportedOperation(
                "not readable: it was opened with mode " + repr(self.mode)
            )

    def _check_writable(self) -> None:
        self._check()
        if not self._writable:
            raise io.UnsupportedOperation(
                "not writable: it was opened with mode " + repr(self.mode)
            )

    def _check_seekable(self) -> None:
        self._check()
        if not self._seekable:
            raise io.UnsupportedOperation(f"{self.name!r} has no positions")

    async def _perform(self, request: Request) -> None:
        result, cancelled = await self._mover.settle(request)
        if cancelled is not None:
            raise cancelled
        if result < 0:
            raise failure(result, self.name)

    # -- the end ---------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let operations in flight end, refuse those that still wait for their turn, and close the descriptor.

        Closing twice does nothing. A cancelled ``close`` closes all the same.

        :raises OSError: the file system reports late that writing failed (NFS, quota).
        """
        if self._closing:
            return
        self._check()
        self._closing = True
        cancelled = await self._mover.idle()
        fd, self._mover.fd = self._fd, -1
        # Never on the spot: the last close of a removed file frees its blocks. And by a thread, not by the ring: a
        # worker of the ring reports a close before the kernel lets go of the file, so for a moment a lock would still
        # be held, a pipe still have its reader, and a program just written still be busy (Linux 6.18).
        request = Request(calling(os.close, fd), None)
        result, later = await self._host.settle(request)
        cancelled = cancelled or later
        if cancelled is not None:
            raise cancelled
        if result < 0:
            raise failure(result, self.name)

    async def aclose(self) -> None:
        """The same as ``close``: the name that ``contextlib.aclosing`` and anyio use."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
