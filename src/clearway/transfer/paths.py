"""The ways bytes can go. Each pump moves until the count or the end, and counts what the destination has taken.

A pump that finds at its first piece that the kernel cannot do it for this pair raises ``Unsuited``; the next way is
tried, and the result says which one it was. All work in bounded pieces and let others run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Awaitable, Callable
from typing import Any

from clearway.loop.readahead import Readahead
from clearway.loop.workers import in_worker
from clearway.transfer.ends import BUFFER_SIZE, FILE, OPAQUE, PIPE, SOCKET, FileSink, Sink, Source
from clearway.transfer.pipes import PIPE_SIZE, Pipe, pool
from clearway.transfer.progress import Transfer

#: Bytes of one copy_file_range(2) in a worker: what a cancelled transfer may have to wait for, some 10 ms in memory.
COPY_PIECE = 16 * 1024 * 1024

#: What the kernel answers when a pair of descriptors cannot be joined that way: another file system, an unseekable or
#: appending file, a socket family without splice, an old kernel, a seccomp profile.
_UNSUITED = frozenset(
    {
        errno.EINVAL,
        errno.EXDEV,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EBADF,
        errno.EPERM,
        errno.ESPIPE,
    }
)
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Unsuited(Exception):
    """This way is closed to this pair; nothing has been moved."""


class Pump:
    """One transfer under way.

    :param limit: bytes to move; None: to the end of the source.
    :param on_progress: called after each piece.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        limit: int | None,
        progress: Transfer,
        on_progress: Callable[[Transfer], Any] | None,
    ) -> None:
        self.source = source
        self.sink = sink
        self.limit = limit
        self.progress = progress
        self._on_progress = on_progress
        loop = asyncio.get_running_loop()
        self._pass_on: Callable[[], Awaitable[None]] = getattr(loop, "_pass_on", _yield)

    def left(self, piece: int) -> int:
        """Bytes of the next piece, at most ``piece``; 0 when all has been moved."""
        if self.limit is None:
            return piece
        return min(piece, self.limit - self.progress.moved)

    async def moved(self) -> None:
        """A piece has been moved: tell, and let others run when it has been long enough."""
        if self._on_progress is not None:
            self._on_progress(self.progress)
        await self._pass_on()

    def refuse(self, exc: OSError, moved_before: int) -> None:
        """Tell "cannot be done this way" from an error of an end."""
        if exc.errno in _UNSUITED and self.progress.moved == moved_before:
            raise Unsuited from exc

    async def run(self) -> None:
        """Move everything by the first way that this pair can go."""
        await self.move_early()
        for path, way in self.ways():
            if not self.left(1):
                return
            self.progress.path = path
            try:
                await way()
                return
            except Unsuited:
                # What it had taken out of the source goes first, by way of memory.
                taken, self.progress.undelivered = self.progress.undelivered, b""
                await self.deliver(taken)

    def ways(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """The ways that are worth trying, best first."""
        kinds = (self.source.kind, self.sink.kind)
        ways: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if OPAQUE not in kinds:
            if kinds == (FILE, FILE):
                ways = [("copy_file_range", self.copy_range), ("sendfile", self.copy_sendfile)]
            elif kinds == (FILE, SOCKET):
                ways = [("sendfile", self.sendfile)]
            elif kinds == (FILE, PIPE):
                ways = [("splice", self.sendfile)]
            elif self.sink.kind is FILE:
                ways = [("splice", self.splice_to_file)]
            elif PIPE in kinds:
                ways = [("splice", self.splice_directly)]
            else:
                ways = [("splice", self.splice_through)]
            if kinds[0] is FILE and os.fstat(self.source.fd).st_size == 0:
                ways = []  # /proc and its like: files with bytes and no size are only good for reading
            if isinstance(self.sink, FileSink) and self.sink.appends:
                ways = []  # EINVAL and EBADF are all that the kernel has for O_APPEND
        return [*ways, ("buffers", self.copy)]

    # -- through memory ----------------------------------------------------------------------------------------

    async def move_early(self) -> None:
        """Move what was received before the source was taken over."""
        while self.left(1) and (data := self.source.early()):
            self.progress.path = "buffers"
            self.progress.copied += len(data)
            count = self.left(len(data))
            self.progress.undelivered = data[count:]
            await self.deliver(data[:count])

    async def copy(self) -> None:
        """Read and write."""
        while count := self.left(BUFFER_SIZE):
            data = await self.source.read(count)
            if not data:
                self.progress.ended = True
                return
            if self.source.copies():
                self.progress.copied += len(data)
            await self.deliver(data)
            await self.moved()

    async def deliver(self, data: bytes) -> None:
        """Write ``data``; what the sink has not taken when that fails is ``undelivered``."""
        before = self.progress.moved
        if self.sink.copies():
            self.progress.copied += len(data)
        try:
            await self.sink.write(data, self.progress)
        except BaseException:
            taken = self.progress.moved - before
            self.progress.undelivered = data[taken:] + self.progress.undelivered
            raise

    # -- from files --------------------------------------------------------------------------------------------

    async def sendfile(self) -> None:
        """From a file to a socket or a pipe: sendfile(2) or splice(2), from the page cache."""
        source, sink, progress = self.source, self.sink, self.progress
        ahead = Readahead(source.fd, os.fstat(source.fd).st_size)
        ready = sink.watch()
        use_splice = sink.kind is PIPE
        start = progress.moved
        while count := self.left(PIPE_SIZE * 4):
            sink.check()
            room = ahead.room(source.offset)
            if not room:
                await ahead.fetch(source.offset)
                progress.fetched = ahead.fetched
                continue
            count = min(count, room)
            try:
                if use_splice:
                    n = os.splice(
                        source.fd, sink.fd, count, offset_src=source.offset, flags=_SPLICE_FLAGS
                    )
                else:
                    n = os.sendfile(sink.fd, source.fd, source.offset, count)
            except BlockingIOError:
                await ready.wait_writable()
                continue
            except OSError as exc:
                self.refuse(exc, start)
                raise
            if not n:
                progress.ended = True
                return
            source.offset += n
            progress.moved += n
            await self.moved()

    async def copy_range(self) -> None:
        """From file to file, inside the kernel or the file system (which may share the blocks)."""
        start = self.progress.moved
        while count := self.left(COPY_PIECE):
            if not await in_worker(self._copy_range, count, start):
                self.progress.ended = True
                return
            await self.moved()

    def _copy_range(self, count: int, start: int) -> int:
        source, sink = self.source, self.sink
        try:
            n = os.copy_file_range(
                source.fd, sink.fd, count, offset_src=source.offset, offset_dst=sink.offset
            )
        except OSError as exc:
            self.refuse(exc, start)
            raise
        return self._count_both(n)

    async def copy_sendfile(self) -> None:
        """From file to file between file systems that do not know each other."""
        start = self.progress.moved
        os.lseek(self.sink.fd, self.sink.offset, os.SEEK_SET)
        while count := self.left(COPY_PIECE):
            if not await in_worker(self._copy_sendfile, count, start):
                self.progress.ended = True
                return
            await self.moved()

    def _copy_sendfile(self, count: int, start: int) -> int:
        try:
            n = os.sendfile(self.sink.fd, self.source.fd, self.source.offset, count)
        except OSError as exc:
            self.refuse(exc, start)
            raise
        return self._count_both(n)

    def _count_both(self, n: int) -> int:
        self.source.offset += n
        self.sink.offset += n
        self.progress.moved += n
        return n

    # -- from sockets and pipes ----------------------------------------------------------------------------------

    async def splice_directly(self) -> None:
        """Where one end is a pipe."""
        source, sink, progress = self.source, self.sink, self.progress
        reading, writing = source.watch(), sink.watch()
        start = progress.moved
        while count := self.left(PIPE_SIZE):
            source.check()
            sink.check()
            reading.arm()
            try:
                n = os.splice(source.fd, sink.fd, count, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                # One of the two: the answer is the same for "nothing there" and "no room".
                if _is_readable(source.fd):
                    await writing.wait_writable()
                else:
                    await reading.wait_readable()
                continue
            except OSError as exc:
                self.refuse(exc, start)
                raise
            if not n:
                progress.ended = True
                return
            progress.moved += n
            await self.moved()

    async def splice_through(self) -> None:
        """From socket to socket, through a pipe that is held only while it has bytes in it."""
        source, progress = self.source, self.progress
        reading = source.watch()
        start = progress.moved
        while count := self.left(PIPE_SIZE):
            pipe = pool.take()
            try:
                if pipe is None:
                    n = await self.move_piece(min(count, BUFFER_SIZE))
                else:
                    reading.arm()
                    n = self.fill(pipe, count, start)
                    if n > 0:
                        await self.empty(pipe, start)
            finally:
                if pipe is not None:
                    if pipe.held:
                        progress.undelivered = pipe.drain()
                    pool.give(pipe)
            if n < 0:
                await reading.wait_readable()
            elif n == 0:
                progress.ended = True
                return
            else:
                await self.moved()

    def fill(self, pipe: Pipe, count: int, start: int) -> int:
        """Take up to ``count`` bytes out of the source: how many; 0 at its end, -1 for nothing there."""
        self.source.check()
        try:
            n = os.splice(self.source.fd, pipe.writer, count, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return -1
        except OSError as exc:
            self.refuse(exc, start)
            raise
        pipe.held += n
        return n

    async def empty(self, pipe: Pipe, start: int) -> None:
        """Have the sink take what is in the pipe."""
        sink, progress = self.sink, self.progress
        while pipe.held:
            sink.check()
            try:
                n = os.splice(pipe.reader, sink.fd, pipe.held, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                await sink.watch().wait_writable()
                continue
            except OSError as exc:
                self.refuse(exc, start)
                raise
            pipe.held -= n
            progress.moved += n

    async def move_piece(self, count: int) -> int:
        """One piece through memory: all pipes are in use."""
        data = await self.source.read(count)
        if data:
            await self.deliver(data)
        return len(data)

    async def splice_to_file(self) -> None:
        """From a socket or a pipe to a file; a worker thread does the writing, which may wait for a disk."""
        source, progress = self.source, self.progress
        reading = source.watch()
        start = progress.moved
        pipe = Pipe()
        try:
            while count := self.left(pipe.size):
                reading.arm()
                n = self.fill(pipe, count, start)
                if n < 0:
                    await reading.wait_readable()
                    continue
                if n == 0:
                    progress.ended = True
                    return
                failed = self.fill_up(pipe, count)
                await in_worker(self._splice_to_file, pipe, start)
                if failed is not None:
                    raise failed
                await self.moved()
        finally:
            if pipe.held:
                progress.undelivered = pipe.drain()
            pipe.close()

    def fill_up(self, pipe: Pipe, count: int) -> OSError | None:
        """Take what else there is: a hop to the worker is better paid by a full pipe. Returns the error that came
        after it, which the kernel tells once."""
        try:
            while pipe.held < count and self.fill(pipe, count - pipe.held, -1) > 0:
                pass
        except OSError as exc:
            return exc
        return None

    def _splice_to_file(self, pipe: Pipe, start: int) -> None:
        sink, progress = self.sink, self.progress
        while pipe.held:
            try:
                n = os.splice(pipe.reader, sink.fd, pipe.held, offset_dst=sink.offset)
            except OSError as exc:
                self.refuse(exc, start)
                raise
            sink.offset += n
            pipe.held -= n
            progress.moved += n


async def _yield() -> None:
    await asyncio.sleep(0)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
