"""The transport of datagram sockets, UDP and Unix, on either engine.

A wake-up takes in a batch of datagrams with one system call, and what their protocol sends while it is told of
them leaves with one system call as well, at the end of the batch; of a batch of one, the first answer leaves at once.
Datagrams of one size to one peer are handed over as one message, which the kernel cuts up (generic segmentation
offload). Outside of that a datagram leaves at once. A preemption in the middle of a batch sends what is there: the
loop's ``flush`` asks ``corked`` transports to.

Errors of sending and receiving go to ``error_received``, as in asyncio, and never close the transport.
"""

from __future__ import annotations

import errno
import socket
import sys
import warnings
from asyncio import constants, transports, trsock
from asyncio.log import logger
from collections import deque
from contextvars import copy_context
from typing import Any

from clearway.buffers.account import Account
from clearway.engine.interface import Feed, FeedOwner
from clearway.kernel.dgram import Datagrams
from clearway.kernel.sysio import run_in_context
from clearway.loop.errors import describe_address, insist_on_protocol
from clearway.steps import Handle

#: Above this many pending bytes the protocol is asked to pause (asyncio: 64 KiB in _FlowControlMixin).
HIGH_WATER = 64 * 1024

#: The descriptor was closed behind our back, and perhaps is another file now.
GONE = (errno.EBADF, errno.ENOTSOCK)

#: Datagrams collected before they are sent in the middle of a batch: what one ``sendmmsg`` takes.
CORK_MAX = 32

#: Since 3.13 an empty datagram is sent, and each counts 8 bytes (a UDP header) towards the water marks.
SENDS_EMPTY = sys.version_info >= (3, 13)
HEADER_SIZE = 8 if SENDS_EMPTY else 0

_HEADER_SIZE = HEADER_SIZE  # C integers when compiled
_CORK_ENTRIES = 2 * CORK_MAX
_SENDS_EMPTY = SENDS_EMPTY


class _Kind(transports._FlowControlMixin, transports.DatagramTransport):  # type: ignore[misc, name-defined]
    """What isinstance() is told: the standard library's own transport is a Transport as well."""


