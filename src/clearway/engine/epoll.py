"""The epoll engine: the same completions as io_uring's, by trying the call and waiting for readiness.

Streams are registered once, edge-triggered, for input and hang-up, and stay registered until they close:
pausing and resuming cost no system call, and a stream whose protocol is suspended mid-function cannot make the
loop spin. The price of the edge is remembering it: ``can_read`` holds from the event until a receive comes back
short or empty. A short receive means drained (epoll(7), Q9) unless the peer has hung up, in which case the end
of file has to be fetched too. Output interest is added only while the socket buffer is full: a Unix socket
would otherwise wake us for each message its peer reads.
"""

from __future__ import annotations

import os
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Any

from clearway.buffers.lease import Lease
from clearway.engine.blocks import BLOCKS, copied_lease, make_blocks
from clearway.engine.interface import (
    READABLE,
    RECEIVE_SIZE,
    WRITABLE,
    Engine,
    Feed,
    FeedOwner,
    Listener,
    ListenerOwner,
    Poll,
    Stream,
    StreamOwner,
)
from clearway.engine.sizes import LENT_MAX
from clearway.engine.watch import WatchTable
from clearway.kernel.sysio import (
    Poller,
    Scratch,
    accept_one,
    can_receive,
    check_signals,
    receive_into,
    send_list,
    send_some,
)
from clearway.steps import Step

STREAM_EVENTS = EPOLLIN | EPOLLRDHUP | EPOLLET
HANGUP_EVENTS = EPOLLRDHUP | EPOLLHUP | EPOLLERR

# The same as C integers when compiled (epoll.pxd).
_READABLE = READABLE
_WRITABLE = WRITABLE
_IN = EPOLLIN | HANGUP_EVENTS
_HANGUP = HANGUP_EVENTS
_OUT = EPOLLOUT | EPOLLHUP | EPOLLERR


