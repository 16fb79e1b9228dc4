"""The two ends of a transfer: what kind of thing each is, and how to take it over and give it back.

``Source`` and ``Sink`` keep a descriptor where the kernel can move the bytes itself (``fd``), and can always read and
write ``bytes`` for where it cannot.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import socket
import ssl
import stat
from typing import Any

from clearway.loop.readiness import Readiness, WatchedReadiness, watch
from clearway.loop.workers import in_worker
from clearway.transfer.guard import Guard, guard
from clearway.transfer.progress import Transfer

FILE = "file"
PIPE = "pipe"
SOCKET = "socket"
#: Bytes of a reader or a transport that has no descriptor to give, or encrypts.
OPAQUE = "opaque"

#: Bytes of one piece that goes through memory: a pipe's capacity, and below malloc's mmap threshold of 128 KiB.
BUFFER_SIZE = 64 * 1024


class End:
    """What both ends have in common.

    :ivar kind: FILE, PIPE, SOCKET or OPAQUE.
    :ivar fd: its descriptor, -1 where there is none to use.
    :ivar offset: where the next byte of a FILE is.
    """

    def __init__(self, kind: str, fd: int = -1) -> None:
        self.kind = kind
        self.fd = fd
        self.offset = 0
        self.readiness: Readiness | WatchedReadiness | None = None

    def watch(self) -> Readiness | WatchedReadiness:
        """Readiness of the descriptor, from the first time it is needed until the end."""
        if self.readiness is None:
            self.readiness = watch(asyncio.get_running_loop(), self.fd)
        return self.readiness

    def unwatch(self) -> None:
        if self.readiness is not None:
            self.readiness.close()
            self.readiness = None

    def wake(self) -> None:
        """End what it waits for: the connection is lost."""
        if self.readiness is not None:
            self.readiness.wake()

    def copies(self) -> bool:
        """Whether what goes through here is copied in user space: TLS, and readers that only have a buffer."""
        return self.kind is OPAQUE

    def check(self) -> None:
        """:raises ConnectionError: there is nobody on this end any more."""


class Source(End):
    """Where the bytes come from."""

    async def open(self) -> None:
        """Take it over."""

    async def close(self, undelivered: bytes) -> bytes:
        """Give it back; returns what of ``undelivered`` it cannot take back."""
        self.unwatch()
        return undelivered

    def early(self) -> bytes:
        """Bytes that were received before it was taken over; b"" when there are none left."""
        return b""

    async def read(self, count: int) -> bytes:
        """At most ``count`` bytes, b"" at the end."""
        ready = self.watch()
        while True:
            self.check()
            ready.arm()
            try:
                return os.read(self.fd, count)
            except BlockingIOError:
                await ready.wait_readable()


class Sink(End):
    """Where the bytes go."""

    async def open(self) -> None:
        """Take it over."""

    async def close(self) -> None:
        """Give it back."""
        self.unwatch()

    async def write(self, data: bytes, progress: Transfer) -> None:
        """Write all of ``data``, counting what was taken."""
        ready = self.watch()
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                self.check()
                try:
                    n = os.write(self.fd, view[done:])
                except BlockingIOError:
                    await ready.wait_writable()
                    continue
                done += n
                progress.moved += n
                progress.buffered += n

    def can_end(self) -> bool:
        """Whether ``end`` can say that nothing more will come, and leave the other direction open."""
        return False

    def end(self) -> None:
        raise NotImplementedError


# -- files -------------------------------------------------------------------------------------------------------


class FileSource(Source):
    """A regular file, from its position on, or from ``offset``."""

    def __init__(self, fd: int, file: Any, offset: int | None) -> None:
        super().__init__(FILE, fd)
        self._file = file
        self._given = offset

    async def open(self) -> None:
        self.offset = await _position(self.fd, self._file) if self._given is None else self._given

    async def close(self, undelivered: bytes) -> bytes:
        self.offset -= len(undelivered)
        if self._given is None:
            await _seek(self.fd, self._file, self.offset)
        return b""

    async def read(self, count: int) -> bytes:
        data = await in_worker(os.pread, self.fd, count, self.offset)
        self.offset += len(data)
        return data


class FileSink(Sink):
    """A regular file, at its position; at its end when it was opened for appending."""

    def __init__(self, fd: int, file: Any) -> None:
        super().__init__(FILE, fd)
        self._file = file
        self.appends = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)

    async def open(self) -> None:
        flush = getattr(self._file, "flush", None)
        if flush is not None:
            await _settled(in_worker(flush) if not asyncio.iscoroutinefunction(flush) else flush())
        self.offset = await _position(self.fd, self._file)

    async def close(self) -> None:
        if not self.appends:
            await _seek(self.fd, self._file, self.offset)

    async def write(self, data: bytes, progress: Transfer) -> None:
        await in_worker(self._write, data, progress)

    def _write(self, data: bytes, progress: Transfer) -> None:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                if self.appends:
                    n = os.write(self.fd, view[done:])
                else:
                    n = os.pwrite(self.fd, view[done:], self.offset)
                done += n
                self.offset += n
                progress.moved += n
                progress.buffered += n


async def _settled(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def _position(fd: int, file: Any) -> int:
    tell = getattr(file, "tell", None)
    return int(await _settled(tell()) if tell is not None else os.lseek(fd, 0, os.SEEK_CUR))


async def _seek(fd: int, file: Any, offset: int) -> None:
    seek = getattr(file, "seek", None)
    if seek is not None:
        await _settled(seek(offset))
    else:
        os.lseek(fd, offset, os.SEEK_SET)


# -- sockets -----------------------------------------------------------------------------------------------------


class SocketSink(Sink):
    """A connected stream socket."""

    def can_end(self) -> bool:
        return True

    def end(self) -> None:
        with socket.socket(fileno=os.dup(self.fd)) as sock:
            sock.shutdown(socket.SHUT_WR)


# -- what asyncio's streams and transports are made of ---------------------------------------------------------------


class TransportSource(Source):
    """A transport that reads, with its protocol's and its StreamReader's bytes first.

    :param reader: the ``asyncio.StreamReader`` that the transport feeds, or None.
    :raises RuntimeError: it is closing, or the source of another transfer.
    """

    _guard: Guard

    def __init__(self, transport: Any, reader: asyncio.StreamReader | None) -> None:
        super().__init__(_transport_kind(transport))
        self._transport = transport
        self._reader = reader

    async def open(self) -> None:
        self._guard = guard(self._transport)
        self._guard.enter_source(capture=self.kind is OPAQUE, wake=self.wake)
        self.fd = _duplicate(self._transport, self.kind)

    async def close(self, undelivered: bytes) -> bytes:
        self.unwatch()
        self.fd = _close(self.fd)
        if self._reader is not None:
            _put_back(self._reader, undelivered)
            undelivered = b""
        self._guard.leave_source(undelivered, self.wake)
        return b""

    def check(self) -> None:
        self._guard.check()

    def early(self) -> bytes:
        if self._reader is not None:
            data = _take_buffer(self._reader)
            if data:
                return data
        # clearway's own: what its engine had received before reading was paused.
        take = getattr(self._transport, "_take_received", None)
        return (take() or b"") if take is not None else b""

    async def read(self, count: int) -> bytes:
        if self.kind is OPAQUE:
            return await self._guard.read(count)
        return await super().read(count)


class TransportSink(Sink):
    """A transport that writes.

    :raises RuntimeError: it is closing, or the destination of another transfer.
    """

    _guard: Guard

    def __init__(self, transport: Any) -> None:
        super().__init__(_transport_kind(transport))
        self._transport = transport

    async def open(self) -> None:
        self._guard = guard(self._transport)
        await self._guard.enter_sink(self.wake)
        self.fd = _duplicate(self._transport, self.kind)

    async def close(self) -> None:
        self.unwatch()
        self.fd = _close(self.fd)
        self._guard.leave_sink(self.wake)

    def check(self) -> None:
        self._guard.check()

    async def write(self, data: bytes, progress: Transfer) -> None:
        if self.kind is OPAQUE:
            await self._guard.write(data, progress)
        else:
            await super().write(data, progress)

    def can_end(self) -> bool:
        return bool(self._transport.can_write_eof())

    def end(self) -> None:
        self._transport.write_eof()


class ReaderSource(Source):
    """An ``asyncio.StreamReader`` that has no transport any more, or never had one."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(OPAQUE)
        self._reader = reader

    async def close(self, undelivered: bytes) -> bytes:
        _put_back(self._reader, undelivered)
        return b""

    async def read(self, count: int) -> bytes:
        return await self._reader.read(count)


