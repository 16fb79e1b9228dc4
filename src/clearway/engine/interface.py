"""The engine as the loop sees it: completions in, completions out, whatever the kernel offers.

An engine owns *streams* (connected byte-stream sockets), *listeners*, *feeds* (readiness of other descriptors)
and one-shot *polls*. What completes is
queued as a step on ``ready``; nothing here calls user code while it reaps. When the step's turn comes it tells
its owner (a transport), and the owner pulls: ``receive()`` hands out what has arrived, ``accept()`` a connection.
Pulling lets both engines share one owner: under io_uring the data is there already, under epoll it is tried for.

Every state change is made *before* the owner is called: the owner may run user code, and user code may be
suspended mid-function while another runner re-enters the engine.
"""

from __future__ import annotations

import os
from typing import Any

from clearway.buffers.account import Account
from clearway.buffers.lease import Lease
from clearway.engine.operations import FileOperation
from clearway.steps import Step

READABLE = 1
WRITABLE = 2
#: Leases have been sent and are to be released: in a step, because that may run other people's code.
SPENT = 4

# C integers when compiled (interface.pxd); the names above are what other modules import.
_READABLE = READABLE
_WRITABLE = WRITABLE
_SPENT = SPENT

#: Bytes taken from a socket in one receive; asyncio's selector transports use the same.
RECEIVE_SIZE = 256 * 1024


class StreamOwner:
    """What a stream reports to. Each method is called from a step, never while reaping."""

    def context(self) -> Any:
        """The ``contextvars.Context`` of the user code it calls."""
        return None

    def readable(self) -> None:
        """There is something to receive, or the end of it."""

    def progress(self) -> None:
        """The kernel has taken some or all of what was pending."""

    def broken(self, exc: OSError) -> None:
        """Writing failed for good."""


_NOBODY = StreamOwner()


class ListenerOwner:
    """What a listener reports to."""

    def acceptable(self) -> None:
        """Connections may be waiting."""


