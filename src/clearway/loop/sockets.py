"""The ``sock_*`` methods: try first, then wait by a one-shot poll and try again.

An operation is never submitted to the kernel here: a receive or an accept in flight would take bytes or a
connection out of the kernel that a cancelled caller could no longer be given. A step whose operations keep
completing inline yields to the others after ``core.INLINE_BUDGET`` of them.
"""

from __future__ import annotations

import errno
import io
import os
import socket
from asyncio import base_events, exceptions
from collections.abc import Awaitable, Callable
from select import EPOLLIN, EPOLLOUT
from typing import Any

from clearway.loop.readahead import Readahead
from clearway.loop.remedies import add_remedy
from clearway.steps import FutureStep

#: Bytes of one sendfile(2): some 0.25 ms of copying where both ends are on this machine.
SENDFILE_MAX = 1024 * 1024

CONNECTION_ERRORS = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN, errno.EBADF)


class SocketMethods:
    """``sock_*`` for the event loop."""

    _engine: Any
    _debug: bool

    async def _wait_ready(self, fd: int, mask: int) -> None:
        """Wait until ``fd`` is ready for ``mask`` (EPOLLIN, EPOLLOUT)."""
        future = self.create_future()  # type: ignore[attr-defined]
        poll = self._engine.poll(fd, mask, FutureStep(future))
        try:
            await future
        finally:
            poll.cancel()

    async def _pass_on(self) -> None:
        """Let the other ready steps run once if this one has had its share of inline completions."""
        if self._over_budget():  # type: ignore[attr-defined]
            future = self.create_future()  # type: ignore[attr-defined]
            self._add_step(FutureStep(future))  # type: ignore[attr-defined]
            await future

    def _check_socket(self, sock: socket.socket) -> int:
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        fd = sock.fileno()
        if fd >= 0:  # what is asked of a closed socket says itself that it is closed
            self._ensure_fd_no_transport(fd)  # type: ignore[attr-defined]
        return fd

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        fd = self._check_socket(sock)
        await self._pass_on()
        while True:
            try:
                return sock.recv(n)
            except (BlockingIOError, InterruptedError):
                await self._wait_ready(fd, EPOLLIN)

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        fd = self._check_socket(sock)
        await self._pass_on()
        while True:
            try:
                return sock.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                await self._wait_ready(fd, EPOLLIN)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        fd = self._check_socket(sock)
        await self._pass_on()
        while True:
            try:
                return sock.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                await self._wait_ready(fd, EPOLLIN)

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Any, nbytes: int = 0
    ) -> tuple[int, Any]:
        fd = self._check_socket(sock)
        if not nbytes:
            nbytes = len(buf)
        await self._pass_on()
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes)
            except (BlockingIOError, InterruptedError):
                await self._wait_ready(fd, EPOLLIN)

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        fd = self._check_socket(sock)
        await self._pass_on()
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if type(data) is bytes and sent == len(data):
            return
        with memoryview(data) as whole, whole.cast("B") as view:
            while sent < len(view):
                try:
                    sent += sock.send(view[sent:] if sent else view)
                except (BlockingIOError, InterruptedError):
                    await self._wait_ready(fd, EPOLLOUT)

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        fd = self._check_socket(sock)
        await self._pass_on()
        while True:
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                await self._wait_ready(fd, EPOLLOUT)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        fd = self._check_socket(sock)
        await self._pass_on()
        while True:
            try:
                conn, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                await self._wait_ready(fd, EPOLLIN)
            else:
                conn.setblocking(False)
                return conn, address

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if sock.family == socket.AF_INET or (
            base_events._HAS_IPv6 and sock.family == socket.AF_INET6  # type: ignore[attr-defined]
        ):
            resolved = await self._ensure_resolved(  # type: ignore[attr-defined]
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            _, _, _, _, address = resolved[0]
        fd = self._check_socket(sock)
        try:
            try:
                sock.connect(address)
                return
            except (BlockingIOError, InterruptedError) as exc:
                if exc.errno == errno.EAGAIN and sock.family == socket.AF_UNIX:
                    raise  # the server's queue is full: nothing is on its way, and nothing will tell when it has room
            await self._wait_ready(fd, EPOLLOUT)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, f"Connect call failed {address}")
        except OSError as exc:
            add_remedy(exc, "connect", address)
            raise

    # -- sendfile ------------------------------------------------------------------------------------------

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        fd = sock.fileno()
        return await self._send_file(
            fd, file, offset, count, lambda: self._wait_ready(fd, EPOLLOUT)
        )

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        self._check_sendfile_params(transp._sock, file, offset, count)  # type: ignore[attr-defined]
        drained = transp._make_empty_waiter()
        resume = transp.is_reading()
        transp.pause_reading()
        try:
            await drained
            return await self._send_file(
                transp._sock_fd, file, offset, count, transp._wait_writable, transp
            )
        finally:
            transp._reset_empty_waiter()
            if resume:
                transp.resume_reading()

    async def _send_file(
        self,
        fd: int,
        file: Any,
        offset: int,
        count: int | None,
        wait: Callable[[], Awaitable[None]],
        transport: Any = None,
    ) -> int:
        """sendfile(2) until ``count`` bytes or the end of the file; the file's position ends behind them."""
        try:
            source = file.fileno()
        except (AttributeError, io.UnsupportedOperation) as exc:
            raise exceptions.SendfileNotAvailableError("not a regular file") from exc
        try:
            size = os.fstat(source).st_size
        except OSError as exc:
            raise exceptions.SendfileNotAvailableError("not a regular file") from exc
        if not (count if count else size):
            return 0
        ahead = Readahead(source, size)
        sent = 0
        try:
            while count is None or sent < count:
                room = ahead.room(offset + sent)
                if not room:
                    await ahead.fetch(offset + sent)
                    self._check_sending(transport)
                    continue
                part = min(SENDFILE_MAX, room if count is None else min(room, count - sent))
                try:
                    n = os.sendfile(fd, source, offset + sent, part)
                except (BlockingIOError, InterruptedError):
                    await wait()
                    self._check_sending(transport)
                    continue
                except OSError as exc:
                    if not sent and exc.errno not in CONNECTION_ERRORS:
                        # This pair of descriptors cannot do it: the loop falls back to reading and writing.
                        raise exceptions.SendfileNotAvailableError(
                            "os.sendfile call failed"
                        ) from exc
                    if exc.errno == errno.ENOTCONN:
                        raise ConnectionError("socket is not connected", errno.ENOTCONN) from exc
                    raise
                if n == 0:
                    break
                sent += n
                await self._pass_on()
        finally:
            if sent:
                os.lseek(source, offset + sent, os.SEEK_SET)
        return sent

    def _check_sending(self, transport: Any) -> None:
        """While we waited the transport may have closed its descriptor, and another file be using the number."""
        if transport is not None and transport._conn_lost:
            raise ConnectionError("the connection was lost during sendfile")
