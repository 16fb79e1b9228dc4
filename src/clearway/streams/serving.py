"""Serving streams: a task per connection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl as ssl_module
import stat
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any

from clearway.streams.errors import StreamBroken
from clearway.streams.opening import _open
from clearway.streams.stream import ByteStream

Handler = Callable[[ByteStream], Awaitable[Any]]

#: The process or the machine is out of something; accepting goes on after a second, as in asyncio.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_RETRY_S = 1.0


class StreamServer:
    """What ``serve`` returns: it accepts until it is closed. ``async with server`` closes it at the end of the block.

    :ivar sockets: those it listens on. :ivar handled: connections accepted so far.
    """

    def __init__(
        self,
        handler: Handler,
        sockets: list[socket.socket],
        ssl: ssl_module.SSLContext | None,
        path: str | bytes | None,
    ) -> None:
        self.sockets = sockets
        self.handled = 0
        self._handler = handler
        self._ssl = ssl
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fresh: set[socket.socket] = set()  # accepted, and its task has not begun
        self._closed = asyncio.Event()
        self._acceptors = [self._loop.create_task(self._accept(sock)) for sock in sockets]

    def __repr__(self) -> str:
        state = "closed" if self._closed.is_set() else f"on {self.addresses}"
        return f"<StreamServer {state}, {len(self._tasks)} connections>"

    @property
    def addresses(self) -> list[Any]:
        """Where it listens."""
        return [sock.getsockname() for sock in self.sockets]

    @property
    def connections(self) -> int:
        """Connections whose handlers run."""
        return len(self._tasks)

    async def serve_forever(self) -> None:
        """Wait until it is closed; when cancelled, close it."""
        try:
            await self._closed.wait()
        finally:
            await self.aclose()

    def close(self) -> None:
        """Accept no more. Connections that are there go on."""
        if self._closed.is_set():
            return
        self._closed.set()
        for task in self._acceptors:
            task.cancel()
        if isinstance(self._path, str) and not self._path.startswith("\0"):
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass

    async def aclose(self, *, cancel: bool = True) -> None:
        """Accept no more and end: when it returns, all handlers have.

        :param cancel: cancel the handlers that run, instead of waiting for them to come to their end.
        """
        self.close()
        await asyncio.gather(*self._acceptors, return_exceptions=True)
        tasks = list(self._tasks)
        if cancel:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._fresh:  # cancelled before they began
            self._fresh.pop().close()

    async def __aenter__(self) -> StreamServer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _accept(self, sock: socket.socket) -> None:
        with sock:
            while True:
                try:
                    conn, _ = await self._loop.sock_accept(sock)
                except OSError as exc:
                    if exc.errno not in EXHAUSTED:
                        raise
                    self._report("accept() out of system resource", exc)
                    await asyncio.sleep(ACCEPT_RETRY_S)
                    continue
                self.handled += 1
                self._fresh.add(conn)
                task = self._loop.create_task(self._handle(conn))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _handle(self, conn: socket.socket) -> None:
        self._fresh.discard(conn)
        try:
            stream = await _open(conn, self._ssl, None, True)
            async with stream:
                await self._handler(stream)
        except StreamBroken:
            pass  # the client has gone: nobody is left to be told
        except Exception as exc:
            self._report("the handler of a stream failed", exc)

    def _report(self, message: str, exc: Exception) -> None:
        self._loop.call_exception_handler({"message": message, "exception": exc})


async def serve(
    handler: Handler,
    host: str | Iterable[str] | None = None,
    port: int = 0,
    *,
    backlog: int = 128,
    reuse_port: bool = False,
    ssl: ssl_module.SSLContext | None = None,
) -> StreamServer:
    """Listen on TCP and run ``await handler(stream)`` in a task for each connection; then the stream is closed.

    A handler that raises is reported to the loop's exception handler, except for ``StreamBroken``: a client that goes
    away is no error of the server's.

    :param host: names or addresses to listen on. Default: all interfaces.
    :param port: 0 lets the kernel choose; the same number is used for every address. See ``server.addresses``.
    :param backlog: connections that may wait to be accepted.
    :param reuse_port: let other processes listen on the same port and share the connections.
    :param ssl: a context makes it TLS, whose bytes are copied by the encryption, and counted.
    :raises OSError: an address cannot be had. :raises TypeError: the handler is not callable.
    """
    if not callable(handler):
        raise TypeError(f"the handler must be an async function of one stream, got {handler!r}")
    loop = asyncio.get_running_loop()
    hosts: list[str | None] = [host] if host is None or isinstance(host, str) else list(host)
    found: dict[tuple[Any, ...], None] = {}
    for name in hosts:
        for family, _, proto, _, address in await loop.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            found[(family, proto, address)] = None
    sockets: list[socket.socket] = []
    try:
        for family, proto, address in found:
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_listen(family, proto, address, backlog, reuse_port))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return StreamServer(handler, sockets, ssl, None)


async def serve_unix(
    handler: Handler,
    path: str | bytes,
    *,
    backlog: int = 128,
    ssl: ssl_module.SSLContext | None = None,
) -> StreamServer:
    """The same on a Unix socket. A socket that a dead server left at ``path`` is replaced; it is removed at the end.

    :raises OSError: the path is taken by something that is not a socket, or cannot be made.
    """
    if not callable(handler):
        raise TypeError(f"the handler must be an async function of one stream, got {handler!r}")
    if path[:1] not in ("\0", b"\0"):
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.remove(path)
        except FileNotFoundError:
            pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return StreamServer(handler, [sock], ssl, path)


def _listen(family: int, proto: int, address: Any, backlog: int, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
