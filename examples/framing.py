"""Two protocols parsed where the kernel put their bytes: length-prefixed messages, and the head of an HTTP/1.1 request.

    python examples/framing.py          # both, over a connection of its own, and what was copied

The parsers do no input or output: ``Frames`` is fed leases and gives leases, ``Head`` looks at one. What lies in one
received buffer is not copied; a message across two is, and the account says so.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import clearway
from clearway import streams
from clearway.buffers import Lease, Memory
from clearway.streams import ByteStream

PREFIX = struct.Struct("!I")


class Frames:
    """Messages of up to ``limit`` bytes, each after its length in four bytes, most significant first.

    :ivar copied: bytes of messages that did not arrive in one piece, and were copied into one.
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self._prefix = b""  # of a prefix, what has come
        self._body: bytearray | None = (
            None  # of a message that is not whole; its end is still to come
        )
        self._filled = 0
        self.copied = 0

    def feed(self, lease: Lease) -> Iterator[Lease]:
        """Take over what was received; gives a lease on each message that is whole now, for the caller to release.

        :raises ValueError: a message is longer than the limit. Nothing after it can be made sense of.
        """
        rest = lease
        try:
            while rest:
                if self._body is None:
                    have = len(self._prefix)
                    with rest.view as view:
                        self._prefix += view[: PREFIX.size - have]
                    rest = _after(rest, len(self._prefix) - have)
                    if len(self._prefix) < PREFIX.size:
                        break
                    (size,) = PREFIX.unpack(self._prefix)
                    self._prefix = b""
                    if size > self._limit:
                        raise ValueError(f"{size} bytes, where {self._limit} are allowed")
                    if len(rest) >= size:
                        message = rest[:size]
                        rest = _after(rest, size)
                        yield message
                        continue
                    self._body = bytearray(size)
                    self._filled = 0
                part = min(len(rest), len(self._body) - self._filled)
                with rest.view as view:
                    self._body[self._filled : self._filled + part] = view[:part]
                rest = _after(rest, part)
                self._filled += part
                self.copied += part
                if self._filled == len(self._body):
                    body, self._body = self._body, None
                    yield Memory(body).lend()
        finally:
            rest.release()

    def close(self) -> None:
        """Nothing more comes. :raises ValueError: it ends within a message."""
        if self._prefix or self._body is not None:
            raise ValueError("it ended within a message")


def _after(lease: Lease, count: int) -> Lease:
    """What comes after ``count`` bytes, in place of the whole."""
    rest = lease[count:]
    lease.release()
    return rest


class Head:
    """The head of a request, parsed in place: where each thing lies, copied only when it is asked for.

    :param lease: up to and including the empty line; it must live as long as this is used.
    :raises ValueError: it is not the head of an HTTP/1.1 request (RFC 9112, sections 3 and 5).
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        end = lease.find(b"\r\n")
        first = lease.find(b" ", 0, end)
        second = lease.find(b" ", first + 1, end)
        if first <= 0 or second <= first + 1 or self._text(second + 1, end) != "HTTP/1.1":
            raise ValueError(f"not a request: {self._text(0, min(end, 80))!r}")
        self._method = (0, first)
        self._target = (first + 1, second)
        self._fields: list[tuple[int, int, int]] = []
        while True:
            start = end + 2
            end = lease.find(b"\r\n", start)
            if end < 0:
                raise ValueError("the head has no end")
            if end == start:
                break
            colon = lease.find(b":", start, end)
            if colon <= start or lease.view[colon - 1] in b" \t" or lease.view[start] in b" \t":
                raise ValueError(f"not a field: {self._text(start, min(end, start + 80))!r}")
            self._fields.append((start, colon, end))

    def _text(self, start: int, end: int) -> str:
        return str(self._lease.view[start:end], "latin-1")

    @property
    def method(self) -> str:
        return self._text(*self._method)

    @property
    def target(self) -> str:
        return self._text(*self._target)

    def field(self, name: str) -> str | None:
        """The value of the field ``name``; None where there is none."""
        for start, colon, end in self._fields:
            if colon - start == len(name) and self._text(start, colon).lower() == name.lower():
                return self._text(colon + 1, end).strip(" \t")
        return None


async def echo_messages(stream: ByteStream) -> int:
    """Send each message back, from the memory it was received into; returns how many bytes were copied."""
    frames = Frames()
    async for lease in stream:
        for message in frames.feed(lease):
            with message:
                await stream.send_many([PREFIX.pack(len(message)), message])
    frames.close()
    return frames.copied


async def answer(stream: ByteStream) -> None:
    """One request, and an answer that shows that it was understood."""
    with await stream.receive_until(b"\r\n\r\n") as lease:
        head = Head(lease)
        text = f"{head.method} {head.target} of {head.field('host')}\n".encode()
    await stream.send_many(
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text), text]
    )


async def main() -> None:
    copied: list[int] = []
    ended = asyncio.Event()

    async def serve(stream: ByteStream) -> None:
        copied.append(await echo_messages(stream))
        ended.set()

    messages = [b"%d" % number * 1000 for number in range(200)]
    server = await streams.serve(serve, "127.0.0.1")
    async with await streams.connect(*server.addresses[0]) as stream:
        sending = asyncio.create_task(
            stream.send_many([part for m in messages for part in (PREFIX.pack(len(m)), m)])
        )
        for message in messages:
            with await stream.receive_exactly(PREFIX.size) as prefix:
                (size,) = PREFIX.unpack(prefix)
            with await stream.receive_exactly(size) as echo:
                assert echo.view == message
        await sending
        await stream.send_eof()
        await ended.wait()
    await server.aclose()
    total = sum(map(len, messages))
    print(
        f"{len(messages)} messages, {total:,} bytes echoed, {copied[0]:,} copied because they lay in two buffers"
    )

    server = await streams.serve(answer, "127.0.0.1")
    async with await streams.connect(*server.addresses[0]) as stream:
        await stream.send(b"GET /index.html HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n")
        with await stream.receive_until(b"\r\n\r\n") as head:
            size = int(bytes(head[head.find(b"Length: ") + 8 : head.find(b"\r\nConn")]))
        with await stream.receive_exactly(size) as body:
            print(bytes(body).decode(), end="")
    await server.aclose()


if __name__ == "__main__":
    clearway.run(main())