class EpollStream(Stream):
    """A stream on the epoll engine."""

    def __init__(self, fd: int, owner: StreamOwner, engine: EpollEngine) -> None:
        Stream.__init__(self, fd, owner, engine)
        self.engine = engine
        self.can_read = False
        self.hangup = False
        self.registered = False
        self.out_armed = False
        self.writable_step: Step | None = None

    def notify(self, mask: int) -> None:
        """Take in one epoll event."""
        if mask & _IN:
            self.can_read = True
            if mask & _HANGUP:
                self.hangup = True
            if self.reading:
                self.queue(_READABLE)
        if mask & _OUT:
            if self.pending:
                self.queue(_WRITABLE)
            if self.writable_step is not None:
                self.ready.append(self.writable_step)
                self.writable_step = None
                if not self.pending:
                    self.out_armed = False
                    self.engine.poller.modify(self.fd, STREAM_EVENTS)

    def arm_out(self) -> None:
        if not self.out_armed:
            self.out_armed = True
            if self.registered:
                self.engine.poller.modify(self.fd, STREAM_EVENTS | EPOLLOUT)
            else:
                self.registered = True
                self.engine.remember(self.fd, self)
                self.engine.poller.add(self.fd, STREAM_EVENTS | EPOLLOUT)

    def on_writable(self) -> None:
        while self.pending:
            try:
                sent = send_list(self.fd, self.out, self.out_head, self.out_offset)
            except OSError as exc:
                self.discard_output()
                self.owner.broken(exc)
                return
            if sent < 0:
                break
            self.take_out(sent)
        if not self.pending and self.out_armed:
            self.out_armed = False
            self.engine.poller.modify(self.fd, STREAM_EVENTS)
        self.owner.progress()

    def has_more(self) -> bool:
        return self.can_read

    def armed(self) -> bool:
        return self.registered

    def start_reading(self) -> None:
        self.reading = True
        if not self.registered:
            self.registered = True
            # Adding reports what is there already, as an edge.
            self.engine.poller.add(self.fd, STREAM_EVENTS)
        elif self.can_read:
            self.queue(_READABLE)

    def stop_reading(self) -> None:
        self.reading = False

    def set_direct(self, direct: bool) -> None:
        pass  # a receive is only tried when asked for: either kind will do

    def receive(self) -> bytes | None:
        if not self.can_read:
            return None
        data = self.engine.scratch.receive(self.fd)
        if data is None or not (self.engine.scratch.full or self.hangup):
            self.can_read = False
        if data is not None:
            self.received.add(len(data), len(data))  # out of the scratch memory
        return data

    def receive_lease(self) -> Lease | bytes | None:
        if self.spent is not None:
            self.release_spent()  # this stream's, most likely: what it echoed
        if not self.can_read:
            return None
        engine = self.engine
        if not engine.blocks and not engine.lent:
            engine.blocks = make_blocks()
        if self.lent >= LENT_MAX or engine.lent >= BLOCKS // 2:
            data = self.receive()
            if data:
                self.fallbacks += 1
                return copied_lease(data, self.received)
            return data
        block = engine.blocks.pop()
        block.home = self
        block.account = self.received
        self.lent += 1
        engine.lent += 1
        lease = block.lend()
        count = -1
        try:
            count = receive_into(self.fd, lease)
        finally:
            if count <= 0:
                lease.release()
        # A short receive has drained the socket, and its end has been fetched.
        if count < 0 or (count < block.size and not self.hangup):
            self.can_read = False
        if count < 0:
            return None
        if count == 0:
            return b""
        lease.truncate(count)
        self.received.add(count, 0)
        return lease

    def block_returned(self, block: Any) -> None:
        self.lent -= 1
        self.engine.lent -= 1
        self.engine.blocks.append(block)

    def receive_into(self, buffer: Any) -> int:
        if not self.can_read:
            return -1
        count = receive_into(self.fd, buffer)
        # The reader is asked for a buffer only when there is something to read, so find out now; a short
        # receive has drained the socket, a full one has not said.
        if count < 0 or (not self.hangup and (count < len(buffer) or not can_receive(self.fd))):
            self.can_read = False
        if count > 0:
            self.received.add(count, 0)
        return count

    def write(self, data: bytes) -> None:
        size = len(data)
        if not self.pending:
            sent = send_some(self.fd, data, 0)
            if sent == size:
                self.sent.add(size, 0)
                return
            if sent > 0:
                self.out_offset = sent
                self.sent.add(sent, 0)
            else:
                self.out_offset = 0
            self.output().append(data)
            self.pending = size - self.out_offset
            self.arm_out()
        else:
            self.output().append(data)
            self.pending += size

    def write_lease(self, lease: Lease) -> None:
        if self.spent is not None:
            self.release_spent()
        self.output().append(lease)
        self.pending += len(lease)
        self.flush()

    def write_pieces(self, pieces: list[bytes | Lease]) -> None:
        if self.spent is not None:
            self.release_spent()
        for piece in pieces:
            self.output().append(piece)
            self.pending += len(piece)
        self.flush()

    def write_many(self, chunks: list[bytes]) -> None:
        first = not self.pending
        for chunk in chunks:
            self.output().append(chunk)
            self.pending += len(chunk)
        if first:
            self.flush()

    def flush(self) -> None:
        while self.pending and not self.out_armed:
            try:
                sent = send_list(self.fd, self.out, self.out_head, self.out_offset)
            except OSError:
                self.discard_output()
                raise
            if sent < 0:
                self.arm_out()
                return
            self.take_out(sent)

    def wait_writable(self, step: Step) -> None:
        self.writable_step = step
        self.arm_out()

    def let_go(self) -> None:
        if self.registered and not self.out_armed:
            self.registered = False
            self.engine.poller.remove(self.fd)
            self.engine.forget(self.fd)

    def discard_output(self) -> None:
        self.clear_out()
        self.events &= ~_WRITABLE

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.reading = False
            self.clear_out()
            self.events = 0
            if self.writable_step is not None:
                self.ready.append(self.writable_step)
                self.writable_step = None
            if self.registered:
                self.registered = False
                self.engine.poller.remove(self.fd)
            self.engine.forget(self.fd)
            self.release_spent()
            self.part()


class EpollListener(Listener):
    """A listener on the epoll engine: edge-triggered, so it is drained or tried again."""

    def __init__(self, sock: Any, owner: ListenerOwner, engine: EpollEngine) -> None:
        Listener.__init__(self, sock, owner, engine.ready)
        self.engine = engine
        self.registered = False

    def start(self) -> None:
        self.listening = True
        if not self.registered:
            self.registered = True
            self.engine.remember(self.fd, self)
            self.engine.poller.add(self.fd, EPOLLIN | EPOLLET)
        else:
            self.queue()  # an edge may have passed while it was stopped

    def stop(self) -> None:
        self.listening = False

    def armed(self) -> bool:
        return self.registered

    def accept(self) -> int:
        if not self.listening:
            return -1
        return accept_one(self.sock, self.fd)

    def close(self) -> None:
        self.listening = False
        if self.registered:
            self.registered = False
            self.engine.poller.remove(self.fd)
            self.engine.forget(self.fd)


