"""What is answered: from a request and what its path leads to, to a head and the pieces of the body."""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus

from clearway.cli.serve import conditions, listing
from clearway.cli.serve.lookup import BadTarget, Found, Hidden, Root, path_of
from clearway.cli.serve.mediatypes import MediaTypes
from clearway.cli.serve.ranges import Unsatisfiable, parse_range
from clearway.kernel.fileio import pread_now
from clearway.loop.workers import in_worker

#: Bodies of files up to this size are read here and leave with the head in one piece; larger ones are sent by the
#: kernel. Copying this much costs a few microseconds, as does the system call that is saved.
SMALL = 32 * 1024

#: errno -> status, for what opening a path may fail with; 500 for the rest.
_STATUS = {
    errno.ENOENT: 404,
    errno.ENOTDIR: 404,
    errno.ENAMETOOLONG: 404,
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EXDEV: 403,  # leads out of the directory
    errno.ELOOP: 403,  # the same by another kind of link, or in circles
    errno.ENXIO: 403,  # a socket
    errno.ENODEV: 403,
    errno.EMFILE: 503,
    errno.ENFILE: 503,
    errno.ENOMEM: 503,
}

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Request:
    """One request, as far as files are concerned.

    :ivar fields: by lower-case names; fields that came several times are joined by commas.
    :ivar minor: of the version, HTTP/1.``minor``.
    :ivar keep_alive: the client is willing to go on.
    :ivar error: it is refused with this status before it is looked at; 0: it is not.
    """

    method: bytes = b""
    target: bytes = b""
    fields: dict[bytes, bytes] = field(default_factory=dict)
    minor: int = 1
    keep_alive: bool = True
    error: int = 0


@dataclass(slots=True)
class Answer:
    """An answer: ``status``, the header lines (each with its end), and a body, which is either ``body`` or
    ``pieces`` of ``file``: for each what goes before it, where it begins and how many bytes it has.

    :ivar length: of the whole body, in bytes; sent as Content-Length also where no body follows. -1: not sent.
    """

    status: int
    lines: bytes = b""
    body: bytes = b""
    file: Found | None = None
    pieces: tuple[tuple[bytes, int, int], ...] = ()
    length: int = -1
    trailer: bytes = b""


