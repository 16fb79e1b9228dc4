"""SharedChannel: a channel between two processes through memory that both see.

A message lies in a ring in a sealed memory file. The writer fills it in place (``reserve``), the reader reads it
in place (a lease, or an object whose buffers, such as a NumPy array's, are views of the ring); between the two
nothing is copied, and no system call is made unless the other side sleeps. Two rings make the channel duplex.

The two ends hold one Unix socket between them. It carries the descriptors at the start and no data later: its
end-of-file says that the peer is gone, and a flag in the memory whether it went on purpose. A pidfd watches the
peer too, because a socket that somebody forgot to close in a third process never ends.

Who may attach: on connect and accept both sides ask the kernel for the other's uid and refuse any but their own.
Messages are pickles: whoever may attach can run code in the receiver, as with ``multiprocessing``.

Needs compiled clearway (atomics on shared memory) and runs on any asyncio loop that has ``add_reader``.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import mmap
import os
import pickle
import socket
import struct
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from clearway.buffers.account import Ledger
from clearway.channels._ring import (
    KIND_BUFFER,
    KIND_BYTES,
    KIND_PICKLE,
    Mapping,
    Reader,
    Reservation,
    SharedLease,
    Writer,
    file_size,
)
from clearway.channels.errors import (
    ChannelClosed,
    ChannelCorrupt,
    ChannelEmpty,
    ChannelFull,
    PeerDied,
)
from clearway.loop.statistics import ledger_of

#: Bytes of each ring: eight messages of 1 MiB in flight. Memory is only used once it was written to.
CAPACITY_DEFAULT = 8 << 20
#: Record sizes are 32 bits wide.
CAPACITY_MAXIMUM = 1 << 31
#: The payload of a record starts on a cache line, and so does each out-of-band buffer in it.
ALIGNMENT = 64

#: What goes with the descriptors: magic, capacity.
_GREETING = struct.Struct("=8sQ")
_MAGIC = b"clearway"
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
#: A pickle record: how many buffers, bytes of the pickle; then (offset, size) of each buffer.
_PICKLE_HEAD = struct.Struct("=QQ")
_PICKLE_BUFFER = struct.Struct("=QQ")

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class SharedChannelStatistics:
    """Figures of this end of a shared channel.

    :ivar sent: messages sent.
    :ivar received: messages received.
    :ivar bytes_sent: bytes of the payloads sent.
    :ivar bytes_received: bytes of the payloads received.
    :ivar bytes_copied: bytes that this end copied in user space, into the ring or out of it.
    :ivar waits: how often a task had to wait for the peer.
    """

    sent: int
    received: int
    bytes_sent: int
    bytes_received: int
    bytes_copied: int
    waits: int


class SharedChannel:
    """One end of a duplex channel between two processes; made by ``pair``, ``attach``, ``connect`` or a listener.

    Each end belongs to one process and one event loop. ``async for message in channel`` receives until the peer
    closes; ``with channel:`` closes this end. After ``fork()`` the end is closed in the child and goes on in the
    parent.
    """

    def __init__(
        self, mapping: Mapping, wake_own: int, wake_peer: int, link: socket.socket, peer_pid: int
    ) -> None:
        self._mapping = mapping
        self._writer = Writer(mapping, wake_peer)
        self._reader = Reader(mapping, wake_peer)
        self._wake_own = wake_own
        self._wake_peer = wake_peer
        self._link = link
        self._peer_pid = peer_pid
        self._pidfd = -1
        self._peer_gone = False
        self._closed = False
        self._waits = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ledger: Ledger | None = None
        self._settled = {"shared send": (0, 0), "shared receive": (0, 0)}
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._senders: deque[asyncio.Future[None]] = deque()
        link.setblocking(False)
        mapping.announce(os.getpid())
        os.eventfd_write(wake_peer, 1)
        _open.add(self)
        running = asyncio._get_running_loop()
        if running is not None:
            self._enter_at(running)

    # -- making one -------------------------------------------------------------------------------------------

    @classmethod
    def pair(cls, capacity: int = CAPACITY_DEFAULT) -> tuple[SharedChannel, socket.socket]:
        """A new channel: this process' end, and a socket through which one other process attaches.

        Give the socket to the other process (``multiprocessing`` passes it as an argument; ``subprocess`` by
        ``pass_fds``), let that call ``attach``, and close it here.

        :param capacity: bytes of the ring in each direction; rounded up to whole pages. No message may be larger.
        :raises ValueError: the capacity is not between 1 and 2 GiB.
        :raises OSError: the kernel refuses memory or descriptors.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            return cls._create(capacity, ours, 0), theirs
        except BaseException:
            ours.close()
            theirs.close()
            raise

    @classmethod
    def attach(cls, link: socket.socket | int) -> SharedChannel:
        """The other end of ``pair``. Takes the socket (or its descriptor) over.

        :raises ConnectionError: the maker is gone, or its user is another one.
        :raises ChannelCorrupt: what arrives is not a channel of this version.
        """
        connection = socket.socket(fileno=link) if isinstance(link, int) else link
        try:
            connection.setblocking(True)
            _check_peer(connection)
            return cls._receive(connection, 0)
        except BaseException:
            connection.close()
            raise

    @classmethod
    async def connect(cls, name: str) -> SharedChannel:
        """Attach to the listener of that name on this machine.

        :param name: as given to ``listen``; it is seen by processes in the same network namespace only.
        :raises ConnectionRefusedError: nobody listens there.
        :raises PermissionError: somebody does, but as another user.
        """
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await loop.sock_connect(connection, _address(name))
            pid = _check_peer(connection)
            await _readable(loop, connection)
            return cls._receive(connection, pid)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def listen(cls, name: str, capacity: int = CAPACITY_DEFAULT) -> SharedChannelListener:
        """Take connections under a name; each gets a channel of its own. Users other than this are refused.

        :param name: 1 to 64 bytes; free again when the listener is closed or its process ends.
        :param capacity: as in ``pair``.
        :raises OSError: EADDRINUSE when the name is taken.
        """
        return SharedChannelListener(cls, name, capacity)

    @classmethod
    def _create(cls, capacity: int, link: socket.socket, peer_pid: int) -> SharedChannel:
        """Make the memory and send it, with its descriptors, over a socket."""
        capacity = _whole_pages(capacity)
        descriptors: list[int] = []
        try:
            memory = os.memfd_create("clearway-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            descriptors.append(memory)
            os.ftruncate(memory, file_size(capacity))
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            for _ in range(2):
                descriptors.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            mapping = Mapping(memory, capacity, 0, create=True)
            greeting = _GREETING.pack(_MAGIC, capacity)
            socket.send_fds(link, [greeting], descriptors)
            channel = cls(mapping, descriptors[1], descriptors[2], link, peer_pid)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        os.close(memory)
        return channel

    @classmethod
    def _receive(cls, link: socket.socket, peer_pid: int) -> SharedChannel:
        """Make the other end of what ``_create`` sent."""
        greeting, descriptors = _receive_descriptors(link)
        try:
            if not greeting:
                raise ConnectionResetError("the maker of the shared channel is gone")
            if len(greeting) != _GREETING.size or len(descriptors) != 3:
                raise ChannelCorrupt("this is not the socket of a shared channel")
            magic, capacity = _GREETING.unpack(greeting)
            memory = descriptors[0]
            if magic != _MAGIC or capacity % mmap.PAGESIZE or not 0 < capacity <= CAPACITY_MAXIMUM:
                raise ChannelCorrupt("this is not the socket of a shared channel")
            if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(
                memory
            ).st_size != file_size(capacity):
                raise ChannelCorrupt("the memory of the shared channel is not sealed to its size")
            mapping = Mapping(memory, capacity, 1, create=False)
            channel = cls(mapping, descriptors[2], descriptors[1], link, peer_pid)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        os.close(memory)
        return channel

    # -- sending ------------------------------------------------------------------------------------------------

    async def send(self, message: Any) -> None:
        """Send an object by pickle protocol 5; its out-of-band buffers (arrays) go into the ring as they are.

        That is one copy of each buffer; ``reserve`` has none. Nothing is sent when the wait is cancelled.

        :raises ChannelClosed: this end or the other is closed.
        :raises PeerDied: the peer's process ended.
        :raises ValueError: the message is larger than the ring.
        :raises pickle.PicklingError: it cannot be pickled.
        """
        if type(message) is bytes:
            self._check_send(len(message))
            if not self._senders and self._writer.send_bytes(message):
                return
            reservation = await self._reserve(len(message), KIND_BYTES)
            reservation.write(message)
        else:
            pickled, buffers, size = _pickle(message)
            reservation = await self.reserve_kind(size, KIND_PICKLE)
            _lay_out(reservation, pickled, buffers)
        reservation.commit()

    def send_nowait(self, message: Any) -> None:
        """As ``send``, without waiting.

        :raises ChannelFull: there is no room now.
        """
        if type(message) is bytes:
            reservation = self._reserve_nowait(len(message), KIND_BYTES)
            reservation.write(message)
        else:
            pickled, buffers, size = _pickle(message)
            reservation = self._reserve_nowait(size, KIND_PICKLE)
            _lay_out(reservation, pickled, buffers)
        reservation.commit()

    async def reserve(self, size: int) -> Reservation:
        """Memory of the ring to be filled in place; wait while there is no room.

        The receiver gets it as a lease once it is committed. Several may be open; they are received in the order
        of reservation.

        :param size: bytes.
        :raises ChannelClosed: this end or the other is closed.
        :raises PeerDied: the peer's process ended.
        :raises ValueError: more than the ring holds.
        """
        return await self.reserve_kind(size, KIND_BUFFER)

    async def reserve_kind(self, size: int, kind: int) -> Reservation:
        self._check_send(size)
        if not self._senders:
            reservation = self._writer.reserve(size, kind)
            if reservation is not None:
                return reservation
        return await self._reserve(size, kind)

    def reserve_nowait(self, size: int) -> Reservation:
        """As ``reserve``, without waiting.

        :raises ChannelFull: there is no room now.
        """
        return self._reserve_nowait(size, KIND_BUFFER)

    def _reserve_nowait(self, size: int, kind: int) -> Reservation:
        self._check_send(size)
        reservation = None if self._senders else self._writer.reserve(size, kind)
        if reservation is None:
            raise ChannelFull(f"the shared channel has no room for {size} bytes")
        return reservation

    async def _reserve(self, size: int, kind: int) -> Reservation:
        future = None
        while True:
            if future is not None or not self._senders:
                reservation = self._writer.reserve(size, kind)
                if reservation is not None:
                    break
                if not self._writer.sleep(size):
                    continue
            future = await self._wait(self._senders, first=future is not None)
            self._check_send(size)
        self._wake(self._senders)
        return reservation

    def _check_send(self, size: int) -> None:
        if self._closed:
            raise ChannelClosed("this end of the shared channel is closed")
        if self._mapping.peer_closed():
            raise ChannelClosed("the peer closed the shared channel")
        if self._peer_gone:
            raise PeerDied("the process at the other end of the shared channel ended")
        if not 0 <= size <= self._writer.largest:
            raise ValueError(
                f"a message of {size} bytes does not fit: this channel takes {self._writer.largest} "
                "at most; make it with a larger capacity"
            )

    # -- receiving ----------------------------------------------------------------------------------------------

    async def receive(self) -> Any:
        """The next message; wait while there is none.

        An object that was sent arrives as an object: its arrays are views of the ring and give the space back when
        they are gone, so copy what is to be kept for long. A committed reservation arrives as a ``SharedLease``.
        What was sent before the peer closed or died can still be received.

        :raises ChannelClosed: this end is closed; or the peer closed, and everything was received.
        :raises PeerDied: the peer's process ended, and everything was received.
        :raises ChannelCorrupt: the peer wrote nonsense.
        """
        if not self._receivers and not self._closed:
            lease = self._reader.take()
            if lease is not None:
                return lease if lease.kind == KIND_BUFFER else self._unpack(lease)
        future = None
        while True:
            if future is not None or not self._receivers:
                lease = None if self._closed else self._reader.take()
                if lease is not None:
                    break
                self._check_receive()
                if not self._reader.sleep():
                    continue
            future = await self._wait(self._receivers, first=future is not None)
        # The next in line takes what is there, or announces itself to the peer in our place.
        self._wake(self._receivers)
        return self._unpack(lease)

    def receive_nowait(self) -> Any:
        """As ``receive``, without waiting.

        :raises ChannelEmpty: there is nothing now, or a task that waits is about to take it.
        """
        if self._closed:
            self._check_receive()
        lease = None if self._receivers else self._reader.take()
        if lease is None:
            self._check_receive()
            raise ChannelEmpty("the shared channel is empty")
        return self._unpack(lease)

    def _unpack(self, lease: SharedLease) -> Any:
        kind = lease.kind
        if kind == KIND_BUFFER:
            return lease
        if kind == KIND_BYTES:
            return self._reader.bytes_of(lease)
        if kind != KIND_PICKLE:
            raise ChannelCorrupt(f"the peer sent a record of unknown kind {kind}")
        return _unpickle(lease)

    def _check_receive(self) -> None:
        """Raise when nothing can come any more. Called after the ring was found empty."""
        if self._closed:
            raise ChannelClosed("this end of the shared channel is closed")
        if self._mapping.peer_closed():
            # It may have sent between our look and its closing.
            if self._reader.is_empty():
                raise ChannelClosed("the peer closed the shared channel")
        elif self._peer_gone and self._reader.is_empty():
            raise PeerDied("the process at the other end of the shared channel ended")

    def __aiter__(self) -> SharedChannel:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    # -- waiting ------------------------------------------------------------------------------------------------

    async def _wait(
        self, line: deque[asyncio.Future[None]], *, first: bool
    ) -> asyncio.Future[None]:
        """Wait for a wake-up, in order of arrival; who was woken too early goes back to the front."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._watch(loop)
        self._waits += 1
        future: asyncio.Future[None] = loop.create_future()
        if first:
            line.appendleft(future)
        else:
            line.append(future)
        if self._peer_gone:
            self._wake(line)
        try:
            await future
        except BaseException:
            if future in line:
                line.remove(future)
            elif future.done() and not future.cancelled():
                # Woken and cancelled: what it was woken for is the next one's.
                self._wake(line)
            raise
        return future

    def _wake(self, line: deque[asyncio.Future[None]]) -> None:
        while line:
            future = line.popleft()
            if not future.done():
                future.set_result(None)
                return

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop tell us of wake-ups and of the peer's end."""
        if self._loop is not None:
            if not self._loop.is_closed():
                raise RuntimeError(f"{self!r} is bound to a different event loop")
            self._receivers.clear()
            self._senders.clear()
        self._loop = loop
        self._enter_at(loop)
        loop.add_reader(self._wake_own, self._on_wake)
        loop.add_reader(self._link, self._on_link)
        self._watch_process()
        if self._pidfd >= 0:
            loop.add_reader(self._pidfd, self._on_gone)

    def _watch_process(self) -> None:
        pid = self._peer_pid or self._mapping.peer_pid()
        if self._pidfd >= 0 or pid in (0, os.getpid()):
            return
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            # Ended, or of another pid namespace: the socket knows.
            pass
        except OSError:
            pass  # forbidden by a seccomp filter

    def _on_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_own)
        except BlockingIOError:
            pass
        if self._pidfd < 0 and self._loop is not None:
            self._watch_process()
            if self._pidfd >= 0:
                self._loop.add_reader(self._pidfd, self._on_gone)
        # Each looks again for what it waits for, and goes back to sleep where it is not there.
        self._wake(self._receivers)
        self._wake(self._senders)

    def _on_link(self) -> None:
        try:
            if self._link.recv(1):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._on_gone()

    def _on_gone(self) -> None:
        self._peer_gone = True
        self._unwatch(self._link.fileno(), self._pidfd)
        for line in (self._receivers, self._senders):
            while line:
                self._wake(line)

    def _unwatch(self, *descriptors: int) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for descriptor in descriptors:
                if descriptor >= 0:
                    self._loop.remove_reader(descriptor)

    # -- closing ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close this end. The peer still receives what was sent; tasks that wait here get ChannelClosed.

        Leases and arrays that were received stay valid. Closing twice does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._mapping.close()
        try:
            os.eventfd_write(self._wake_peer, 1)
        except BlockingIOError:
            pass
        self._unwatch(self._wake_own, self._link.fileno(), self._pidfd)
        self._drop(foreign=False)
        for line in (self._receivers, self._senders):
            while line:
                self._wake(line)

    def _drop(self, *, foreign: bool) -> None:
        """Let go of the descriptors without a word to the peer.

        :param foreign: in a forked child, whose copies of leases must not release the parent's.
        """
        self._closed = True
        self.settle_accounts()
        _open.discard(self)
        self._writer.detach(foreign)
        self._reader.detach(foreign)
        os.close(self._wake_own)
        os.close(self._wake_peer)
        self._link.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""
        return self._closed

    def __enter__(self) -> SharedChannel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    # -- figures ------------------------------------------------------------------------------------------------

    @property
    def largest(self) -> int:
        """Bytes of the largest message that fits."""
        return int(self._writer.largest)

    def statistics(self) -> SharedChannelStatistics:
        """Figures of this end since it was made."""
        writer, reader = self._writer, self._reader
        return SharedChannelStatistics(
            sent=writer.messages,
            received=reader.messages,
            bytes_sent=writer.bytes_moved,
            bytes_received=reader.bytes_moved,
            bytes_copied=writer.bytes_copied + reader.bytes_copied,
            waits=self._waits,
        )

    def _enter_at(self, loop: asyncio.AbstractEventLoop) -> None:
        """From here on have it all entered in the accounts of ``loop``."""
        self.settle_accounts()
        self._ledger = ledger_of(loop)
        self._ledger.meters.add(self)

    def settle_accounts(self) -> None:
        """Enter what was moved since the last time in the accounts of the loop."""
        if self._ledger is not None:
            for path, end in (("shared send", self._writer), ("shared receive", self._reader)):
                moved, copied = self._settled[path]
                self._settled[path] = (end.bytes_moved, end.bytes_copied)
                self._ledger.account(path).add(end.bytes_moved - moved, end.bytes_copied - copied)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "peer gone" if self._peer_gone else "open"
        return f"<SharedChannel {state}>"


