"""``BinaryFile``: an open file, as ``io`` and ``aiofiles`` have taught people to use it, that never stops the loop.

The position is the object's own: reads and writes name their offset to the kernel. So tasks that share a file each
get the next bytes, in the order in which they asked, and ``pread``/``pwrite`` need no turn at all. Writes are not
buffered in the process: what ``write`` returned for, the kernel has.
"""

from __future__ import annotations

import io
import os
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Iterable
from typing import Any

from clearway.buffers import Lease, Pool
from clearway.files._host import Host, Request, calling
from clearway.files._leases import make_pool, read_leased
from clearway.files._moving import INLINE_MAX, Mover, StreamMover
from clearway.files._openfile import OpenFile
from clearway.files._turn import Turn
from clearway.kernel import fileio
from clearway.kernel.fileio import Block, pread_now

#: Bytes that ``readline`` reads ahead.
AHEAD = 64 * 1024
#: Small pieces given to ``writelines`` are joined up to this many bytes: one operation instead of many.
JOIN = 256 * 1024

# fsync_flags of the ring's operation.
_DATASYNC = 1


class BinaryFile(OpenFile):
    """A file that was opened in a binary mode. Made by ``open_file``.

    Every method but the properties may wait for the disk, never the loop. When one returns or raises, be it
    CancelledError, nobody reads or writes the memory it was given any more, and ``tell()`` is exact: a read that was
    cancelled has moved nothing, a write as far as the kernel took it. A file belongs to the loop it was opened in.

    :ivar name: what was opened. :ivar mode: how.
    """

    def __init__(
        self,
        host: Host,
        mover: Mover,
        mode: str,
        *,
        readable: bool,
        writable: bool,
        appending: bool,
        size: int,
        pool: Pool | None = None,
    ) -> None:
        super().__init__(host, mover, mode, readable=readable, writable=writable)
        self._appending = appending
        self._cached = mover.inline and self._seekable
        self._size = size  # when it was opened: a hint for reading all of it
        self._position = size if appending else 0
        # What was read beyond the position.
        self._ahead = bytearray()
        self._turn = Turn()
        self._pool = pool

    # -- reading ---------------------------------------------------------------------------------------------

    async def read(self, size: int | None = -1, /) -> bytes:
        """``size`` bytes, less only at the end of the file; all that is left for a negative ``size`` or None.

        :raises OSError: reading failed.
        """
        self._check_readable()
        if size is None or size < 0:
            async with self._turn:
                self._check()
                return await self._read_all()
        if (
            self._cached
            and not self._turn.users
            and not self._ahead
            and size <= INLINE_MAX
            and not self._host.over_budget()
        ):
            data = pread_now(self._fd, size, self._position)
            if data is not None:
                self._position += len(data)
                self._mover.read.add(len(data), 0)
                return data
        async with self._turn:
            self._check()
            return await self._read(size)

    async def _read(self, size: int) -> bytes:
        if isinstance(self._mover, StreamMover):
            while len(self._ahead) < size and await self._more(size - len(self._ahead)):
                pass
            return self._take(size)
        known = min(size, len(self._ahead))
        if known == size:
            return self._take(size)
        start = self._position + known
        rest = await self._read_at(size - known, start)
        if not known:
            return self._moved(rest)
        self._copied(known + len(rest))
        return self._take(known) + rest

    def _moved(self, data: bytes) -> bytes:
        self._position += len(data)
        return data

    def _copied(self, size: int) -> None:
        self._mover.read.add(0, size)

    def _take(self, size: int) -> bytes:
        """The next ``size`` bytes of what was read ahead."""
        with memoryview(self._ahead) as view:
            data = bytes(view[:size])
        self._copied(len(data))
        del self._ahead[:size]
        self._position += len(data)
        return data

    async def _read_at(self, size: int, offset: int) -> bytes:
        block = Block.fresh(size)
        return block.finish(await self._mover.fill(block, size, offset))

    async def _read_all(self) -> bytes:
        if isinstance(self._mover, StreamMover):
            while await self._more(AHEAD):
                pass
            return self._take(len(self._ahead))
        start = self._position + len(self._ahead)
        parts = []
        # As large as the file was, and a byte to see its end; files of /proc say 0 and go on.
        size = max(self._size - start, 0) + 1
        while True:
            part = await self._read_at(size, start)
            parts.append(part)
            start += len(part)
            if len(part) < size:
                break
            size = max(size, AHEAD)
        known = bytes(self._ahead)
        self._ahead.clear()
        self._position = start
        if known:
            parts.insert(0, known)
            self._copied(len(known))
        if len(parts) == 1:
            return parts[0]
        whole = b"".join(parts)
        self._copied(len(whole))
        return whole

    async def _more(self, size: int) -> int:
        """Read at most ``size`` bytes more ahead: how many there were, 0 at the end."""
        mover = self._mover
        if isinstance(mover, StreamMover):
            data, cancelled = await mover.receive(size)
            self._ahead += data  # before the cancellation: a stream gives nothing twice
            self._copied(len(data))
            if cancelled is not None:
                raise cancelled
            return len(data)
        data = await self._read_at(size, self._position + len(self._ahead))
        self._ahead += data
        self._copied(len(data))
        return len(data)

    async def read1(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes (negative: any number) that one read gives: for streams that arrive in pieces."""
        self._check_readable()
        async with self._turn:
            self._check()
            if not self._ahead and size != 0:
                await self._more(AHEAD if size < 0 else size)
            return self._take(len(self._ahead) if size < 0 else size)

    async def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` (writable, contiguous): the count, less than its size only at the end of the file."""
        self._check_readable()
        async with self._turn:
            self._check()
            block = Block.into(buffer)
            try:
                if self._ahead or not self._seekable:
                    data = await self._read(block.size)
                    block.copy(0, Block.of(data), 0, len(data))
                    self._copied(len(data))
                    return len(data)
                count = await self._mover.fill(block, block.size, self._position)
                self._position += count
                return count
            finally:
                block.release()

    async def pread(self, size: int, offset: int, /) -> bytes:
        """``size`` bytes from ``offset`` on, less only at the end of the file; the position stays where it is."""
        host = self._host
        # One look at what nearly always holds: the checks by name are half of what a cached read costs.
        if (
            self._closing
            or not (self._readable and self._seekable)
            or offset < 0
            or get_running_loop() is not host.loop
        ):
            self._check_readable()
            self._check_offset(offset)
        if self._cached and size <= INLINE_MAX and not host.over_budget():
            data = pread_now(self._fd, size, offset)
            if data is not None:
                self._mover.read.add(len(data), 0)
                return data
        return await self._read_at(size, offset)

    async def preadinto(self, buffer: Any, offset: int, /) -> int:
        """Fill ``buffer`` from ``offset`` on: the count; the position stays where it is."""
        self._check_readable()
        self._check_offset(offset)
        block = Block.into(buffer)
        try:
            return await self._mover.fill(block, block.size, offset)
        finally:
            block.release()

    async def read_lease(self, size: int, /) -> Lease:
        """As ``read``, into memory leased from the file's pool: no copy, and the caller releases it.

        It waits for a block while all are out: release leases that are done with.

        :param size: bytes, at most the pool's block size.
        :raises ValueError: ``size`` is more than that.
        """
        self._check_readable()
        self._check_seekable()
        async with self._turn:
            self._check()
            self._ahead.clear()
            lease = await read_leased(self._mover, self._get_pool(), size, self._position)
            self._position += lease.nbytes
            return lease

    async def pread_lease(self, size: int, offset: int, /) -> Lease:
        """As ``pread``, into memory leased from the file's pool; see ``read_lease``."""
        self._check_readable()
        self._check_offset(offset)
        return await read_leased(self._mover, self._get_pool(), size, offset)

    def _get_pool(self) -> Pool:
        pool = self._pool or self._host.pool
        if pool is None:
            pool = self._host.pool = make_pool()
        return pool

    def _check_offset(self, offset: int) -> None:
        self._check_seekable()
        if offset < 0:
            raise ValueError(f"negative offset {offset}")

    async def readline(self, size: int | None = -1, /) -> bytes:
        """The next line with its b"\\n", at most ``size`` bytes of it; b"" at the end of the file."""
        self._check_readable()
        limit = -1 if size is None else size
        async with self._turn:
            # Within the turn: who yields must not be overtaken.
            if self._host.over_budget():
                await self._host.pass_on()
            self._check()
            return await self._read_line(limit)

    async def _read_line(self, limit: int) -> bytes:
        searched = 0
        while True:
            end = self._ahead.find(b"\n", searched) + 1
            if not end:
                searched = len(self._ahead)
            if 0 <= limit <= (end or searched):
                return self._take(limit)
            if end:
                return self._take(end)
            if not await self._more(AHEAD):
                return self._take(len(self._ahead))

    async def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """The lines that are left; with a positive ``hint`` no more than make up so many bytes."""
        lines = []
        total = 0
        async for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    # -- writing ---------------------------------------------------------------------------------------------

    async def write(self, data: Any, /) -> int:
        """Write all of ``data`` (bytes-like, contiguous) and return its length in bytes.

        :raises OSError: it could not be written in full; ``characters_written`` says how much was, and the
            position is behind that.
        """
        self._check_writable()
        block = Block.of(data)
        try:
            async with self._turn:
                self._check()
                return await self._write(block)
        finally:
            block.release()

    async def _write(self, block: Block) -> int:
        at = -1 if self._appending else self._position
        self._drop_ahead()
        done, error = await self._mover.drain(block, block.size, at)
        if not self._appending or not self._seekable:
            self._position += done
        elif done:
            # Where the end was is known only afterwards, and to the descriptor.
            self._position = os.lseek(self._fd, 0, os.SEEK_CUR)
        if error is not None:
            raise error
        return done

    def _drop_ahead(self) -> None:
        if self._seekable:
            self._ahead.clear()

    async def writelines(self, lines: Iterable[Any], /) -> None:
        """Write each of ``lines``; small ones are joined. Line ends are the caller's business."""
        self._check_writable()
        joined = bytearray()
        async with self._turn:
            for line in lines:
                joined += line
                self._mover.written.add(0, len(line))
                if len(joined) >= JOIN:
                    self._check()
                    await self._write(Block.of(joined))
                    joined = bytearray()
            if joined:
                self._check()
                await self._write(Block.of(joined))

    async def pwrite(self, data: Any, offset: int, /) -> int:
        """Write all of ``data`` at ``offset`` and return its length; the position stays where it is.

        :raises OSError: as ``write``.
        :raises io.UnsupportedOperation: the file is open for appending, where Linux ignores the offset.
        """
        self._check_writable()
        self._check_offset(offset)
        if self._appending:
            raise io.UnsupportedOperation("pwrite() on a file opened for appending appends")
        block = Block.of(data)
        self._drop_ahead()
        try:
            done, error = await self._mover.drain(block, block.size, offset)
        finally:
            block.release()
            self._drop_ahead()
        if error is not None:
            raise error
        return done

    async def truncate(self, size: int | None = None, /) -> int:
        """Make the file ``size`` bytes long (default: up to the position) and return that."""
        self._check_writable()
        self._check_seekable()
        async with self._turn:
            self._check()
            length = self._position if size is None else size
            if length < 0:
                raise ValueError(f"negative size {length}")
            self._drop_ahead()
            fd = self._fd
            await self._perform(Request(calling(os.ftruncate, fd, length), self))
            return length

    async def flush(self, fsync: bool | str = False) -> None:
        """Wait until what was written is where it should be; every ``write`` that has returned is included.

        :param fsync: False: with the kernel, where each write already is. True: on the disk, with all that belongs
            to the file. "data": on the disk, without what is not needed to read it back (times).
        :raises OSError: the disk did not take all of it.
        """
        if fsync not in (False, True, "data"):
            raise ValueError(f'fsync must be False, True or "data", not {fsync!r}')
        self._check()
        if not fsync:
            return
        async with self._turn:
            self._check()
            fd = self._fd
            call, flags = (os.fdatasync, _DATASYNC) if fsync == "data" else (os.fsync, 0)
            await self._perform(Request(calling(call, fd), self, fileio.FSYNC, fd, flags=flags))

    # -- the position ----------------------------------------------------------------------------------------

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position and return it.

        :param whence: what ``offset`` counts from: os.SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA or SEEK_HOLE.
        """
        self._check_seekable()
        async with self._turn:
            self._check()
            if whence == os.SEEK_CUR:
                target = self._position + offset
            elif whence == os.SEEK_SET:
                target = offset
            else:
                fd = self._fd
                target = await self._host.run(lambda: os.lseek(fd, offset, whence))
            if target < 0:
                raise ValueError(f"negative position {target}")
            self._ahead.clear()
            self._position = target
            return target

    async def tell(self) -> int:
        """The position in bytes."""
        self._check_seekable()
        async with self._turn:
            return self._position