def _take_buffer(reader: asyncio.StreamReader) -> bytes:
    """What the reader holds; it thinks that it has been read."""
    buffer: bytearray = reader._buffer  # type: ignore[attr-defined]
    data = bytes(buffer)
    buffer.clear()
    return data


def _put_back(reader: asyncio.StreamReader, data: bytes) -> None:
    reader._buffer[:0] = data  # type: ignore[attr-defined]


def _transport_kind(transport: Any) -> str:
    if transport.is_closing():
        raise RuntimeError(f"{transport!r} is closing")
    fd = _transport_fd(transport)
    return OPAQUE if fd < 0 else _kind_of(fd)


def _transport_fd(transport: Any) -> int:
    """The descriptor of a transport past which bytes may go; -1 where they may not, as with TLS."""
    if transport.get_extra_info("sslcontext") is not None:
        return -1
    under = transport.get_extra_info("socket") or transport.get_extra_info("pipe")
    return -1 if under is None else int(under.fileno())


def _duplicate(transport: Any, kind: str) -> int:
    """A descriptor of our own: the transport may close its own at any moment."""
    return -1 if kind is OPAQUE else os.dup(_transport_fd(transport))


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


# -- telling one from the other ------------------------------------------------------------------------------------


def source_of(thing: Any, offset: int | None) -> Source:
    """The source that ``thing`` is.

    :raises TypeError, ValueError: it is none.
    """
    if isinstance(thing, asyncio.StreamReader):
        failed = thing.exception()
        if failed is not None:
            raise failed
        transport = getattr(thing, "_transport", None)
        if transport is None or thing._eof or transport.is_closing():  # type: ignore[attr-defined]
            source: Source = ReaderSource(thing)
        else:
            source = TransportSource(transport, thing)
    elif hasattr(thing, "get_extra_info") and hasattr(thing, "pause_reading"):
        source = TransportSource(thing, None)
    else:
        fd, file = _fileno(thing)
        kind = _kind_of(fd)
        if kind is FILE:
            return FileSource(fd, file, offset)
        _check_nonblocking(fd, thing)
        source = Source(kind, fd)
    if offset is not None:
        raise ValueError("offset: only a file can be read from an offset")
    return source


