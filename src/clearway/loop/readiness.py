"""Waiting until a descriptor can be read or written, again and again, for those who move bytes past the transports.

On clearway's engines a *feed* is kept, which is registered once; on any other loop the descriptor is watched for the
time of each wait with what asyncio gives everybody.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from typing import Any

from clearway.engine.interface import Feed, FeedOwner


class Readiness(FeedOwner):
    """Readiness of a descriptor on a loop of clearway's.

    Readability is an edge: call ``arm`` *before* trying to read and ``wait_readable`` when the try failed; what
    arrives in between is not missed.
    """

    def __init__(self, loop: Any, fd: int) -> None:
        self._loop = loop
        self._reader = None
        self._writer = None
        self._feed: Feed = loop._engine.open_feed(fd, self, True, True)

    def arm(self) -> None:
        """From here on readiness counts."""
        self._feed.can_read = False

    def wait_readable(self) -> Future[None]:
        """A future for the moment there is something to read, an error or the end, since ``arm``."""
        future = self._loop.create_future()
        self._reader = future
        self._feed.start()
        return future  # type: ignore[no-any-return]

    def wait_writable(self) -> Future[None]:
        """A future for the moment the descriptor takes more, or never will."""
        future = self._loop.create_future()
        self._writer = future
        self._feed.wait_writable()
        return future  # type: ignore[no-any-return]

    def readable(self) -> None:
        self._feed.stop()
        future = self._reader
        self._reader = None
        if future is not None and not future.done():
            future.set_result(None)

    def writable(self) -> None:
        future = self._writer
        self._writer = None
        if future is not None and not future.done():
            future.set_result(None)

    def wake(self) -> None:
        """End all waits: the other side of what is going on has found a reason to stop."""
        self.readable()
        self.writable()

    def close(self) -> None:
        """Forget the descriptor, before it is closed."""
        self._feed.close()
        self.wake()


class WatchedReadiness:
    """The same on another event loop, by its ``add_reader`` and ``add_writer``."""

    def __init__(self, loop: AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._reader: Future[None] | None = None
        self._writer: Future[None] | None = None

    def arm(self) -> None:
        pass  # these loops watch levels

    def wait_readable(self) -> Future[None]:
        self._reader = future = self._loop.create_future()
        self._loop.add_reader(self._fd, self._settle_reader)
        return future

    def wait_writable(self) -> Future[None]:
        self._writer = future = self._loop.create_future()
        self._loop.add_writer(self._fd, self._settle_writer)
        return future

    def _settle_reader(self) -> None:
        self._loop.remove_reader(self._fd)  # of a cancelled wait, too, once it has fired
        future, self._reader = self._reader, None
        if future is not None and not future.done():
            future.set_result(None)

    def _settle_writer(self) -> None:
        self._loop.remove_writer(self._fd)
        future, self._writer = self._writer, None
        if future is not None and not future.done():
            future.set_result(None)

    def wake(self) -> None:
        self._settle_reader()
        self._settle_writer()

    def close(self) -> None:
        if self._fd >= 0:
            self.wake()
            self._fd = -1


def watch(loop: AbstractEventLoop, fd: int) -> Readiness | WatchedReadiness:
    """Readiness of ``fd`` on ``loop``, whichever kind of loop it is. Close it before the descriptor.

    :param fd: a socket or a pipe.
    """
    if hasattr(loop, "_engine"):
        return Readiness(loop, fd)
    return WatchedReadiness(loop, fd)