class SharedChannelListener:
    """Accepts channels under a name; ``async for channel in listener``. Close it to free the name."""

    def __init__(self, kind: type[SharedChannel], name: str, capacity: int) -> None:
        self._kind = kind
        self._capacity = _whole_pages(capacity)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(_address(name))
            self._socket.listen(128)
        except BaseException:
            self._socket.close()
            raise

    async def accept(self) -> SharedChannel:
        """The channel of the next process of this user that connects; others are turned away.

        :raises OSError: the listener is closed.
        """
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._socket)
            try:
                return self._kind._create(self._capacity, connection, _check_peer(connection))
            except (PermissionError, ConnectionError):
                # Another user, or one that has gone again.
                connection.close()
            except BaseException:
                connection.close()
                raise

    def __aiter__(self) -> SharedChannelListener:
        return self

    async def __anext__(self) -> SharedChannel:
        return await self.accept()

    def close(self) -> None:
        """Stop listening. Channels that were accepted go on."""
        self._socket.close()

    def __enter__(self) -> SharedChannelListener:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _whole_pages(capacity: int) -> int:
    if not 1 <= capacity <= CAPACITY_MAXIMUM:
        raise ValueError(f"capacity must be 1 to {CAPACITY_MAXIMUM} bytes, got {capacity}")
    return -(-capacity // mmap.PAGESIZE) * mmap.PAGESIZE


def _address(name: str) -> bytes:
    """An abstract socket: it has no file to clean up. It has no permissions either, hence ``_check_peer``."""
    encoded = name.encode()
    if not 1 <= len(encoded) <= 64 or b"\0" in encoded:
        raise ValueError(f"a name has 1 to 64 bytes, none of them zero: {name!r}")
    return b"\0clearway/%d/%s" % (os.getuid(), encoded)


def _check_peer(connection: socket.socket) -> int:
    """The peer's pid as seen from here.

    :raises PermissionError: it runs as another user.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    if uid != os.geteuid():
        raise PermissionError(f"the peer of the shared channel runs as user {uid}")
    return int(pid)


def _receive_descriptors(link: socket.socket) -> tuple[bytes, list[int]]:
    """As ``socket.recv_fds``, but the descriptors are closed on exec."""
    item = array.array("i")
    data, ancillary, _, _ = link.recvmsg(
        _GREETING.size, socket.CMSG_SPACE(3 * item.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            item.frombytes(content[: len(content) - len(content) % item.itemsize])
    return data, list(item)


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    future: asyncio.Future[None] = loop.create_future()
    done: Callable[[], None] = lambda: None if future.done() else future.set_result(None)  # noqa: E731
    loop.add_reader(connection, done)
    try:
        await future
    finally:
        loop.remove_reader(connection)


# -- objects ------------------------------------------------------------------------------------------------------


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pickle(message: Any) -> tuple[bytes, list[memoryview], int]:
    """The pickle, its out-of-band buffers, and the bytes all of it takes in a record."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    size = _PICKLE_HEAD.size + len(views) * _PICKLE_BUFFER.size + len(pickled)
    for view in views:
        size = _aligned(size) + view.nbytes
    return pickled, views, size


def _lay_out(reservation: Reservation, pickled: bytes, buffers: list[memoryview]) -> None:
    head = bytearray(_PICKLE_HEAD.pack(len(buffers), len(pickled)))
    position = len(head) + len(buffers) * _PICKLE_BUFFER.size + len(pickled)
    for view in buffers:
        position = _aligned(position)
        head += _PICKLE_BUFFER.pack(position, view.nbytes)
        reservation.write(view, position)
        position += view.nbytes
    reservation.write(head)
    reservation.write(pickled, len(head))


def _unpickle(lease: SharedLease) -> Any:
    with memoryview(lease) as whole:
        number, length = _PICKLE_HEAD.unpack_from(whole)
        start = _PICKLE_HEAD.size + number * _PICKLE_BUFFER.size
        if start + length > len(whole):
            raise ChannelCorrupt("the peer sent a pickle that is larger than its record")
        pickled = whole[start : start + length]
        views = []
        for index in range(number):
            offset, size = _PICKLE_BUFFER.unpack_from(
                whole, _PICKLE_HEAD.size + index * _PICKLE_BUFFER.size
            )
            if offset + size > len(whole):
                raise ChannelCorrupt("the peer sent a buffer that is larger than its record")
            views.append(memoryview(lease)[offset : offset + size])
        with pickled:
            message = pickle.loads(pickled, buffers=views)
    if not number:
        lease.release()
    return message


# -- fork -----------------------------------------------------------------------------------------------------------

_open: weakref.WeakSet[SharedChannel] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The ends stay the parent's: two writers in one ring would destroy it, and an inherited socket that stays
    open would hide from the peer that the parent died."""
    for channel in list(_open):
        channel._drop(foreign=True)


os.register_at_fork(after_in_child=_after_fork_in_child)