class Stream(Step):
    """A connected byte-stream socket: the engine's half of a transport. It does not own the descriptor.

    :ivar pending: bytes written that the kernel has not taken yet.
    :ivar awaited: the owner waits for the output to drain and wants to hear of it (``StreamOwner.progress``)
        even where the engine would not have to wait.
    :ivar lending: it hands out leases, and only when asked: what nobody asks for stays where it is.
    :ivar lent: received buffers that its readers hold.
    :ivar fallbacks: times a received buffer was copied because too many were lent already.
    :ivar received: what was received, and how much of it was copied on the way. :ivar sent: the same for sending.
    :ivar busy: how many calls of the owner's into user code have not returned. While one is suspended, nothing else
        is told; more than one where the other began in somebody else's step (``pause_writing``).
    :ivar last: a step to queue once it is no longer busy: the owner's last one.
    """

    def __init__(self, fd: int, owner: StreamOwner, engine: Engine) -> None:
        self.fd = fd
        self.owner = owner
        self.ready = engine.ready
        self.received = engine.received
        self.sent = engine.sent
        self.lending = False
        self.lent = 0
        self.fallbacks = 0
        self.spent: list[Lease] | None = None
        self.reading = False
        self.queued = False
        self.busy = 0
        self.closed = False
        self.events = 0
        # Only while something is pending: most connections are idle, and an empty list is 64 bytes.
        self.out: list[bytes | Lease] | None = None
        self.out_head = 0
        self.out_offset = 0
        self.pending = 0
        self.awaited = False
        self.last: Step | None = None

    def context(self) -> Any:
        return self.owner.context()

    def enter(self) -> None:
        """A call of the owner's into user code begins that does not come from ``run``: nothing else is told
        meanwhile, though the call be suspended."""
        self.busy += 1

    def leave(self) -> None:
        """It is over: go on with what came meanwhile."""
        self.busy -= 1
        if self.busy:
            return
        if self.last is not None:
            self.ready.append(self.last)
            self.last = None
        if self.events and not self.closed:
            self.queue(0)

    def run(self) -> None:
        self.queued = False
        if self.busy:
            return  # suspended inside the owner: what came meanwhile is looked at when it returns
        self.busy += 1
        try:
            if self.events & _WRITABLE:
                self.events &= ~_WRITABLE
                self.on_writable()
            if self.events & _READABLE:
                self.events &= ~_READABLE
                if self.reading:
                    self.owner.readable()
                    if self.reading and not self.lending and self.has_more():
                        self.events |= _READABLE
            if self.events & _SPENT:
                self.release_spent()
        finally:
            self.leave()

    def part(self) -> None:
        """Closed: the owner hears of nothing any more. The two would keep each other until a collection."""
        self.owner = _NOBODY

    def queue(self, events: int) -> None:
        """Note what happened and queue this step unless it is queued already."""
        self.events |= events
        if not self.queued:
            self.queued = True
            self.ready.append(self)

    def again(self) -> None:
        """Call ``StreamOwner.readable`` once more, in a step of its own."""
        self.queue(_READABLE)

    def let_go(self) -> None:
        """Hold no reference on it: the end has been read, and no output waits. Writing goes on as before."""

    def announce_progress(self) -> None:
        """Call ``StreamOwner.progress`` in a step of its own."""
        self.queue(_WRITABLE)

    def output(self) -> list[bytes | Lease]:
        """What is pending, made if there is nothing yet."""
        if self.out is None:
            self.out = []
        return self.out

    def take_out(self, count: int) -> None:
        """Drop ``count`` bytes that the kernel took from the front of the output."""
        self.pending -= count
        self.sent.add(count, 0)
        out = self.output()
        count += self.out_offset
        head = self.out_head
        total = len(out)
        while head < total:
            piece = out[head]
            if type(piece) is bytes:
                chunk = piece
                size = len(chunk)
            else:
                size = len(piece)
            if count < size:
                break
            count -= size
            head += 1
            if type(piece) is not bytes:
                self.retire(piece)
        self.out_offset = count
        if head == total:
            self.out = None
            head = 0
        elif head >= 64:
            del out[:head]
            head = 0
        self.out_head = head

    def clear_out(self) -> None:
        out = self.out
        self.out = None
        if out:
            for piece in out[self.out_head :]:
                if type(piece) is not bytes:
                    self.retire(piece)
        self.out_head = 0
        self.out_offset = 0
        self.pending = 0

    def retire(self, piece: Any) -> None:
        """The kernel has done with a lease of the output: it is released in a step, or at the next receive or send."""
        if self.spent is None:
            self.spent = []
        self.spent.append(piece)
        self.queue(_SPENT)

    def release_spent(self) -> None:
        """Release the leases of the output that the kernel has done with. May run other people's code."""
        self.events &= ~_SPENT
        spent = self.spent
        self.spent = None
        if spent is not None:
            for lease in spent:
                lease.release()

    def on_writable(self) -> None:
        raise NotImplementedError

    def has_more(self) -> bool:
        """Whether ``receive()`` may yield more right now."""
        raise NotImplementedError

    def start_reading(self) -> None:
        """Ask for completions of received data."""
        raise NotImplementedError

    def stop_reading(self) -> None:
        """Stop; when this returns nothing is in flight, and what was received waits for the next reader."""
        raise NotImplementedError

    def set_direct(self, direct: bool) -> None:
        """Choose between received buffers (False) and receiving into the reader's own memory (True)."""
        raise NotImplementedError

    def receive(self) -> bytes | None:
        """What has arrived; b"" at end of file; None for nothing yet.

        :raises OSError: the connection is broken.
        """
        raise NotImplementedError

    def start_lending(self) -> None:
        """From here on its reader takes leases (``receive_lease``), when it wants to."""
        self.lending = True

    def receive_lease(self) -> Lease | bytes | None:
        """A lease on what has arrived, where the kernel put it; b"" at the end of file; None for nothing yet.

        When too many buffers are lent already, the lease is on a copy (``fallbacks``, ``received.copied``).

        :raises OSError: the connection is broken.
        """
        raise NotImplementedError

    def take_received(self) -> bytes | None:
        """What was taken out of the kernel before reading stopped, and no reader has had; None for nothing.

        Those who go on reading past the stream (splice) must have this first.

        :raises OSError: the connection is broken.
        """
        return None

    def receive_into(self, buffer: Any) -> int:
        """Receive into ``buffer``: the count, 0 at end of file, -1 for nothing yet."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Send ``data`` (held by reference) after all that was written before.

        :raises OSError: the connection is broken.
        """
        raise NotImplementedError

    def write_many(self, chunks: list[bytes]) -> None:
        """Send several pieces with one scatter-gather operation."""
        raise NotImplementedError

    def write_lease(self, lease: Lease) -> None:
        """Send the bytes of ``lease``, which is the stream's from here on: it releases it when the kernel has them.

        :raises OSError: the connection is broken.
        """
        raise NotImplementedError

    def write_pieces(self, pieces: list[bytes | Lease]) -> None:
        """``write_many`` for ``bytes`` and leases; the leases are the stream's from here on."""
        raise NotImplementedError

    def flush(self) -> None:
        """Offer what is pending to the kernel now instead of at the end of the turn."""
        raise NotImplementedError

    def wait_writable(self, step: Step) -> None:
        """Queue ``step`` once the socket takes more, or never will: for those who write past the stream."""
        raise NotImplementedError

    def discard_output(self) -> None:
        """Forget what is pending (``abort``)."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget the descriptor: when this returns the kernel holds nothing of ours for it."""
        raise NotImplementedError