def sink_of(thing: Any) -> Sink:
    """The destination that ``thing`` is.

    :raises TypeError, ValueError: it is none.
    """
    if isinstance(thing, asyncio.StreamWriter):
        return TransportSink(thing.transport)
    if hasattr(thing, "get_extra_info") and hasattr(thing, "write"):
        return TransportSink(thing)
    fd, file = _fileno(thing)
    kind = _kind_of(fd)
    if kind is FILE:
        return FileSink(fd, file)
    _check_nonblocking(fd, thing)
    return SocketSink(kind, fd) if kind is SOCKET else Sink(kind, fd)


def _fileno(thing: Any) -> tuple[int, Any]:
    """The descriptor of ``thing``, and the file object around it if there is one."""
    if isinstance(thing, int) and not isinstance(thing, bool):
        if thing < 0:
            raise ValueError(f"invalid file descriptor: {thing}")
        return thing, None
    if isinstance(thing, io.TextIOBase):
        raise TypeError("a text file cannot be transferred: open it in binary mode")
    if isinstance(thing, ssl.SSLSocket):
        raise TypeError(
            "an SSLSocket cannot be used: give the transport or stream of the connection"
        )
    fileno = getattr(thing, "fileno", None)
    if fileno is None:
        raise TypeError(
            "expected a descriptor, a file, a socket, a transport or a stream, "
            f"got {type(thing).__name__}"
        )
    fd = fileno()
    if fd < 0:
        raise ValueError(f"{thing!r} is closed")
    return fd, None if isinstance(thing, socket.socket) else thing


def _kind_of(fd: int) -> str:
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return FILE
    if stat.S_ISFIFO(mode):
        return PIPE
    if stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.type != socket.SOCK_STREAM:
                raise ValueError("only stream sockets can be transferred from and to")
        return SOCKET
    raise ValueError("only regular files, pipes and stream sockets can be transferred from and to")


def _check_nonblocking(fd: int, thing: Any) -> None:
    if os.get_blocking(fd):
        raise ValueError(
            f"{thing!r} would block the loop: call setblocking(False), or os.set_blocking(fd, False)"
        )
