"""``TextFile``: a binary file seen as text, with the encoding, errors and newlines of ``io.TextIOWrapper``."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self

from clearway.files._codec import Cookie, Encoder, TextCodec, locate
from clearway.files._openfile import FileStatistics
from clearway.files._turn import Turn
from clearway.files.binary import BinaryFile

#: Bytes decoded at a time, as io.TextIOWrapper does: so ``tell`` and mixing reads with writes give the same figures.
CHUNK = 8192


class TextFile:
    """A file that was opened in a text mode. Made by ``open_file``.

    What was said of ``BinaryFile`` holds here too; sizes are in characters. A write that fails says in
    ``characters_written`` how many *bytes* the file took.

    :ivar buffer: the binary file beneath.
    """

    def __init__(self, buffer: BinaryFile, codec: TextCodec) -> None:
        self.buffer = buffer
        self._codec = codec
        self._decoder: Any = None
        self._encoder: Encoder | None = None
        # What the last chunk decoded to, how much of it was handed out, and (decoder's state before it, its bytes).
        self._text = ""
        self._used = 0
        self._chunk: tuple[int, bytes] | None = None
        # The chunks of the read that is under way: (text, decoder's state before, bytes).
        self._recent: list[tuple[str, int, bytes]] = []
        self._turn = Turn()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} name={self.name!r} mode={self.mode!r} "
            f"encoding={self.encoding!r}{' closed' if self.closed else ''}>"
        )

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def name(self) -> Any:
        """What was opened."""
        return self.buffer.name

    @property
    def mode(self) -> str:
        """How it was opened."""
        return self.buffer.mode

    @property
    def encoding(self) -> str:
        """The encoding in use."""
        return self._codec.encoding

    @property
    def errors(self) -> str:
        """The error handler in use."""
        return self._codec.errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The kinds of line ends seen so far."""
        return getattr(self._decoder, "newlines", None)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self.buffer.closed

    def statistics(self) -> FileStatistics:
        """See ``BinaryFile.statistics``."""
        return self.buffer.statistics()

    def fileno(self) -> int:
        """See ``BinaryFile.fileno``."""
        return self.buffer.fileno()

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self.buffer.readable()

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.buffer.writable()

    def seekable(self) -> bool:
        """Whether it has positions; a pipe or a terminal has none."""
        return self.buffer.seekable()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.buffer.isatty()

    # -- reading ---------------------------------------------------------------------------------------------

    async def read(self, size: int | None = -1, /) -> str:
        """``size`` characters, less only at the end of the file; all that is left for a negative size or None.

        :raises UnicodeDecodeError: the error handler does not allow what the file holds.
        """
        self.buffer._check_readable()
        async with self._turn:
            if size is None or size < 0:
                rest = await self.buffer.read()
                text = self._text[self._used :] + self._decode(rest, True)
                self._forget()
                return text
            return await self._whole_or_nothing(self._read_characters(size))

    async def _read_characters(self, missing: int) -> str:
        parts = []
        while missing > 0:
            part = self._text[self._used : self._used + missing]
            self._used += len(part)
            missing -= len(part)
            parts.append(part)
            if missing and not await self._next_chunk():
                break
        return "".join(parts)

    async def readline(self, size: int | None = -1, /) -> str:
        """The next line with its end, at most ``size`` characters of it; "" at the end of the file."""
        self.buffer._check_readable()
        host = self.buffer._host
        limit = -1 if size is None else size
        async with self._turn:
            if host.over_budget():
                await host.pass_on()
            if limit < 0:
                end = self._codec.end_of_line(self._text, self._used)
                # In the last place a "\r" may be half of a line end.
                if 0 <= end < len(self._text):
                    start = self._used
                    self._used = end
                    return self._text[start:end]
            return await self._whole_or_nothing(self._read_line(limit))

    async def _read_line(self, limit: int) -> str:
        line = ""
        while True:
            # A two-letter line end may be divided between chunks.
            searched = max(len(line) - 1, 0)
            line += self._text[self._used :]
            self._used = len(self._text)
            end = self._codec.end_of_line(line, searched)
            if 0 <= limit <= (end if end >= 0 else len(line)):
                end = limit
            if end >= 0:
                self._used -= len(line) - end
                return line[:end]
            if not await self._next_chunk():
                return line

    async def readlines(self, hint: int | None = -1, /) -> list[str]:
        """The lines that are left; with a positive ``hint`` no more than make up so many characters."""
        lines = []
        total = 0
        async for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def _whole_or_nothing(self, reading: Coroutine[Any, Any, str]) -> str:
        """What ``reading`` returns; if it fails or is cancelled, all it has read is there to be read again."""
        text, used, chunk = self._text, self._used, self._chunk
        self._recent.clear()
        try:
            return await reading
        except BaseException:
            if self._recent:
                flags, data = chunk or (self._recent[0][1], b"")
                self._chunk = (flags, data + b"".join(new for _, _, new in self._recent))
                text += "".join(new for new, _, _ in self._recent)
            self._text, self._used = text, used
            raise
        finally:
            self._recent.clear()

    def _decode(self, data: bytes, final: bool) -> str:
        if self._decoder is None:
            self._decoder = self._codec.decoder()
        return str(self._decoder.decode(data, final))

    async def _next_chunk(self) -> bool:
        """Replace the text, all of which was handed out, by that of the next chunk; False at the end."""
        data = await self.buffer.read1(CHUNK)
        if self._decoder is None:
            self._decoder = self._codec.decoder()
        held, flags = self._decoder.getstate()
        self._text = self._decode(data, not data)
        self._used = 0
        self._chunk = (flags, held + data)
        # What was held back is in the chunk before it already, unless that is forgotten.
        self._recent.append((self._text, flags, data if self._recent or not held else held + data))
        return bool(data) or bool(self._text)

    def _forget(self) -> None:
        """Drop what was read ahead of the position."""
        self._text = ""
        self._used = 0
        self._chunk = None

    # -- writing ---------------------------------------------------------------------------------------------

    async def write(self, text: str, /) -> int:
        """Write all of ``text`` and return its length in characters.

        :raises UnicodeEncodeError: nothing was written.
        :raises OSError: as ``BinaryFile.write``.
        """
        self.buffer._check_writable()
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        async with self._turn:
            await self._write(text)
        return len(text)

    async def _write(self, text: str) -> None:
        if self._encoder is None:
            position = self.buffer._position if self.buffer.seekable() else 0
            self._encoder = Encoder(self._codec, position)
        data = self._encoder.encode(text)
        self._forget()
        if self._decoder is not None:
            self._decoder.reset()
        await self.buffer.write(data)

    async def writelines(self, lines: Iterable[str], /) -> None:
        """Write each of ``lines``, joined. Line ends are the caller's business."""
        self.buffer._check_writable()
        async with self._turn:
            await self._write("".join(lines))

    async def truncate(self, size: int | None = None, /) -> int:
        """Make the file ``size`` bytes long (default: up to the position) and return that."""
        if size is None:
            size = await self.tell()
        return await self.buffer.truncate(size)

    async def flush(self, fsync: bool | str = False) -> None:
        """See ``BinaryFile.flush``: nothing written is kept back here either."""
        async with self._turn:
            await self.buffer.flush(fsync)

    # -- the position ----------------------------------------------------------------------------------------

    async def tell(self) -> int:
        """The position, a number that only ``seek`` understands: that of ``io.TextIOWrapper.tell``."""
        self.buffer._check_seekable()
        async with self._turn:
            return await self._tell()

    async def _tell(self) -> int:
        position = await self.buffer.tell()
        if self._chunk is None:
            return position
        flags, data = self._chunk
        return locate(self._decoder, position - len(data), flags, data, self._used).pack()

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to the start (0), the end (0, os.SEEK_END) or where ``tell`` has been.

        :raises io.UnsupportedOperation: any other offset from the position or the end.
        """
        self.buffer._check_seekable()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"unsupported whence ({whence})")
        if whence != os.SEEK_SET and offset:
            where = "cur" if whence == os.SEEK_CUR else "end"
            raise io.UnsupportedOperation(f"can't do nonzero {where}-relative seeks")
        if offset < 0:
            raise ValueError(f"negative seek position {offset}")
        async with self._turn:
            if whence == os.SEEK_CUR:
                offset = await self._tell()
            self._encoder = None
            if whence == os.SEEK_END:
                end = await self.buffer.seek(0, os.SEEK_END)
                self._forget()
                if self._decoder is not None:
                    self._decoder.reset()
                return end
            await self._go(Cookie.unpack(offset))
            return offset

    async def _go(self, cookie: Cookie) -> None:
        await self.buffer.seek(cookie.position)
        self._forget()
        if self._decoder is None:
            self._decoder = self._codec.decoder()
        if not cookie.position and not cookie.flags:
            self._decoder.reset()
        else:
            self._decoder.setstate((b"", cookie.flags))
        if cookie.skip:
            data = await self.buffer.read(cookie.feed)
            self._text = self._decode(data, cookie.final)
            self._chunk = (cookie.flags, data)
            if len(self._text) < cookie.skip:
                raise OSError(f"no such position in {self.name!r}: it has changed since tell()")
            self._used = cookie.skip

    # -- the end ---------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """See ``BinaryFile.close``."""
        await self.buffer.close()

    async def aclose(self) -> None:
        """The same as ``close``."""
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
