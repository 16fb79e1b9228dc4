"""The transport of connected byte-stream sockets, TCP and Unix, on either engine.

It follows asyncio's contract to the letter: ``connection_made`` first, ``connection_lost`` exactly once and last,
``pause_writing``/``resume_writing`` around the water marks, half-close through ``write_eof`` and ``eof_received``.
The stream below does the input and output; this file is the order in which a protocol hears of it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import warnings
import weakref
from asyncio import constants, transports, trsock
from asyncio.log import logger
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

from clearway.engine.interface import Stream, StreamOwner
from clearway.kernel import addresses
from clearway.kernel.sysio import close_fd, pack_addresses, run_method1
from clearway.loop.errors import insist_on_protocol
from clearway.steps import FutureStep, Handle

#: Above this many pending bytes the protocol is asked to pause (asyncio: 64 KiB in _FlowControlMixin).
HIGH_WATER = 64 * 1024

#: Chunks handed to a protocol in one step before others get their turn.
READS_PER_STEP = 16

_READS_PER_STEP = READS_PER_STEP  # a C integer when compiled

#: Who refuses: until 3.12 writelines() was write() of the pieces joined.
_WRITELINES = "writelines" if sys.version_info >= (3, 12) else "write"


class StreamTransport(StreamOwner):
    """A transport over a connected stream socket (an ``asyncio.Transport``).

    There may be many thousands of these, most of them idle, so it is small: the addresses are kept packed, and an
    accepted connection gets a socket object when somebody asks for one.

    :param sock: the socket, or None to make it of ``fd`` when it is needed. From here on the transport closes it.
    """

    # asyncio.Transport has a slot of its own, so an extension class cannot derive from it: isinstance() is
    # told through __class__ instead.
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return transports._FlowControlMixin  # type: ignore[attr-defined, no-any-return]

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE  # type: ignore[attr-defined]

    def __init__(
        self,
        loop: Any,
        fd: int,
        sock: socket.socket | None,
        protocol: Any,
        extra: dict[str, Any] | None,
    ) -> None:
        self._open = False
        insist_on_protocol(protocol)
        self._loop = loop
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self._socket = sock
        self._face = None
        self._sock_fd = fd
        self._addresses = None if extra else pack_addresses(fd)
        self._info = None if self._addresses is not None else self._ask(extra)
        self._server = None
        self._closing = False
        self._eof = False
        self._read_eof = False
        self._eof_next = False
        self._paused = False
        self._made = False
        self._conn_lost = 0
        self._protocol_paused = False
        self._high_water = HIGH_WATER
        self._low_water = HIGH_WATER // 4
        self._empty_waiter = None
        # That of what is read; and, as in asyncio, whoever made the output pile up hears of it in his own.
        self._context = copy_context()
        self._output_context = self._context
        # What may fail lies before: if this does, the descriptor is still the caller's to close.
        self._stream: Stream = loop._engine.open_stream(fd, self)
        self._stream.set_direct(self._buffered)
        loop._transports[fd] = self
        self._open = True

    # -- what users see ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        info = ["<clearway.StreamTransport"]
        if not self._open:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._open:
            info.append("read=polling" if self._stream.reading else "read=idle")
            state = "polling" if self._stream.pending else "idle"
            info.append(f"write=<{state}, bufsize={self._stream.pending}>")
        return " ".join(info) + ">"

    def __del__(self) -> None:
        if self._open:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2)
            # For good: others of the same cycle are finalised after it and may still call it, as a StreamWriter does.
            self._closing = True
            self._conn_lost += 1
            self._stream.close()
            self._loop._transports.pop(self._sock_fd, None)
            self._close_socket()
            if self._server is not None:
                self._detach_server()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._get_face()
        if self._info is not None:
            return self._info.get(name, default)
        if name == "sockname":
            return addresses.unpack(self._addresses)[0]
        if name == "peername":
            return addresses.unpack(self._addresses)[1]
        return default

    @property
    def _extra(self) -> dict[str, Any]:
        """All of it as a dictionary, which asyncio's transports have and some programs write to."""
        if self._info is None:
            sockname, peername = addresses.unpack(self._addresses)
            self._info = {"sockname": sockname, "peername": peername}
        self._info.setdefault("socket", self._get_face())
        return self._info

    def _ask(self, extra: dict[str, Any] | None) -> dict[str, Any]:
        """What there is to know of a socket whose addresses cannot be packed."""
        sock = self._get_socket()
        info = {} if extra is None else extra
        try:
            info["sockname"] = sock.getsockname()
        except OSError:
            info["sockname"] = None
        if "peername" not in info:
            try:
                info["peername"] = sock.getpeername()
            except OSError:
                info["peername"] = None  # the peer is gone already
        return info

    @property
    def _sock(self) -> socket.socket | None:
        return self._get_socket() if self._open else None

    def _get_socket(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(fileno=self._sock_fd)
            self._socket.setblocking(False)
        return self._socket

    def _get_face(self) -> Any:
        """What users see of the socket; a closed one once the transport is."""
        if self._face is None:
            if not self._open and self._socket is None:
                self._socket = socket.socket(addresses.family(self._addresses))
                self._socket.close()
            self._face = trsock.TransportSocket(self._get_socket())  # type: ignore[attr-defined]
        return self._face

    def _close_socket(self) -> None:
        self._open = False
        if self._socket is None:
            close_fd(self._sock_fd)
        else:
            self._socket.close()

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        buffered = isinstance(protocol, asyncio.BufferedProtocol)
        if self._stream.reading and buffered != self._buffered and not self._stream.closed:
            # What is in flight was asked for in the old way: take it in before asking in the new one.
            self._stream.stop_reading()
            self._stream.set_direct(buffered)
            self._stream.start_reading()
        else:
            self._stream.set_direct(buffered)
        self._protocol = protocol
        self._buffered = buffered

    def is_closing(self) -> bool:
        return bool(self._closing)

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self._closing or self._paused:
            return
        self._paused = True
        self._stream.stop_reading()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._made and not self._read_eof:
            self._stream.start_reading()
            if self._eof_next:
                self._stream.again()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def write(self, data: Any) -> None:
        if type(data) is bytes:
            chunk = data
        else:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(
                    f"data argument must be a bytes-like object, not {type(data).__name__!r}"
                )
            chunk = bytes(data)  # the caller may change it once we have returned
            self._stream.sent.add(0, len(chunk))
        if self._eof or self._empty_waiter is not None:
            self._refuse("write")
        if len(chunk) == 0 or (self._conn_lost and self._count_lost_write()):
            return
        try:
            self._stream.write(chunk)
        except OSError as exc:
            self._fatal_error(exc, "Fatal write error on socket transport")
            return
        if self._stream.pending > self._high_water:
            self._maybe_pause_protocol()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        if self._eof or self._empty_waiter is not None:
            self._refuse(_WRITELINES)
        chunks = []
        for data in list_of_data:
            # Through a view: bytes(7) would be seven zeros.
            if type(data) is bytes:
                chunk = data
            else:
                chunk = bytes(memoryview(data))
                self._stream.sent.add(0, len(chunk))
            if len(chunk):
                chunks.append(chunk)
        if not chunks or (self._conn_lost and self._count_lost_write()):
            return
        try:
            self._stream.write_many(chunks)
        except OSError as exc:
            self._fatal_error(exc, "Fatal write error on socket transport")
            return
        if self._stream.pending > self._high_water:
            self._maybe_pause_protocol()

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        try:
            self._stream.flush()
        except OSError as exc:
            self._fatal_error(exc, "Fatal write error on socket transport")
            return
        if self._stream.pending:
            self._stream.awaited = True
        else:
            self._shutdown_write()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        if self._stream.pending and not self._closing:
            try:
                self._stream.flush()
            except OSError as exc:
                self._fatal_error(exc, "Fatal write error on socket transport")
        return self._stream.pending

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
        self._close(None)

    def _close(self, context: Any) -> None:
        """Close; ``context`` is where ``connection_lost`` runs, None for that of the caller."""
        if self._closing:
            return
        self._closing = True
        self._stream.stop_reading()
        try:
            self._stream.flush()
        except OSError as exc:
            self._conn_lost += 1
            self._loop.call_soon(self._end, exc, context=context)
            return
        if self._stream.pending:
            if not self._protocol_paused:
                self._output_context = copy_context() if context is None else context
            self._stream.awaited = True
        elif self._protocol_paused:
            # It was asked to pause and may hold output back: it is asked to resume before the end.
            self._stream.announce_progress()
        else:
            self._conn_lost += 1
            self._loop.call_soon(self._end, None, context=context)

    def abort(self) -> None:
        self._force_close(None)

    # -- from the stream -------------------------------------------------------------------------------------

    def context(self) -> Any:
        return self._context

    def readable(self) -> None:
        if self._buffered:
            self._fill_user_buffer()
            return
        stream = self._stream
        if self._eof_next:
            self._on_eof()
            return
        for count in range(_READS_PER_STEP):
            try:
                data = stream.receive()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._broken_off(exc, "Fatal read error on socket transport")
                return
            if data is None:
                return
            if len(data) == 0:
                self._end_reached(count)
                return
            try:
                run_method1(self._context, self._protocol, "data_received", data)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._broken_off(exc, "Fatal error: protocol.data_received() call failed.")
                return
            if not stream.reading or self._buffered:
                return

    def progress(self) -> None:
        if self._protocol_paused and self._stream.pending <= self._low_water:
            self._output_context.run(self._resume_protocol)
        self._written()

    def broken(self, exc: OSError) -> None:
        if self._empty_waiter is not None:
            self._empty_waiter.set_exception(exc)
        self._broken_off(exc, "Fatal write error on socket transport")

    def _fill_user_buffer(self) -> None:
        stream = self._stream
        if self._eof_next:
            self._on_eof()
            return
        for delivered in range(_READS_PER_STEP):
            if not stream.has_more():
                return
            try:
                buffer = self._context.run(self._protocol.get_buffer, -1)
                if not len(buffer):
                    raise RuntimeError("get_buffer() returned an empty buffer")
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._broken_off(exc, "Fatal error: protocol.get_buffer() call failed.")
                return
            if stream.closed or not stream.reading:
                return
            try:
                count = stream.receive_into(buffer)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._broken_off(exc, "Fatal read error on socket transport")
                return
            if count < 0:
                return
            if count == 0:
                self._end_reached(delivered)
                return
            try:
                run_method1(self._context, self._protocol, "buffer_updated", count)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._broken_off(exc, "Fatal error: protocol.buffer_updated() call failed.")
                return
            if not stream.reading or not self._buffered:
                return

    def _end_reached(self, delivered: int) -> None:
        """The end of the stream; behind data it waits for a step of its own, so that whoever the data woke
        runs before the protocol hears of the end."""
        if delivered:
            self._eof_next = True
            self._stream.again()
        else:
            self._on_eof()

    def _on_eof(self) -> None:
        self._eof_next = False
        self._read_eof = True
        self._stream.stop_reading()
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._context.run(self._protocol.eof_received)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._broken_off(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self._close(self._context.copy())
        elif not self._stream.pending:
            self._let_go()

    def _let_go(self) -> None:
        """Half-open and idle it lives as long as somebody knows it, as in asyncio: nothing will happen to it by itself,
        and a server whose handler forgot to close it would have the descriptor for good."""
        if not self._closing:
            self._stream.let_go()
            self._loop._transports[self._sock_fd] = weakref.ref(self)

    def _written(self) -> None:
        """Go on with what was waiting for the output to drain."""
        if self._stream.pending or not self._open:
            return
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        if self._closing:
            if not self._conn_lost:
                self._conn_lost += 1
                self._output_context.run(self._finish, None)
        elif self._eof and self._stream.awaited:
            self._stream.awaited = False
            self._shutdown_write()
        if self._read_eof and self._open:
            self._let_go()

    def _shutdown_write(self) -> None:
        try:
            self._get_socket().shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._fatal_error(exc, "Fatal error on shutdown of socket transport")

    # -- life ------------------------------------------------------------------------------------------------

    def _begin(self, waiter: Any) -> None:
        """The transport's first step: introduce it to its protocol, then let it read."""
        self._stream.enter()
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.connection_made() failed", exc)
        finally:
            self._made = True
            self._stream.leave()
            if not self._closing and not self._paused:
                self._stream.start_reading()
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _force_close(self, exc: BaseException | None, context: Any = None) -> None:
        if self._conn_lost:
            return
        self._stream.discard_output()
        if not self._closing:
            self._closing = True
            self._stream.stop_reading()
        self._conn_lost += 1
        self._loop.call_soon(self._end, exc, context=context)

    def _end(self, exc: BaseException | None) -> None:
        """The last step, but not while a call of the protocol is suspended: this one comes after it."""
        if self._stream.busy:
            self._stream.last = Handle(self._finish, (exc,), self._loop)
        else:
            self._finish(exc)

    def _finish(self, exc: BaseException | None) -> None:
        """The transport's last step."""
        try:
            if self._made:
                self._protocol.connection_lost(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report("protocol.connection_lost() failed", error)
        finally:
            self._stream.close()
            self._loop._transports.pop(self._sock_fd, None)
            self._close_socket()
            self._protocol = None
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_exception(
                    ConnectionError("the connection was closed while its output was draining")
                )
            if self._server is not None:
                self._detach_server()

    def _detach_server(self) -> None:
        server = self._server
        self._server = None
        self._loop._detach_from_server(server, self)

    def _broken_off(self, exc: BaseException, message: str) -> None:
        """A fatal error in a step of the stream's, which has no context of its own."""
        self._fatal_error(exc, message, self._context.copy())

    def _fatal_error(
        self,
        exc: BaseException,
        message: str = "Fatal error on transport",
        context: Any = None,
    ) -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        else:
            self._loop.call_exception_handler(
                {
                    "message": message,
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        self._force_close(exc, context)

    # -- flow control ----------------------------------------------------------------------------------------

    def _refuse(self, method: str) -> None:
        """The output has ended, or is not the protocol's at the moment."""
        if self._eof:
            raise RuntimeError(f"Cannot call {method}() after write_eof()")
        raise RuntimeError(f"unable to {method}; sendfile is in progress")

    def _count_lost_write(self) -> bool:
        """A write that goes nowhere, because the connection is lost; asyncio lets a few pass without a word."""
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._conn_lost += 1
        return True

    def _maybe_pause_protocol(self) -> None:
        if self._stream.pending <= self._high_water or self._protocol_paused:
            return
        self._protocol_paused = True
        self._output_context = copy_context()
        self._stream.awaited = True
        self._stream.enter()
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.pause_writing() failed", exc)
        finally:
            self._stream.leave()

    def _resume_protocol(self) -> None:
        self._protocol_paused = False
        if not (self._eof or self._closing):
            self._stream.awaited = False
        try:
            self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.resume_writing() failed", exc)

    def _report(self, message: str, exc: BaseException) -> None:
        self._loop.call_exception_handler(
            {
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )

    def _make_empty_waiter(self) -> Any:
        """A future for the moment all output has left (``loop.sendfile``); writes are refused meanwhile."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        try:
            self._stream.flush()
        except OSError as exc:
            self._fatal_error(exc, "Fatal write error on socket transport")
        self._empty_waiter = self._loop.create_future()
        if self._conn_lost:
            self._empty_waiter.set_exception(ConnectionError("the connection is closing"))
        elif not self._stream.pending:
            self._empty_waiter.set_result(None)
        else:
            self._stream.awaited = True
        return self._empty_waiter

    def _take_received(self) -> bytes | None:
        """Bytes received before reading was paused, which the protocol has not had; None for no more."""
        return self._stream.take_received()

    async def _wait_writable(self) -> None:
        """Wait until the socket takes more (``loop.sendfile``, which writes past the stream)."""
        future = self._loop.create_future()
        self._stream.wait_writable(FutureStep(future))
        await future

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None