class Listener(Step):
    """A listening socket. It does not own the socket."""

    def __init__(self, sock: Any, owner: ListenerOwner, ready: list[Step]) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.owner = owner
        self.ready = ready
        self.queued = False
        self.busy = False
        self.listening = False

    def run(self) -> None:
        self.queued = False
        if self.busy:
            return
        self.busy = True
        try:
            self.owner.acceptable()
        finally:
            self.busy = False

    def queue(self) -> None:
        if not self.queued:
            self.queued = True
            self.ready.append(self)

    def start(self) -> None:
        """Ask for completions of accepted connections."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop; connections the kernel handed over already are still given out by ``accept``."""
        raise NotImplementedError

    def accept(self) -> int:
        """The descriptor of a new connection, -1 for none waiting.

        :raises OSError: e.g. EMFILE; the listener must be started again.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class FeedOwner:
    """What a feed reports to. Each method is called from a step, never while reaping."""

    def context(self) -> Any:
        """The ``contextvars.Context`` of the user code it calls."""
        return None

    def readable(self) -> None:
        """The descriptor has something to read, an error or its end; see ``Feed.can_read``."""

    def writable(self) -> None:
        """The descriptor takes more, or never will: once per ``Feed.wait_writable``."""


class Feed(Step):
    """Readiness of a descriptor that is neither a stream nor a listener: a datagram socket, a pipe.

    Readiness is edge-like: the owner reads until the kernel has no more and *then, before it calls user code*,
    clears ``can_read``; as long as it is set ``readable`` is called again, each time in a step of its own. So a
    feed whose protocol is suspended mid-function costs nothing and never spins. It does not own the descriptor.

    :ivar can_read: reading is worth trying.
    :ivar busy, last: as of a ``Stream``.
    """

    def __init__(self, fd: int, owner: FeedOwner, ready: list[Step]) -> None:
        self.fd = fd
        self.owner = owner
        self.ready = ready
        self.reading = False
        self.can_read = False
        self.queued = False
        self.busy = 0
        self.closed = False
        self.events = 0
        self.last: Step | None = None

    def context(self) -> Any:
        return self.owner.context()

    def enter(self) -> None:
        """As ``Stream.enter``."""
        self.busy += 1

    def leave(self) -> None:
        """As ``Stream.leave``."""
        self.busy -= 1
        if self.busy:
            return
        if self.last is not None:
            self.ready.append(self.last)
            self.last = None
        if not self.closed:
            if self.reading:
                if self.can_read:
                    self.events |= _READABLE
                else:
                    self.rest()
            if self.events:
                self.queue(0)

    def run(self) -> None:
        self.queued = False
        if self.busy or self.closed:
            return  # suspended inside the owner: what came meanwhile is looked at when it returns
        self.busy += 1
        try:
            if self.events & _READABLE:
                self.events &= ~_READABLE
                if self.reading and self.can_read:
                    self.owner.readable()
            if self.events & _WRITABLE:
                self.events &= ~_WRITABLE
                self.owner.writable()
        finally:
            self.leave()

    def queue(self, events: int) -> None:
        """Note what happened and queue this step unless it is queued already."""
        self.events |= events
        if not self.queued:
            self.queued = True
            self.ready.append(self)

    def rest(self) -> None:
        """All has been read: see to it that the next readiness is heard of."""

    def start(self) -> None:
        """Ask for ``readable``.

        :raises OSError: the descriptor cannot be waited for (PermissionError: a regular file).
        """
        raise NotImplementedError

    def stop(self) -> None:
        """No more ``readable``; readiness is remembered for the next ``start``."""
        self.reading = False
        self.events &= ~_READABLE

    def wait_writable(self) -> None:
        """Ask for one ``writable``."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget the descriptor: when this returns the kernel holds nothing of ours for it."""
        raise NotImplementedError


