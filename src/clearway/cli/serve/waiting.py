"""Who waits for what until when: lists in the order of their deadlines, one timer for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clearway.cli.serve.connection import Connection


class Waiting:
    """Connections that wait for the same thing, each for ``limit_s`` seconds: who came first is due first.

    :param overdue: called with each whose time is over; it is on no list then.
    """

    def __init__(self, limit_s: float, overdue: Callable[[Connection], object]) -> None:
        self._limit_s = limit_s
        self._overdue = overdue
        self._since: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: Connection, now: float) -> None:
        """From ``now`` on. One that is on this list already stays where it is."""
        if connection.waiting is self:
            return
        if connection.waiting is not None:
            connection.waiting.discard(connection)
        connection.waiting = self
        self._since[connection] = now

    def discard(self, connection: Connection) -> None:
        del self._since[connection]
        connection.waiting = None

    def first(self) -> Connection | None:
        """Who has waited longest."""
        return next(iter(self._since), None)

    def expire(self, now: float) -> None:
        while self._since:
            connection, since = next(iter(self._since.items()))
            if since + self._limit_s > now:
                return
            self.discard(connection)
            self._overdue(connection)
