"""One connection: from bytes to requests (httptools), and from answers to bytes, in order.

A task lives from the first request of a burst to its last answer, so a connection that is idle has none. What is due
and when (a head, the next request, progress in sending) the connection only tells its server, which has one timer
for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools

from clearway.cli.serve.answers import Answer, Request, refusal, status_line
from clearway.transfer import Transfer, send_file

if TYPE_CHECKING:
    from clearway.cli.serve.server import Server
    from clearway.cli.serve.waiting import Waiting

#: Bytes of a request's head: what nginx and Apache take by default, give or take.
HEAD_MAX = 16 * 1024
#: Bytes that a field counts for beside its own: they bound the number of fields, each of which is an object.
FIELD_OVERHEAD = 32
#: Pipelined requests that are taken ahead of their answers before reading stops.
AHEAD_MAX = 32

#: Fields that may not come twice, for two readers could believe different ones.
_SINGLE = (b"host", b"content-length")


class _Refused(Exception):
    """The request is refused while it is read; its ``error`` says how."""


class Connection(asyncio.Protocol):
    """The server's side of one connection.

    :ivar waiting: the list of the server in which it waits, or None.
    :ivar marks: what had been sent when it was looked at last.
    """

    __slots__ = (
        "_ahead",
        "_draining",
        "_eof",
        "_fields_size",
        "_head_size",
        "_lingering",
        "_loop",
        "_parser",
        "_paused",
        "_peer",
        "_progress",
        "_request",
        "_sent",
        "_server",
        "_stopped",
        "_task",
        "_transport",
        "marks",
        "waiting",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self._transport: Any = None
        self._parser: Any = None
        self._request: Request | None = None
        self._ahead: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._progress: Transfer | None = None
        self._draining: asyncio.Future[None] | None = None
        self._head_size = 0
        self._fields_size = 0
        self._sent = 0
        self._paused = False
        self._eof = False
        # No more requests are read; what comes is thrown away.
        self._stopped = False
        self._lingering = False
        self._peer = "-"
        self.waiting: Waiting | None = None
        self.marks = (0, 0, 0)

    # -- from the transport ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if peer:
            self._peer = str(peer[0])
        self._parser = httptools.HttpRequestParser(self)
        if self._server.admit(self):
            self._server.expect_head(self)
        else:
            self._refuse(503)
            self._begin()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stopped = True
        self._ahead.clear()
        if self._draining is not None and not self._draining.done():
            self._draining.set_result(None)
        self._parser = None  # refers back to us
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        if self._stopped:
            return
        self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing here to upgrade to: the request that asks for it is answered, the rest would not be HTTP.
            self._stop()
            if self._ahead:
                self._ahead[-1].keep_alive = False
        except httptools.HttpParserError as exc:
            # Also for what is behind a last request, and for a request that was refused by a callback.
            if not self._stopped:
                unknown = isinstance(exc, httptools.HttpParserInvalidMethodError)
                self._refuse(501 if unknown else 400)
        else:
            if self._head_size > HEAD_MAX and self._request is not None and not self._stopped:
                self._refuse(431)
        if self._ahead:
            self._begin()
        elif self._request is not None and self._task is None:
            self._server.expect_head(self)

    def eof_received(self) -> bool:
        self._eof = True
        if self._lingering or not (self._ahead or self._task):
            return False  # closes
        self._stop()
        return True

    def pause_writing(self) -> None:
        self._draining = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._draining is not None and not self._draining.done():
            self._draining.set_result(None)
        self._draining = None

    # -- from the parser -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._request = Request()
        self._fields_size = 0

    def on_url(self, url: bytes) -> None:
        assert self._request is not None
        self._request.target += url  # comes in as many parts as the segments of the network
        if len(self._request.target) > HEAD_MAX:
            self._refuse(414)
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._request is not None
        fields = self._request.fields
        self._fields_size += len(name) + len(value) + FIELD_OVERHEAD
        if self._fields_size > HEAD_MAX:
            self._refuse(431)
            raise _Refused
        name = name.lower()
        before = fields.get(name)
        if before is None:
            fields[name] = value
        elif name in _SINGLE:
            self._refuse(400)
            raise _Refused
        else:
            fields[name] = before + b", " + value

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        parser = self._parser
        request.method = parser.get_method()
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(505)
            raise _Refused
        request.minor = int(version[2:])
        request.keep_alive = parser.should_keep_alive()
        fields = request.fields
        if request.minor == 1 and b"host" not in fields:
            self._refuse(400)
            raise _Refused
        if fields.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in fields:
            # No resource here takes a body. Answered without reading it, and the connection ends.
            request.error = 413 if request.method in (b"GET", b"HEAD") else 405
            request.keep_alive = False
            self._take()
            raise _Refused

    def on_message_complete(self) -> None:
        self._take()

    def _take(self) -> None:
        """The request is complete."""
        assert self._request is not None
        self._ahead.append(self._request)
        if not self._request.keep_alive:
            self._stop()
        self._request = None
        self._head_size = 0
        if len(self._ahead) > AHEAD_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _refuse(self, status: int) -> None:
        """Answer ``status`` after what is to be answered before it, and read no more."""
        request = self._request or Request()
        self._request = None
        request.error = status
        request.keep_alive = False
        self._ahead.append(request)
        self._stop()

    def _stop(self) -> None:
        self._stopped = True

    # -- answering -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._task is None:
            self.marks = (0, 0, 0)
            self._server.expect_progress(self)
            self._task = self._loop.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        try:
            while self._ahead:
                request = self._ahead.popleft()
                if self._paused and len(self._ahead) <= AHEAD_MAX // 2:
                    self._paused = False
                    self._transport.resume_reading()
                keep = await self._answer(request)
                if not keep or self._server.closing:
                    self._ahead.clear()
                    self._linger()
                    return
                if not self._ahead:
                    self._task = None
                    if self._eof:
                        self._transport.close()
                    elif self._request is not None:
                        self._server.expect_head(self)
                    else:
                        self._server.expect_request(self)
                    return
        except ConnectionError:
            self._transport.abort()
        except Exception as exc:
            self._transport.abort()
            self._server.report(exc)
        finally:
            self._task = None

    async def _answer(self, request: Request) -> bool:
        """Answer one request; False when the connection ends with it."""
        began = self._loop.time()
        self._sent = 0
        try:
            answer = await self._server.site.answer(request)
        except OSError as exc:
            self._server.report(exc)
            answer = refusal(500)
        last = self._stopped and not self._ahead
        keep = request.keep_alive and not last and not self._server.closing
        try:
            await self._send(request, answer, keep)
        finally:
            if answer.file is not None:
                await answer.file.close()
            took = self._loop.time() - began
            self._server.log(self._peer, request, answer.status, self._sent, took)
        return keep

    async def _send(self, request: Request, answer: Answer, keep: bool) -> None:
        lines = [status_line(answer.status), self._server.common_lines(), answer.lines]
        if answer.length >= 0:
            lines.append(b"Content-Length: %d\r\n" % answer.length)
        if not keep:
            lines.append(b"Connection: close\r\n")
        elif request.minor == 0:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        transport = self._transport
        if transport.is_closing():
            raise ConnectionAbortedError("the client is gone")
        if answer.pieces and request.method != b"HEAD":
            await self._send_file(b"".join(lines), answer)
            return
        if request.method != b"HEAD":
            lines.append(answer.body)
            self._sent = len(answer.body)
        transport.write(b"".join(lines))
        while self._draining is not None:
            await self._draining

    async def _send_file(self, head: bytes, answer: Answer) -> None:
        transport = self._transport
        file = answer.file
        assert file is not None
        try:
            for before, start, length in answer.pieces:
                self._progress = progress = Transfer()
                try:
                    await send_file(
                        transport, file.fd, start, length, head=head + before, progress=progress
                    )
                finally:
                    self._sent += progress.moved
                if progress.moved < length:
                    # It has been truncated. What was promised cannot be kept, and the client must not miss that.
                    raise ConnectionAbortedError("the file became shorter")
                head = b""
            if answer.trailer:
                transport.write(answer.trailer)
        finally:
            self._progress = None

    def _linger(self) -> None:
        """End our side, and close when the client has ended its own: closing at once, with something of the client's
        unread, would make the kernel throw away what it has not yet delivered (RFC 9112, section 9.6)."""
        transport = self._transport
        if self._eof or transport.is_closing():
            transport.close()
            return
        self._stopped = self._lingering = True
        if self._paused:
            self._paused = False
            transport.resume_reading()
        transport.write_eof()
        self._server.expect_end(self)

    # -- from the server -------------------------------------------------------------------------------------

    @property
    def is_answering(self) -> bool:
        return self._task is not None

    def is_moving(self) -> bool:
        """Whether anything has been sent since this was asked last."""
        moved = self._progress.moved if self._progress is not None else 0
        before, self.marks = self.marks, (self._sent, moved, self._pending())
        return before != self.marks

    def _pending(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def head_overdue(self) -> None:
        """The head of a request has not come in time."""
        if self._request is None:
            self._transport.close()  # nothing has come at all
        else:
            self._refuse(408)
            self._begin()

    def end_overdue(self) -> None:
        """The client does not end its side."""
        if self._pending():
            self.marks = (0, 0, 0)
            self._server.expect_progress(self)
        else:
            self._transport.close()

    def progress_overdue(self) -> None:
        """Some time of sending is over: go on if anything has moved."""
        if not self.is_moving():
            self._transport.abort()
        elif self._lingering and not self._pending():
            self._transport.close()
        else:
            self._server.expect_progress(self)

    def close(self) -> None:
        """Nothing is under way: end it."""
        self._transport.close()

    def abort(self) -> None:
        """End it now."""
        self._transport.abort()
