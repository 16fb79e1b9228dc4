"""What turns bytes into text and back, exactly as ``io.TextIOWrapper`` does.

Encoding is left to a TextIOWrapper around a sink in memory: so byte-order marks, error handlers and newlines are its
own. Decoding cannot be: it must be able to stop for the disk in the middle of a line. It uses the standard library's
incremental decoders, put together as TextIOWrapper does.
"""

from __future__ import annotations

import codecs
import io
from typing import Any, NamedTuple


class TextCodec:
    """Encoding, error handler and newline of a text file, with defaults filled in.

    :raises LookupError: an encoding or error handler that does not exist, or no text encoding.
    :raises ValueError: a newline that is none.
    """

    def __init__(self, encoding: str | None, errors: str | None, newline: str | None) -> None:
        # The one who knows all the rules says what is wrong and what the defaults are.
        wrapper = io.TextIOWrapper(io.BytesIO(), io.text_encoding(encoding, 3), errors, newline)
        self.encoding = wrapper.encoding
        self.errors: str = wrapper.errors or "strict"
        self.newline = newline

    def decoder(self) -> Any:
        """A new incremental decoder."""
        decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if not self.newline:
            decoder = io.IncrementalNewlineDecoder(decoder, translate=self.newline is None)
        return decoder

    def end_of_line(self, text: str, start: int) -> int:
        """The index behind the first line end in ``text[start:]``, -1 for none."""
        if self.newline == "":
            found = [at for at in (text.find("\n", start), text.find("\r", start)) if at >= 0]
            if not found:
                return -1
            at = min(found)
            return at + 2 if text.startswith("\r\n", at) else at + 1
        mark = self.newline or "\n"
        at = text.find(mark, start)
        return -1 if at < 0 else at + len(mark)


class Encoder:
    """Encodes what is written to a file.

    :param position: where in the file it begins: not at 0, no byte-order mark is written.
    """

    def __init__(self, codec: TextCodec, position: int) -> None:
        self._sink = _Sink(position)
        self._wrapper = io.TextIOWrapper(  # type: ignore[type-var]
            self._sink, codec.encoding, codec.errors, codec.newline
        )

    def encode(self, text: str) -> bytes:
        """The bytes of ``text``.

        :raises UnicodeEncodeError: the error handler does not allow one of its characters.
        """
        self._wrapper.write(text)
        self._wrapper.flush()
        parts = self._sink.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data


class _Sink(io.BufferedIOBase):
    """Takes what a TextIOWrapper writes."""

    def __init__(self, position: int) -> None:
        self.parts: list[bytes] = []
        self._position = position

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any, /) -> int:
        self.parts.append(bytes(data))
        return len(data)


class Cookie(NamedTuple):
    """Where a decoder has to start, and what it has to be fed and to skip, to be at a position in text.

    It packs into the integers that ``io.TextIOWrapper.tell`` gives.

    :ivar position: bytes from the start of the file.
    :ivar flags: state of the decoder there.
    :ivar feed: bytes to decode from there.
    :ivar skip: characters of these to skip.
    :ivar final: the end of the file follows them.
    """

    position: int
    flags: int = 0
    feed: int = 0
    skip: int = 0
    final: bool = False

    def pack(self) -> int:
        """The position in the low 64 bits: a plain position where that is enough."""
        return (
            self.position
            | self.flags << 64
            | self.feed << 96
            | self.skip << 128
            | int(self.final) << 160
        )

    @classmethod
    def unpack(cls, packed: int) -> Cookie:
        """The inverse of ``pack``."""
        flags, feed, skip = (packed >> shift & 0xFFFFFFFF for shift in (64, 96, 128))
        return cls(packed & 0xFFFFFFFFFFFFFFFF, flags, feed, skip, bool(packed >> 160))


def locate(decoder: Any, start: int, flags: int, data: bytes, used: int) -> Cookie:
    """The cookie of the position ``used`` characters into what ``data`` decodes to.

    :param decoder: left in the state it is found in.
    :param start: position of ``data`` in the file. :param flags: the decoder's state there.
    :raises OSError: ``data`` does not decode to so many characters.
    """
    if not used:
        return Cookie(start, flags)
    saved = decoder.getstate()
    try:
        # A byte at a time, remembering the last point at which the decoder held nothing back.
        decoder.setstate((b"", flags))
        safe = Cookie(start, flags, 0, used)
        seen = 0
        for index in range(len(data)):
            seen += len(decoder.decode(data[index : index + 1]))
            held, state = decoder.getstate()
            if not held and seen <= used:
                safe = Cookie(start + index + 1, state, 0, used - seen)
            if seen >= used:
                break
        else:
            seen += len(decoder.decode(b"", True))
            if seen < used:
                raise OSError("the position cannot be told: the decoder gives other text now")
            return safe._replace(feed=start + len(data) - safe.position, final=True)
        return safe._replace(feed=start + index + 1 - safe.position)
    finally:
        decoder.setstate(saved)
