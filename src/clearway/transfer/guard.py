"""What stands between a transport and its protocol while bytes are transferred past them.

It hears of the end of the connection, of the water marks, and, where bytes have to come through the transport (TLS),
of the bytes; everything else goes on to the protocol it stands before. A transport has at most one guard: the two
directions of a proxy share it, and the last of them to end takes it away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from clearway.transfer.progress import Transfer

#: Bytes taken from a transport ahead of the destination before it is told to pause (asyncio: 64 KiB).
CAPTURE_MAX = 64 * 1024


class Guard:
    """The part that both kinds of protocols share.

    :ivar lost: the connection is gone. :ivar error: why, where that is known.
    """

    inner: Any

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.inner = transport.get_protocol()
        self.lost = False
        self.error: BaseException | None = None
        self.has_source = False
        self.has_sink = False
        self._capturing = False
        self._captured: deque[bytes] = deque()
        self._captured_size = 0
        self._captured_eof = False
        self._resume_reading = False
        self._full = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._wakes: list[Callable[[], None]] = []

    # -- what the ends ask for -------------------------------------------------------------------------------

    def check(self) -> None:
        """:raises ConnectionError: the connection is lost."""
        if self.lost or self.transport.is_closing():
            raise ConnectionError("the connection was lost during the transfer") from self.error

    async def wait(self) -> None:
        """Wait until something happens: bytes, room or the end."""
        future = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        try:
            await future
        finally:
            self._waiters.discard(future)

    def enter_source(self, capture: bool, wake: Callable[[], None]) -> None:
        """Stop the protocol from receiving, or receive in its place.

        :param wake: called when the connection is lost.
        :raises RuntimeError: another transfer is reading from this transport.
        """
        if self.has_source:
            raise RuntimeError(f"{self.transport!r} is the source of another transfer already")
        self.has_source = True
        self._wakes.append(wake)
        self._resume_reading = self.transport.is_reading()
        if capture:
            self._capturing = True
            if not self._resume_reading:
                self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def leave_source(self, given_back: bytes, wake: Callable[[], None]) -> None:
        """Let the protocol receive again, first of all ``given_back``."""
        self.has_source = False
        self._wakes.remove(wake)
        if self._capturing:
            self._capturing = False
            rest = given_back + b"".join(self._captured)
            self._captured.clear()
            self._captured_size = 0
            if rest:
                self._hand_over(rest)
            if self._captured_eof and not self.lost:
                self._captured_eof = False
                if not self.inner.eof_received():
                    self.transport.close()
        elif given_back:
            self._hand_over(given_back)
        self._leave()
        if not self.transport.is_closing():
            if self._resume_reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    async def enter_sink(self, wake: Callable[[], None]) -> None:
        """Wait until the transport has written everything.

        :param wake: called when the connection is lost.
        :raises RuntimeError: another transfer is writing to this transport.
        :raises ConnectionError: the connection is lost meanwhile.
        """
        if self.has_sink:
            raise RuntimeError(f"{self.transport!r} is the destination of another transfer already")
        self.has_sink = True
        self._wakes.append(wake)
        try:
            await self.drain()
        except BaseException:
            self.leave_sink(wake)
            raise

    async def drain(self) -> None:
        """Wait until the transport's buffer is empty."""
        low, high = self.transport.get_write_buffer_limits()
        self.transport.set_write_buffer_limits(high=0, low=0)
        try:
            while self.transport.get_write_buffer_size():
                self.check()
                await self.wait()
        finally:
            self.transport.set_write_buffer_limits(high=high, low=low)
        self._full = False

    async def write(self, data: bytes, progress: Transfer) -> None:
        """Have the transport send ``data`` and wait until it takes more."""
        self.check()
        progress.moved += len(data)
        progress.buffered += len(data)
        self.transport.write(data)
        while self._full:
            await self.wait()
            self.check()

    def leave_sink(self, wake: Callable[[], None]) -> None:
        self.has_sink = False
        self._wakes.remove(wake)
        self._leave()

    async def read(self, count: int) -> bytes:
        """Up to ``count`` captured bytes; b"" at the end."""
        while not self._captured:
            if self._captured_eof:
                return b""
            self.check()
            await self.wait()
        data = self._captured.popleft()
        if len(data) > count:
            self._captured.appendleft(data[count:])
            data = data[:count]
        self._captured_size -= len(data)
        if self._captured_size <= CAPTURE_MAX // 4 and not self.transport.is_closing():
            self.transport.resume_reading()
        return data

    def _leave(self) -> None:
        if not self.has_source and not self.has_sink and not self.lost:
            self.transport.set_protocol(self.inner)

    def _hand_over(self, data: bytes) -> None:
        if isinstance(self.inner, asyncio.BufferedProtocol):
            view = memoryview(data)
            while view:
                into = memoryview(self.inner.get_buffer(len(view))).cast("B")
                count = min(len(into), len(view))
                into[:count] = view[:count]
                self.inner.buffer_updated(count)
                view = view[count:]
        else:
            self.inner.data_received(data)

    def _wake(self) -> None:
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    # -- what the transport tells ----------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        raise RuntimeError("the connection has been made before")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self.error = exc
        self._wake()
        for wake in self._wakes:
            wake()
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._full = True
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        self._wake()
        self.inner.resume_writing()

    def eof_received(self) -> Any:
        if self._capturing:
            self._captured_eof = True
            self._wake()
            return True
        return self.inner.eof_received()

    def _capture(self, data: bytes) -> None:
        self._captured.append(data)
        self._captured_size += len(data)
        if self._captured_size > CAPTURE_MAX:
            self.transport.pause_reading()
        self._wake()

    def __getattr__(self, name: str) -> Any:
        # What a library asks its own protocol for through transport.get_protocol().
        return getattr(self.inner, name)


class StreamGuard(Guard, asyncio.Protocol):
    """The guard of an ``asyncio.Protocol``."""

    def data_received(self, data: bytes) -> None:
        if self._capturing:
            self._capture(bytes(data))
        else:
            self.inner.data_received(data)


class BufferGuard(Guard, asyncio.BufferedProtocol):
    """The guard of an ``asyncio.BufferedProtocol``."""

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self._buffer: bytearray | None = None

    def get_buffer(self, sizehint: int) -> Any:
        if self._capturing:
            if self._buffer is None:
                self._buffer = bytearray(CAPTURE_MAX)
            return self._buffer
        return self.inner.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        if self._capturing and self._buffer is not None:
            self._capture(bytes(memoryview(self._buffer)[:nbytes]))
        else:
            self.inner.buffer_updated(nbytes)


def guard(transport: Any) -> Guard:
    """The guard of ``transport``, made when it has none."""
    protocol = transport.get_protocol()
    if isinstance(protocol, Guard):
        return protocol
    if isinstance(protocol, asyncio.BufferedProtocol):
        made: Guard = BufferGuard(transport)
    else:
        made = StreamGuard(transport)
    transport.set_protocol(made)
    return made