class Site:
    """What is served, and how.

    :param listings: directories without an index are listed.
    :param hidden: names that begin with a dot are served and listed.
    :param types: of the files.
    """

    def __init__(self, root: Root, types: MediaTypes, *, listings: bool, hidden: bool) -> None:
        self.root = root
        self._types = types
        self._listings = listings
        self._hidden = hidden

    async def answer(self, request: Request) -> Answer:
        """Find out what to answer. The caller closes its ``file``."""
        if request.error:
            return refusal(request.error)
        if request.method not in (b"GET", b"HEAD"):
            return refusal(405)
        try:
            path = path_of(request.target, hidden=self._hidden)
            found = await self.root.find(path)
        except BadTarget:
            return refusal(400)
        except Hidden:
            return refusal(404)
        except OSError as exc:
            return refusal(_STATUS.get(exc.errno or 0, 500))
        try:
            if found.is_directory:
                answer = await self._directory(request, found, path)
            elif not found.is_file:
                answer = refusal(403)
            elif path.endswith(b"/"):
                answer = refusal(404)
            else:
                answer = await self._file(request, found)
        except BaseException:
            await found.close()
            raise
        if answer.file is not found:
            await found.close()
        return answer

    async def _directory(self, request: Request, found: Found, path: bytes) -> Answer:
        if path and not path.endswith(b"/"):
            query = request.target.partition(b"?")[2]
            where = listing.location(path) + (b"?" + query if query else b"")
            return refusal(301, b"Location: " + where + b"\r\n")
        try:
            index = await self.root.find(path + b"index.html")
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                return refusal(_STATUS.get(exc.errno or 0, 500))
        else:
            try:
                if index.is_file:
                    return await self._file(request, index)
            except BaseException:
                await index.close()
                raise
            await index.close()
        if not self._listings:
            return refusal(403)
        try:
            body = await in_worker(self._list, found.fd, path)
        except OSError as exc:
            return refusal(_STATUS.get(exc.errno or 0, 500))
        kind = b"Content-Type: text/html; charset=utf-8\r\nCache-Control: no-cache\r\n"
        return Answer(200, kind, body, length=len(body))

    def _list(self, fd: int, path: bytes) -> bytes:
        return listing.render(self.root.fd, fd, path, hidden=self._hidden)

    async def _file(self, request: Request, found: Found) -> Answer:
        """The answer that is made of a file; ``found`` belongs to it, or is closed."""
        status = found.status
        size = status.st_size
        fields = request.fields
        etag = b'"%x-%x"' % (status.st_mtime_ns, size)
        modified = status.st_mtime_ns // 1_000_000_000
        lines = b"ETag: %b\r\nLast-Modified: %b\r\nAccept-Ranges: bytes\r\n" % (
            etag,
            conditions.http_date(modified),
        )
        condition = conditions.evaluate(fields, etag, modified)
        if condition:
            await found.close()
            if condition == conditions.NOT_MODIFIED:
                return Answer(304, lines)
            return refusal(condition, lines)
        kind = self._types.of(found.path).encode()
        ranges = None
        asked = fields.get(b"range")
        # Range is for GET alone (RFC 9110, section 14.2).
        if (
            asked is not None
            and request.method == b"GET"
            and conditions.range_holds(fields, etag, modified)
        ):
            try:
                ranges = parse_range(asked, size)
            except Unsatisfiable:
                await found.close()
                return refusal(416, b"Content-Range: bytes */%d\r\n" % size + lines)
        if ranges is None:
            answer = Answer(200, lines + b"Content-Type: %b\r\n" % kind)
            answer.pieces = ((b"", 0, size),)
            answer.length = size
        elif len(ranges) == 1:
            ((start, length),) = ranges
            lines += b"Content-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\n" % (
                kind,
                start,
                start + length - 1,
                size,
            )
            answer = Answer(206, lines, pieces=((b"", start, length),), length=length)
        else:
            answer = _multipart(lines, kind, ranges, size)
        answer.file = found
        if answer.length <= SMALL and len(answer.pieces) == 1 and request.method == b"GET":
            await _read_small(answer)
        return answer


async def _read_small(answer: Answer) -> None:
    """Read the body into memory. A file that is shorter than it was is left to be sent, where that is found out."""
    assert answer.file is not None
    ((_, start, length),) = answer.pieces
    fd = answer.file.fd
    data = pread_now(fd, length, start)
    if data is None:
        data = await in_worker(os.pread, fd, length, start)
    if len(data) == length:
        answer.body = data
        answer.pieces = ()
        await answer.file.close()
        answer.file = None


def _multipart(lines: bytes, kind: bytes, ranges: list[tuple[int, int]], size: int) -> Answer:
    """Several ranges (RFC 9110, section 14.6). What separates them is drawn anew, so no file can have it in it."""
    boundary = secrets.token_hex(16).encode()
    pieces = []
    total = 0
    for start, length in ranges:
        head = b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (
            boundary,
            kind,
            start,
            start + length - 1,
            size,
        )
        pieces.append((head, start, length))
        total += len(head) + length
    end = b"\r\n--%b--\r\n" % boundary
    lines += b"Content-Type: multipart/byteranges; boundary=%b\r\n" % boundary
    return Answer(206, lines, pieces=tuple(pieces), length=total + len(end), trailer=end)


def refusal(status: int, lines: bytes = b"") -> Answer:
    """An answer that says its status and no more."""
    body = f"{status} {_PHRASES[status]}\n".encode()
    lines += b"Content-Type: text/plain; charset=utf-8\r\n"
    if status == 405:
        lines += b"Allow: GET, HEAD\r\n"
    return Answer(status, lines, body, length=len(body))


def status_line(status: int) -> bytes:
    """With its end."""
    return _LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


_LINES = {status: f"HTTP/1.1 {status} {phrase}\r\n".encode() for status, phrase in _PHRASES.items()}