class Poll(Step):
    """A one-shot wait for readiness; queues ``step`` once."""

    def __init__(self, step: Step, ready: list[Step]) -> None:
        self.step = step
        self.ready = ready
        self.done = False

    def run(self) -> None:
        self.step.run()

    def cancel(self) -> None:
        raise NotImplementedError


class Engine:
    """One per loop. All methods but ``wake`` belong to the loop's thread.

    :ivar ready: the loop's ready queue; completions are appended to it.
    :ivar waits: calls that could wait, i.e. turns that entered the kernel.
    :ivar completions: completions reaped.
    :ivar received: bytes that its streams received, and how many were copied in user space on the way.
    :ivar sent: the same for what they sent.
    """

    name = "abstract"

    def __init__(self, ready: list[Step]) -> None:
        self.ready = ready
        self.waits = 0
        self.completions = 0
        self.received = Account("receive")
        self.sent = Account("send")
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def open_stream(self, fd: int, owner: StreamOwner) -> Stream:
        raise NotImplementedError

    def open_listener(self, sock: Any, owner: ListenerOwner) -> Listener:
        raise NotImplementedError

    def open_feed(self, fd: int, owner: FeedOwner, read: bool, once: bool) -> Feed:
        """Make a feed of ``fd``.

        :param read: input counts as readable; False leaves only hang-up and errors.
        :param once: it is read rarely and closed soon (a pipe), rather than all the time (a datagram socket).
        """
        raise NotImplementedError

    def poll(self, fd: int, mask: int, step: Step) -> Poll:
        """Run ``step`` once when ``fd`` is ready for ``mask`` (EPOLLIN, EPOLLOUT)."""
        raise NotImplementedError

    def submit_operation(self, operation: FileOperation) -> bool:
        """Have the kernel carry out ``operation``; its step is queued when it is over.

        :returns: False where the engine has no way to: worker threads must do it.
        """
        return False

    def cancel_operation(self, operation: FileOperation) -> None:
        """Ask for an early end of ``operation``. It still ends by its step, which says what became of it."""

    def set_reader(self, fd: int, handle: Any) -> Any:
        """Run ``handle`` as long as ``fd`` is readable (None: no longer); returns the handle it replaces."""
        raise NotImplementedError

    def set_writer(self, fd: int, handle: Any) -> Any:
        raise NotImplementedError

    def get_reader(self, fd: int) -> Any:
        raise NotImplementedError

    def get_writer(self, fd: int) -> Any:
        raise NotImplementedError

    def fileno(self) -> int:
        """A descriptor that polls readable when ``turn`` would reap something."""
        raise NotImplementedError

    def turn(self, timeout_ns: int) -> int:
        """Submit, wait at most ``timeout_ns`` (0: do not wait, negative: for ever), reap; how many were reaped."""
        raise NotImplementedError

    def flush(self) -> None:
        """Submit what is pending without waiting or reaping."""

    def wake(self) -> None:
        """Make a waiting ``turn`` return. The one method for other threads and signal handlers."""
        os.eventfd_write(self.wake_fd, 1)

    def attach(self) -> None:
        """The calling thread is going to run the loop."""

    def detach(self) -> None:
        """The calling thread has stopped running the loop."""

    def close(self) -> None:
        raise NotImplementedError

    def abandon(self) -> None:
        """In the child of a fork: let go without touching what is shared with the parent."""

    def inflight(self) -> int:
        """Operations the kernel holds for streams, listeners and polls."""
        raise NotImplementedError

    def leased(self) -> int:
        """Receive buffers that are out of the pool."""
        return 0