class DatagramTransport(FeedOwner):
    """A transport over a datagram socket (an ``asyncio.DatagramTransport``).

    :param address: what ``sendto`` sends to when the socket is not connected; None for no such address.
    """

    # See StreamTransport: an extension class cannot derive from one with slots of its own.
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return _Kind

    max_size = 256 * 1024

    def __init__(
        self,
        loop: Any,
        sock: socket.socket,
        protocol: Any,
        address: Any,
        extra: dict[str, Any] | None,
    ) -> None:
        insist_on_protocol(protocol)
        self._loop = loop
        self._sock = sock
        self._sock_fd = sock.fileno()
        self._family = int(sock.family)
        self._extra = {} if extra is None else extra
        self._extra["socket"] = trsock.TransportSocket(sock)  # type: ignore[attr-defined]
        try:
            self._extra["sockname"] = sock.getsockname()
        except OSError:
            self._extra["sockname"] = None
        # A connected Unix socket's peer may have no name, "".
        self._connected = True
        if "peername" not in self._extra:
            try:
                self._extra["peername"] = sock.getpeername()
            except OSError:
                self._extra["peername"] = None
                self._connected = False
        self._address = address or None
        self._protocol = protocol
        self._closing = False
        self._made = False
        self._paused = False
        # What a wake-up took in and the protocol has not had, because it paused in the middle of the batch.
        self._received: list[Any] = []
        self._conn_lost = 0
        self._protocol_paused = False
        self._high_water = HIGH_WATER
        self._low_water = HIGH_WATER // 4
        self._queue: deque[tuple[bytes, Any]] = deque()
        self._pending = 0
        self._corked = False
        self._cork_epoch = 0
        # While the protocol is told of a datagram that came alone: 1, and 2 once it has sent one itself.
        self._alone = 0
        self._out: list[Any] = []
        # The loop's epoch when the protocol's current call began: another one now means that it has been suspended.
        self._call_epoch = 0
        # Errors that came while a call was suspended, and the contexts in which to tell of them.
        self._held: list[tuple[OSError, Any]] = []
        self._context = copy_context()
        # As in asyncio, whoever made the output pile up hears of it in his own.
        self._output_context = self._context
        self._datagrams: Datagrams = loop._get_datagrams()
        self._received_account: Account = loop._ledger.account("datagram receive")
        self._sent_account: Account = loop._ledger.account("datagram send")
        # Several to one peer leave as one message; False once the kernel has refused one.
        self._cuts = self._family in (socket.AF_INET, socket.AF_INET6) and self._datagrams.can_cut(
            self._sock_fd
        )
        self._feed: Feed = loop._engine.open_feed(self._sock_fd, self, True, False)
        loop._transports[self._sock_fd] = self

    # -- what users see ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        info = ["<clearway.DatagramTransport"]
        if self._sock is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._sock is not None:
            info.append("read=polling" if self._feed.reading else "read=idle")
            state = "polling" if self._queue else "idle"
            info.append(f"write=<{state}, bufsize={self._pending}>")
        return " ".join(info) + ">"

    def __del__(self) -> None:
        if self._sock is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2)
            self._feed.close()
            self._sock.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return bool(self._closing)

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self._closing or self._paused:
            return
        self._paused = True
        self._feed.stop()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._made:
            self._start_feed()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    # isinstance() says that this is an asyncio.Transport, as of asyncio's own; and as there, these do not apply.

    def write(self, data: Any) -> None:
        raise NotImplementedError("a datagram transport has no write(); use sendto()")

    def writelines(self, list_of_data: Any) -> None:
        raise NotImplementedError("a datagram transport has no writelines(); use sendto()")

    def write_eof(self) -> None:
        raise NotImplementedError("datagrams have no end of file")

    def can_write_eof(self) -> bool:
        raise NotImplementedError("datagrams have no end of file")

    def sendto(self, data: Any, addr: Any = None) -> None:
        if type(data) is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if not _SENDS_EMPTY and not data:
            return
        if self._address is not None:
            if addr is not None and addr != self._address:
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and (self._address is not None or self._sock is None):
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if self._connected:
            addr = None
        elif addr is None:
            # The standard library would fail in the same way, but after a look at the address.
            self._fatal_error(
                TypeError("sendto() needs an address: the socket is not connected"),
                "Fatal write error on datagram transport",
            )
            return
        if self._alone == 2 and self._cork_epoch == self._loop._epoch:
            self._alone = 0
            self._cork()
        if self._corked and self._cork_epoch == self._loop._epoch:
            self._out.append(data if type(data) is bytes else self._own(data))
            self._out.append(addr)
            if len(self._out) >= _CORK_ENTRIES:
                self.uncork()
        elif self._queue:
            self._enqueue(data, addr)
            self._maybe_pause_protocol()
        else:
            if self._alone == 1:
                self._alone = 2
            self._send_now(data, addr)

    def get_write_buffer_size(self) -> int:
        self.uncork()
        return self._pending

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (self._low_water, self._high_water)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water = high
        self._low_water = low
        self._maybe_pause_protocol()

    def close(self) -> None:
        if self._closing:
            return
        if self._out:
            self.flush_corked()
        self._closing = True
        self._feed.stop()
        if not self._queue:
            self._conn_lost += 1
            self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        self._force_close(None)

    # -- from the feed ---------------------------------------------------------------------------------------

    def context(self) -> Any:
        return self._context

    def readable(self) -> None:
        feed = self._feed
        self._call_epoch = self._loop._epoch
        if self._received:
            batch = self._received
            self._received = []
        else:
            try:
                batch = self._datagrams.receive(self._sock, self._sock_fd)
            except OSError as exc:
                if exc.errno in GONE:
                    feed.can_read = False  # it would be the same for ever
                self._error_received(exc)
                return
            feed.can_read = self._datagrams.more
            self._enter_received(batch)
        count = len(batch)
        if count == 0:
            return
        # One alone is answered at once: its peer need not wait for the end of the step. What follows can.
        if count > 2:
            self._cork()
        else:
            self._alone = 1
            self._cork_epoch = self._loop._epoch
        index = 0
        try:
            while index < count:
                try:
                    run_in_context(
                        self._context,
                        self._protocol.datagram_received,
                        (batch[index], batch[index + 1]),
                    )
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    self._report("protocol.datagram_received() failed", exc, batch[index + 1])
                index += 2
                if self._closing:
                    break
                if self._paused:
                    if index < count:
                        self._received = batch[index:]
                        feed.can_read = True
                    break
        finally:
            self._alone = 0
            if self._corked:
                self._corked = False
                self._loop._corked.discard(self)
                self.uncork()

    def _cork(self) -> None:
        self._corked = True
        self._cork_epoch = self._loop._epoch
        self._loop._corked.add(self)

    def writable(self) -> None:
        if self._conn_lost:
            return  # aborted meanwhile
        self._call_epoch = self._loop._epoch
        queue = self._queue
        while queue:
            data, addr = queue[0]
            try:
                sent = self._datagrams.send(self._sock, self._sock_fd, self._family, data, addr)
            except OSError as exc:
                queue.popleft()
                self._pending -= len(data) + _HEADER_SIZE
                self._error_received(exc)
                continue
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._output_context.run(
                    self._fatal_error, exc, "Fatal write error on datagram transport"
                )
                return
            if sent < 0:
                self._feed.wait_writable()
                break
            self._sent_account.add(len(data), 0)
            queue.popleft()
            self._pending -= len(data) + _HEADER_SIZE
        if self._protocol_paused and self._pending <= self._low_water:
            self._output_context.run(self._resume_protocol)
        if not queue and self._closing and not self._conn_lost:
            self._conn_lost += 1
            self._output_context.run(self._finish, None)

    # -- sending ---------------------------------------------------------------------------------------------

    def _send_now(self, data: Any, addr: Any) -> None:
        try:
            sent = self._datagrams.send(self._sock, self._sock_fd, self._family, data, addr)
        except OSError as exc:
            # In the caller's context: ours may be entered already, when the protocol is what sends.
            self._tell_error(exc)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal write error on datagram transport")
            return
        if sent < 0:
            self._output_context = copy_context()
            self._enqueue(data, addr)
            self._maybe_pause_protocol()
        else:
            self._sent_account.add(_size(data), 0)

    def _enqueue(self, data: Any, addr: Any) -> None:
        chunk = data if type(data) is bytes else self._own(data)
        if not self._queue:
            self._feed.wait_writable()
        self._queue.append((chunk, addr))
        self._pending += len(chunk) + _HEADER_SIZE

    def uncork(self) -> None:
        """Send what the current batch has been answered with so far."""
        if self._out:
            self.flush_corked()
            self._maybe_pause_protocol()

    def flush_corked(self) -> None:
        """The same without a call into user code: for the moment a step is suspended."""
        out = self._out
        self._out = []
        self._send_list(out)

    def _send_list(self, out: list[Any]) -> None:
        start = 0
        total = len(out)
        while start < total:
            if self._sock is None:
                return
            if self._queue:
                self._enqueue(out[start], out[start + 1])
                start += 2
                continue
            try:
                sent = self._datagrams.send_many(
                    self._sock, self._sock_fd, self._family, out, start, self._cuts
                )
                if self._datagrams.refused:
                    self._cuts = False
            except OSError as exc:
                start += 2
                # In a copy: ours may be entered, by a protocol that has just been suspended.
                self._loop.call_soon(self._tell_error, exc, context=self._context.copy())
                continue
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                # Not an address, say: asyncio closes the transport for it.
                self._loop.call_soon(
                    self._fatal_error,
                    exc,
                    "Fatal write error on datagram transport",
                    context=self._context.copy(),
                )
                return
            if sent < 0:
                self._output_context = self._context.copy()  # they were sent by datagram_received
                self._enqueue(out[start], out[start + 1])
                start += 2
            else:
                self._enter_sent(out, start, start + 2 * sent)
                start += 2 * sent

    # -- accounts --------------------------------------------------------------------------------------------

    def _own(self, data: Any) -> bytes:
        """A copy, since the caller may change it later."""
        copy = bytes(data)
        self._sent_account.add(0, len(copy))
        return copy

    def _enter_received(self, batch: list[Any]) -> None:
        size = 0
        for index in range(0, len(batch), 2):
            size += len(batch[index])
        self._received_account.add(size, size if self._datagrams.copies else 0)

    def _enter_sent(self, out: list[Any], start: int, end: int) -> None:
        size = 0
        for index in range(start, end, 2):
            size += len(out[index])
        self._sent_account.add(size, 0)

    # -- life ------------------------------------------------------------------------------------------------

    def _begin(self, waiter: Any) -> None:
        """The transport's first step: introduce it to its protocol, then let it read."""
        self._enter()
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.connection_made() failed", exc)
        finally:
            self._made = True
            self._feed.leave()
            if not self._closing and not self._paused:
                self._start_feed()
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _start_feed(self) -> None:
        try:
            self._feed.start()
        except OSError as exc:
            self._report("this socket cannot be waited for", exc)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        self._queue.clear()
        self._out.clear()
        self._pending = 0
        if not self._closing:
            self._closing = True
            self._feed.stop()
        self._conn_lost += 1
        self._loop.call_soon(self._end, exc)

    def _end(self, exc: BaseException | None) -> None:
        """The last step, but not while a call of the protocol is suspended: this one comes after it."""
        if self._feed.busy:
            self._feed.last = Handle(self._finish, (exc,), self._loop)
        else:
            self._finish(exc)

    def _finish(self, exc: BaseException | None) -> None:
        """The transport's last step."""
        try:
            self._tell_held()
            self._protocol.connection_lost(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report("protocol.connection_lost() failed", error)
        finally:
            self._feed.close()
            sock = self._sock
            self._sock = None
            self._loop._transports.pop(self._sock_fd, None)
            sock.close()
            self._protocol = None

    def _error_received(self, exc: OSError) -> None:
        run_in_context(self._context, self._tell_error, (exc,))

    def _tell_error(self, exc: OSError) -> None:
        if self._protocol is None:
            return
        if self._feed.busy and self._call_epoch != self._loop._epoch:
            self._held.append((exc, copy_context()))
            if self._feed.last is None:  # else it is ``_finish``, which tells of them first
                self._feed.last = Handle(self._tell_held, (), self._loop)
            return
        self._enter()
        try:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report("protocol.error_received() failed", error)
        finally:
            self._feed.leave()

    def _tell_held(self) -> None:
        held = self._held
        self._held = []
        for exc, context in held:
            context.run(self._tell_error, exc)

    def _enter(self) -> None:
        if not self._feed.busy:
            self._call_epoch = self._loop._epoch
        self._feed.enter()

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        self._report(message, exc)
        self._force_close(exc)

    def _report(self, message: str, exc: BaseException, sender: Any = None) -> None:
        context = {
            "message": message,
            "exception": exc,
            "transport": self,
            "protocol": self._protocol,
        }
        if sender is not None:
            context["peer"] = describe_address(sender)
        self._loop.call_exception_handler(context)

    # -- flow control ----------------------------------------------------------------------------------------

    def _maybe_pause_protocol(self) -> None:
        if self._pending <= self._high_water or self._protocol_paused:
            return
        self._protocol_paused = True
        self._enter()
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.pause_writing() failed", exc)
        finally:
            self._feed.leave()

    def _resume_protocol(self) -> None:
        self._protocol_paused = False
        try:
            self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.resume_writing() failed", exc)


def _size(data: Any) -> int:
    """Bytes of a bytes-like object, whose items may be wider."""
    return data.nbytes if isinstance(data, memoryview) else len(data)