class EpollFeed(Feed):
    """A feed on the epoll engine: registered edge-triggered from its first use until it closes."""

    def __init__(self, fd: int, owner: FeedOwner, engine: EpollEngine, mask: int) -> None:
        Feed.__init__(self, fd, owner, engine.ready)
        self.engine = engine
        self.mask = mask
        self.watched = -1
        self.duplicate = False
        self.out_armed = False

    def register(self, mask: int) -> None:
        """Enter the epoll set. A descriptor is in it once: the second transport of a terminal or a socket is
        entered through a duplicate."""
        engine = self.engine
        watched = self.fd
        if engine.is_taken(watched):
            watched = os.dup(watched)
            self.duplicate = True
        try:
            engine.poller.add(watched, mask)
        except OSError:
            if self.duplicate:
                self.duplicate = False
                os.close(watched)
            raise
        self.watched = watched
        engine.remember(watched, self)

    def notify(self, mask: int) -> None:
        """Take in one epoll event."""
        if mask & _IN:
            self.can_read = True
            if self.reading:
                self.queue(_READABLE)
        if mask & _OUT and self.out_armed:
            self.out_armed = False
            self.engine.poller.modify(self.watched, self.mask)
            self.queue(_WRITABLE)

    def armed(self) -> bool:
        return self.watched >= 0

    def start(self) -> None:
        self.reading = True
        if self.watched < 0:
            self.register(self.mask)  # reports what is there already, as an edge
        elif self.can_read:
            self.queue(_READABLE)

    def wait_writable(self) -> None:
        if not self.out_armed:
            if self.watched < 0:
                self.register(self.mask | EPOLLOUT)
            else:
                self.engine.poller.modify(self.watched, self.mask | EPOLLOUT)
            self.out_armed = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.reading = False
            self.events = 0
            if self.watched >= 0:
                self.engine.poller.remove(self.watched)
                self.engine.forget(self.watched)
                if self.duplicate:
                    os.close(self.watched)
                self.watched = -1


class EpollEngine(Engine):
    """Readiness turned into completions, one ``epoll_wait`` a turn."""

    name = "epoll"

    def __init__(self, ready: list[Step]) -> None:
        Engine.__init__(self, ready)
        self.poller = Poller()
        self.scratch = Scratch(RECEIVE_SIZE)
        self.table = WatchTable(self.poller, ready)
        # By descriptor: an EpollStream, an EpollFeed, an EpollListener or None; watches have a table of their own.
        self.holders: list[Any] = []
        self.blocks: list[Any] = []
        self.lent = 0
        self.poller.add(self.wake_fd, EPOLLIN)

    def open_stream(self, fd: int, owner: StreamOwner) -> Stream:
        stream = EpollStream(fd, owner, self)
        self.remember(fd, stream)
        return stream

    def remember(self, fd: int, holder: Any) -> None:
        while len(self.holders) <= fd:
            self.holders.extend([None] * max(64, len(self.holders)))
        self.holders[fd] = holder

    def forget(self, fd: int) -> None:
        if fd < len(self.holders):
            self.holders[fd] = None

    def open_listener(self, sock: Any, owner: ListenerOwner) -> Listener:
        return EpollListener(sock, owner, self)

    def open_feed(self, fd: int, owner: FeedOwner, read: bool, once: bool) -> Feed:
        return EpollFeed(fd, owner, self, STREAM_EVENTS if read else STREAM_EVENTS & ~EPOLLIN)

    def is_taken(self, fd: int) -> bool:
        """Whether the epoll set has an entry for ``fd``."""
        return (fd < len(self.holders) and self.holders[fd] is not None) or fd in self.table.watches

    def poll(self, fd: int, mask: int, step: Step) -> Poll:
        return self.table.poll(fd, mask, step)

    def set_reader(self, fd: int, handle: Any) -> Any:
        return self.table.set_step(fd, EPOLLIN, handle)

    def set_writer(self, fd: int, handle: Any) -> Any:
        return self.table.set_step(fd, EPOLLOUT, handle)

    def get_reader(self, fd: int) -> Any:
        return self.table.get_handle(fd, EPOLLIN)

    def get_writer(self, fd: int) -> Any:
        return self.table.get_handle(fd, EPOLLOUT)

    def fileno(self) -> int:
        return self.poller.fileno()

    def turn(self, timeout_ns: int) -> int:
        poller = self.poller
        self.waits += 1
        count = poller.wait(timeout_ns)
        if count == 0:
            check_signals()
            return 0
        self.completions += count
        size = len(self.holders)
        for index in range(count):
            fd = poller.fd_at(index)
            mask = poller.mask_at(index)
            holder = self.holders[fd] if fd < size else None
            if type(holder) is EpollStream:
                stream = holder
                stream.notify(mask)
            elif type(holder) is EpollFeed:
                feed = holder
                feed.notify(mask)
            elif holder is not None:
                listener = holder
                if listener.listening:
                    listener.queue()
            elif fd == self.wake_fd:
                os.eventfd_read(fd)
            else:
                watch = self.table.watches.get(fd)
                if watch is not None:
                    watch.fire(mask)
        return count

    def close(self) -> None:
        self.poller.close()
        os.close(self.wake_fd)
        self.holders.clear()
        self.table.watches.clear()

    def abandon(self) -> None:
        # Our copies of the numbers: closing them leaves the parent's epoll set as it is.
        self.close()

    def inflight(self) -> int:
        held = 0
        for holder in self.holders:
            if holder is not None and holder.armed():
                held += 1
        return held + len(self.table.watches)

    def leased(self) -> int:
        return self.lent
