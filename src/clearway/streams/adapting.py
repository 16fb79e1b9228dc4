"""A stream for code that was written for asyncio's interfaces: as a transport, and as reader and writer."""

from __future__ import annotations

import asyncio
from typing import Any

from clearway.streams.errors import StreamBroken, StreamClosed
from clearway.streams.stream import HIGH_WATER, ByteStream


class StreamTransport(asyncio.Transport):
    """An asyncio transport on a stream: each lease is copied into the ``bytes`` a protocol expects, and counted."""

    def __init__(self, stream: ByteStream, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._stream = stream
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._eof = False
        self._lost = False
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._high = HIGH_WATER
        self._low = HIGH_WATER // 4
        self._paused_protocol = False
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._has_output = asyncio.Event()
        self._reader = self._loop.create_task(self._read())
        self._writer = self._loop.create_task(self._write())

    # -- tasks -----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        protocol: Any = self._protocol
        try:
            protocol.connection_made(self)
            while True:
                await self._may_read.wait()
                lease = await self._stream.receive()
                with lease:
                    if not lease:
                        break
                    data = bytes(lease)
                await self._may_read.wait()
                protocol = self._protocol
                if isinstance(protocol, asyncio.BufferedProtocol):
                    _fill(protocol, data)
                else:
                    protocol.data_received(data)
            if not self._protocol.eof_received():  # type: ignore[attr-defined]
                self.close()
        except StreamClosed:
            pass  # by ourselves
        except Exception as exc:
            self._end(exc)

    async def _write(self) -> None:
        try:
            while True:
                await self._has_output.wait()
                self._has_output.clear()
                while self._pending:
                    pieces, self._pending = self._pending, []
                    await self._stream.send_many(pieces)
                    await self._stream.drain()
                    self._pending_size -= sum(map(len, pieces))
                    self._control()
                if self._closing:
                    self._reader.cancel()
                    await self._stream.aclose()
                    self._end(None)
                    return
                if self._eof:
                    await self._stream.send_eof()
        except Exception as exc:
            self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._stream.abort()
        self._reader.cancel()
        self._writer.cancel()
        cause: Any = exc.__cause__ if isinstance(exc, StreamBroken) else exc
        self._loop.call_soon(self._protocol.connection_lost, cause)

    def _control(self) -> None:
        protocol: Any = self._protocol
        if not self._paused_protocol and self._pending_size > self._high:
            self._paused_protocol = True
            protocol.pause_writing()
        elif self._paused_protocol and self._pending_size <= self._low:
            self._paused_protocol = False
            protocol.resume_writing()

    # -- asyncio.Transport -----------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._stream.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._may_read.is_set() and not self._closing

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def write(self, data: Any) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        chunks = [bytes(data) for data in list_of_data]
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing:
            return
        self._pending.extend(chunk for chunk in chunks if chunk)
        self._pending_size += sum(map(len, chunks))
        self._has_output.set()
        self._control()

    def write_eof(self) -> None:
        self._eof = True
        self._has_output.set()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self._pending_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (self._low, self._high)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._control()

    def close(self) -> None:
        self._closing = True
        self._has_output.set()

    def abort(self) -> None:
        self._end(None)


def _fill(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    view = memoryview(data)
    while view:
        into = memoryview(protocol.get_buffer(len(view))).cast("B")
        count = min(len(into), len(view))
        into[:count] = view[:count]
        protocol.buffer_updated(count)
        view = view[count:]


def to_transport(stream: ByteStream, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
    """A transport on ``stream``, which is the transport's from here on; ``protocol`` is connected in a moment."""
    return StreamTransport(stream, protocol)


def to_asyncio(
    stream: ByteStream, *, limit: int = 64 * 1024
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An asyncio reader and writer on ``stream``, which is theirs from here on.

    :param limit: bytes the reader holds before it stops receiving, as in ``asyncio.open_connection``.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = StreamTransport(stream, protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
