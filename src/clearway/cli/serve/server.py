"""The server: its sockets, its connections, their deadlines, and a way to end it."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
import traceback
from dataclasses import dataclass

from clearway import __version__
from clearway.cli.serve.answers import Request, Site
from clearway.cli.serve.conditions import http_date
from clearway.cli.serve.connection import Connection
from clearway.cli.serve.log import AccessLog
from clearway.cli.serve.waiting import Waiting

#: Seconds between two looks at the deadlines: what they may be late by.
SWEEP_S = 1.0
#: Seconds for a client to end its side after the last answer (nginx's lingering_timeout is 5).
LINGER_S = 2.0
#: Connections above the limit that are told so; more are cut.
REFUSED_MAX = 64
#: Descriptors of a connection that is being sent a file: its own, that and the file's.
DESCRIPTORS_EACH = 3
#: Descriptors kept for all else.
DESCRIPTORS_KEPT = 64


@dataclass(frozen=True)
class Limits:
    """What a client may keep the server waiting for, in seconds, and how many connections there may be."""

    head_s: float = 10.0
    idle_s: float = 60.0
    send_s: float = 30.0
    grace_s: float = 10.0
    connections: int = 0


def raise_descriptor_limit() -> int:
    """Have as many descriptors as the system allows; returns how many connections they are enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    return max(1, (soft - DESCRIPTORS_KEPT) // DESCRIPTORS_EACH)


class Server:
    """Serves a site until it is told to stop. Belongs to the running loop.

    :ivar closing: it has been told to: connections end with the answer that is on its way.
    """

    def __init__(self, site: Site, limits: Limits, log: AccessLog | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.site = site
        self.closing = False
        self._limits = limits
        self._log = log
        self._listening: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._none_left = asyncio.Event()
        self._heads = Waiting(limits.head_s, Connection.head_overdue)
        self._idle = Waiting(limits.idle_s, Connection.close)
        self._progress = Waiting(limits.send_s, Connection.progress_overdue)
        self._ends = Waiting(LINGER_S, Connection.end_overdue)
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._lines = b""

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self, host: str | None, port: int) -> list[tuple[str, int]]:
        """Listen; returns the addresses.

        :raises OSError: the address cannot be had.
        """
        self._listening = await self.loop.create_server(
            lambda: Connection(self), host, port, backlog=1024
        )
        self._sweep()
        return [sock.getsockname()[:2] for sock in self._listening.sockets]

    async def stop(self) -> None:
        """Listen no more, end what is idle, let answers on their way be finished for ``grace_s``, then cut."""
        assert self._listening is not None
        self.closing = True
        self._listening.close()
        for connection in list(self._connections):
            if not connection.is_answering:
                connection.close()
        try:
            async with asyncio.timeout(self._limits.grace_s):
                await self._empty()
        except TimeoutError:
            self.cut()
            await self._empty()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def cut(self) -> None:
        """End all connections now."""
        for connection in [*self._connections, *self._refused]:
            connection.abort()

    async def _empty(self) -> None:
        while self._connections or self._refused:
            self._none_left.clear()
            await self._none_left.wait()

    def _sweep(self) -> None:
        now = self.loop.time()
        for waiting in (self._heads, self._idle, self._progress, self._ends):
            waiting.expire(now)
        self._timer = self.loop.call_later(SWEEP_S, self._sweep)

    # -- from the connections ----------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, if need be in the place of the one that has been idle longest."""
        if len(self._connections) >= self._limits.connections:
            idle = self._idle.first()
            if idle is None:
                self._refused.add(connection)
                if len(self._refused) > REFUSED_MAX:
                    connection.abort()
                return False
            self._idle.discard(idle)
            self._connections.discard(idle)
            self._refused.add(idle)
            idle.close()
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """It has ended."""
        self._connections.discard(connection)
        self._refused.discard(connection)
        if connection.waiting is not None:
            connection.waiting.discard(connection)
        if not self._connections and not self._refused:
            self._none_left.set()

    def expect_head(self, connection: Connection) -> None:
        """The rest of a request's head."""
        self._heads.add(connection, self.loop.time())

    def expect_request(self, connection: Connection) -> None:
        """The next request."""
        self._idle.add(connection, self.loop.time())

    def expect_progress(self, connection: Connection) -> None:
        """That the client takes what it is sent."""
        self._progress.add(connection, self.loop.time())

    def expect_end(self, connection: Connection) -> None:
        """That the client ends the connection."""
        self._ends.add(connection, self.loop.time())

    def common_lines(self) -> bytes:
        """The header lines of every answer."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._lines = (
                b"Server: clearway/%b\r\nDate: %b\r\nX-Content-Type-Options: nosniff\r\n"
                % (__version__.encode(), http_date(second))
            )
        return self._lines

    def log(self, peer: str, request: Request, status: int, sent: int, took_s: float) -> None:
        """One request has been answered."""
        if self._log is not None:
            self._log.write(peer, request, status, sent, took_s)

    def report(self, exc: Exception) -> None:
        """Something went wrong that is not the client's fault."""
        if self._log is not None:
            self._log.complain("".join(traceback.format_exception(exc)))
        else:
            traceback.print_exception(exc, file=sys.stderr)
