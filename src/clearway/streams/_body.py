"""What a byte stream stands on: an engine's stream here; a foreign loop's socket or a transport elsewhere.

A body has bytes to take (``receive``) and takes bytes (``write``), neither of them waiting; it tells its ``Front``, the
stream that users see, when there is more to take and when some of what it took has left. All that has to do with
tasks and waiting is the front's.
"""

from __future__ import annotations

import socket
from typing import Any

from clearway.buffers.account import Account
from clearway.buffers.lease import Lease
from clearway.engine.interface import Stream, StreamOwner


class Front:
    """What a body reports to. None of these run user code."""

    def input_ready(self) -> None:
        """There is something to receive, or the end of it, or it is worth a try."""

    def output_moved(self) -> None:
        """Some of what was pending has left. Only heard after ``Body.await_output(True)``."""

    def output_failed(self, exc: BaseException) -> None:
        """Sending failed for good."""


class Body(StreamOwner):
    """One connection.

    :ivar received: its account of what was received. :ivar sent: of what was sent.
    """

    def __init__(self, received: Account | None, sent: Account | None) -> None:
        self.front: Front = Front()
        self.received = Account("receive", received)
        self.sent = Account("send", sent)

    def start(self) -> None:
        """Begin to receive."""

    def receive(self) -> Lease | bytes | None:
        """A lease on what has arrived; b"" at the end; None for nothing yet.

        :raises OSError: the connection is broken.
        """
        raise NotImplementedError

    def stop_input(self) -> None:
        """The end has been received: nothing more will come."""

    def write(self, piece: bytes | Lease) -> None:
        """Send ``piece``; a lease is the body's from here on.

        :raises OSError: the connection is broken.
        """
        raise NotImplementedError

    def write_many(self, pieces: list[bytes | Lease]) -> None:
        """Send several pieces by one call of the kernel where there is one."""
        raise NotImplementedError

    def pending(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        raise NotImplementedError

    def flush(self) -> None:
        """Offer what is pending to the kernel now.

        :raises OSError: the connection is broken.
        """

    def await_output(self, wanted: bool) -> None:
        """Whether the front wants to hear when output leaves."""

    def check_can_end(self) -> None:
        """:raises NotImplementedError: it cannot end one direction only."""

    def end_output(self) -> None:
        """Tell the other side that nothing more will come. Only called when nothing is pending."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection, for good. Only called when nothing is pending that could be sent."""
        raise NotImplementedError

    def abort(self) -> None:
        """The same at once, and what is pending is lost."""
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the method of asyncio's transports."""
        return default

    def counts(self) -> tuple[int, int]:
        """Buffers that readers hold, and how often one was copied because too many were held."""
        return (0, 0)


class EngineBody(Body):
    """A connected socket on an engine of clearway's: its buffers are handed out as they are."""

    def __init__(self, loop: Any, sock: socket.socket) -> None:
        engine = loop._engine
        Body.__init__(self, engine.received, engine.sent)
        loop._ensure_fd_no_transport(sock)
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._stream: Stream = engine.open_stream(self._fd, self)
        self._stream.received = self.received
        self._stream.sent = self.sent
        loop._transports[self._fd] = self

    def is_closing(self) -> bool:
        """What the loop asks whatever it has in its table of transports."""
        return self._sock is None

    def start(self) -> None:
        self._stream.start_lending()
        self._stream.start_reading()

    def receive(self) -> Lease | bytes | None:
        return self._stream.receive_lease()

    def stop_input(self) -> None:
        self._stream.stop_reading()

    def write(self, piece: bytes | Lease) -> None:
        if isinstance(piece, bytes):
            self._stream.write(piece)
        else:
            self._stream.write_lease(piece)

    def write_many(self, pieces: list[bytes | Lease]) -> None:
        self._stream.write_pieces(pieces)

    def pending(self) -> int:
        return self._stream.pending

    def flush(self) -> None:
        self._stream.flush()

    def await_output(self, wanted: bool) -> None:
        self._stream.awaited = wanted

    def end_output(self) -> None:
        assert self._sock is not None
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        sock = self._sock
        if sock is not None:
            self._sock = None
            self._loop._transports.pop(self._fd, None)
            self._stream.close()
            sock.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return socket_info(self._sock, name, default)

    def counts(self) -> tuple[int, int]:
        return (self._stream.lent, self._stream.fallbacks)

    # -- from the engine -------------------------------------------------------------------------------------

    def readable(self) -> None:
        self.front.input_ready()

    def progress(self) -> None:
        self.front.output_moved()

    def broken(self, exc: OSError) -> None:
        self.front.output_failed(exc)


def socket_info(sock: socket.socket | None, name: str, default: Any) -> Any:
    """What a transport over ``sock`` would tell of it."""
    if sock is None:
        return default
    if name == "socket":
        return sock
    try:
        if name == "sockname":
            return sock.getsockname()
        if name == "peername":
            return sock.getpeername()
    except OSError:
        pass  # the other side is gone already
    return default
