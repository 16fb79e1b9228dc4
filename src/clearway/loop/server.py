"""Accepting: a listening socket's side of ``create_server``."""

from __future__ import annotations

import errno
import os
import socket
from asyncio import base_events, constants, trsock
from asyncio.log import logger
from contextvars import copy_context
from typing import Any

from clearway.engine.interface import Listener, ListenerOwner
from clearway.loop.errors import describe_socket_peer
from clearway.loop.remedies import find_remedy
from clearway.loop.transports.stream import StreamTransport

#: The process or the machine is out of something; accepting goes on after ``ACCEPT_RETRY_DELAY``.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


#: Connections accepted in one step before others get their turn: about 15 µs each.
ACCEPTS_PER_STEP = 64


class Acceptor(ListenerOwner):
    """Turns accepted connections into transports and introduces them to new protocols.

    :param backlog: as given to ``listen``; no more connections than this are taken in one step.
    """

    def __init__(
        self,
        loop: Any,
        protocol_factory: Any,
        sock: socket.socket,
        sslcontext: Any,
        server: Any,
        backlog: int,
        ssl_options: dict[str, Any],
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._sock = sock
        self._sslcontext = sslcontext
        self._server = server
        self._backlog = min(max(backlog, 1), ACCEPTS_PER_STEP)
        self._ssl_options = ssl_options
        # Each connection lives in a copy of the context in which serving began.
        self._context = copy_context()
        self._family = sock.family
        self._kind = sock.type
        self._proto = sock.proto
        self._listener: Listener = loop._engine.open_listener(sock, self)
        self._retry = None

    def start(self) -> None:
        self._retry = None
        if self._family in (socket.AF_INET, socket.AF_INET6):
            # Connections inherit it, which spares each of them the call.
            base_events._set_nodelay(self._sock)  # type: ignore[attr-defined]
        self._listener.start()

    def stop(self) -> None:
        """Stop listening. Connections the kernel handed over before are served, not dropped."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._listener.stop()
        self._server = None
        while True:
            try:
                fd = self._listener.accept()
            except OSError:
                break
            if fd < 0:
                break
            self._connect(fd)
        self._listener.close()

    def acceptable(self) -> None:
        for _ in range(self._backlog):
            try:
                fd = self._listener.accept()
            except OSError as exc:
                self._exhausted(exc)
                return
            if fd < 0:
                return
            self._connect(fd)
        self._listener.queue()

    def _exhausted(self, exc: OSError) -> None:
        if exc.errno in EXHAUSTED:
            self._loop.call_exception_handler(
                {
                    "message": "socket.accept() out of system resource",
                    "exception": exc,
                    "socket": trsock.TransportSocket(self._sock),  # type: ignore[attr-defined]
                    "remedy": find_remedy("accept", exc.errno),
                }
            )
            self._retry = self._loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
        else:
            # Errors of one connection that is gone again (accept(2)), or a socket closed under us.
            self._loop.call_exception_handler(
                {
                    "message": "socket.accept() failed",
                    "exception": exc,
                    "socket": trsock.TransportSocket(self._sock),  # type: ignore[attr-defined]
                }
            )
            if exc.errno not in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
                self._listener.start()

    def _connect(self, fd: int) -> None:
        loop = self._loop
        conn = None
        if self._sslcontext is not None or loop.get_debug():
            try:
                conn = socket.socket(self._family, self._kind, self._proto, fileno=fd)
            except BaseException:
                os.close(fd)
                raise
            conn.setblocking(False)
            if loop.get_debug():
                logger.debug("%r got a new connection: %r", self._server, conn)
        self._context.copy().run(self._introduce, fd, conn)

    def _introduce(self, fd: int, conn: socket.socket | None) -> None:
        """Give a connection its protocol and transport, which makes itself a socket object if it needs one."""
        loop = self._loop
        protocol = None
        try:
            if self._sslcontext is not None:
                loop.create_task(
                    loop._accept_connection2(
                        self._protocol_factory,
                        conn,
                        {},
                        self._sslcontext,
                        self._server,
                        **self._ssl_options,
                    )
                )
                return
            protocol = self._protocol_factory()
            transport = StreamTransport(loop, fd, conn, protocol, None)
        except (SystemExit, KeyboardInterrupt):
            _drop(fd, conn)
            raise
        except BaseException as exc:
            context: dict[str, Any] = {
                "message": "Error on transport creation for incoming connection",
                "exception": exc,
                "socket": trsock.TransportSocket(self._sock),  # type: ignore[attr-defined]
            }
            if conn is None:
                conn = socket.socket(fileno=fd)
            peer = describe_socket_peer(conn)
            conn.close()
            if peer:
                context["peer"] = peer
            if protocol is not None:
                context["protocol"] = protocol
            loop.call_exception_handler(context)
            return
        if self._server is not None:
            loop._attach_to_server(self._server, transport)
        loop.call_soon(transport._begin, None)


def _drop(fd: int, conn: socket.socket | None) -> None:
    """Close a connection that gets no transport."""
    if conn is None:
        os.close(fd)
    else:
        conn.close()
