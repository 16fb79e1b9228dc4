"""TLS over any stream transport of ours: a protocol to what is below, a transport to the user.

The cryptography is the standard library's (``ssl.SSLContext.wrap_bio``); this file is about what
surrounds it. Where the time of the standard library's own layer goes, and what is done about it:

- It reads until OpenSSL says "want read", and each of those is an exception. Here a read is only
  tried when ciphertext is there, and a record that came alone is the one read it takes.
- It asks for 256 KiB and keeps a receive buffer of that size per connection. Here the chunk from
  the socket goes into OpenSSL's buffer, and a read asks for what that can contain.
- It hands everything to OpenSSL although the socket takes no more. Here plaintext waits as it is
  (exact ``bytes`` by reference), small pieces that waited together become one record, and what is
  encrypted has room to go.

States: UNWRAPPED -> HANDSHAKE -> WRAPPED -> FLUSHING (our output is on its way) -> SHUTDOWN (our
close_notify is); from each of them back to UNWRAPPED when the connection is aborted or lost.

A peer that ends the byte stream without close_notify has truncated it: the protocol sees the same
end of file as from asyncio, and ``get_extra_info("close_notify")`` tells the two apart (True,
False; None: no end yet).
"""

from __future__ import annotations

import ssl
import warnings
from asyncio import BufferedProtocol, CancelledError, constants, sslproto
from asyncio.log import logger
from collections.abc import Iterable
from typing import Any

from clearway.buffers.account import Account
from clearway.loop.transports.stream import StreamTransport

UNWRAPPED = 0
HANDSHAKE = 1
WRAPPED = 2
FLUSHING = 3
SHUTDOWN = 4

#: Plaintext of one TLS record at most (RFC 8446, 5.1).
RECORD_MAX = 16 * 1024

#: Plaintext encrypted before the transport below is asked whether it takes more: its own high-water
#: mark. Also half of glibc's mmap threshold, so that the buffers this makes come from the heap.
SLICE = 64 * 1024

#: Buffers of a ``BufferedProtocol`` filled in one step before others get their turn (stream.py).
FILLS_PER_STEP = 16

#: What TLS copies by its nature, for the accounts: a memory BIO's data once on the way in and once on the way out;
#: OpenSSL the plaintext once, between its record buffer and the caller's memory (and encrypts in the record buffer).
BIO_COPIES = 2

# C integers when compiled (tls.pxd).
_UNWRAPPED = UNWRAPPED
_HANDSHAKE = HANDSHAKE
_WRAPPED = WRAPPED
_FLUSHING = FLUSHING
_SHUTDOWN = SHUTDOWN
_RECORD_MAX = RECORD_MAX
_SLICE = SLICE
_FILLS_PER_STEP = FILLS_PER_STEP
_BIO_COPIES = BIO_COPIES

_STATE_NAMES = ("unwrapped", "handshake", "open", "flushing", "shutdown")

# What a memory BIO answers when it is empty; the second came with some OpenSSL 1.1 releases.
_AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)


class TLSTransport:
    """The encrypted transport (an ``asyncio.Transport``) and, to the transport below, a protocol.

    :param waiter: a future resolved when the handshake is done and ``connection_made`` was called.
    :param sslcontext: None on the client side means ``ssl.create_default_context()``.
    :param server_hostname: for SNI and the check of the certificate; clients only.
    :param call_connection_made: False when the protocol is connected already (``start_tls``).
    :param ssl_handshake_timeout: seconds until the handshake is given up, default 60 as in asyncio.
    :param ssl_shutdown_timeout: seconds from ``close()`` until the connection is cut, default 30.
    :raises ValueError: a server without a context, or a time-out that is not positive.
    """

    # An extension class cannot derive from asyncio.Transport (see StreamTransport).
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return sslproto._SSLProtocolTransport  # some tell an encrypted transport by this name

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(
        self,
        loop: Any,
        protocol: Any,
        sslcontext: ssl.SSLContext | None,
        waiter: Any = None,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._closed = True  # nothing to warn of until there is a connection
        if ssl_handshake_timeout is None:
            ssl_handshake_timeout = constants.SSL_HANDSHAKE_TIMEOUT
        elif ssl_handshake_timeout <= 0:
            raise ValueError(
                f"ssl_handshake_timeout should be a positive number, got {ssl_handshake_timeout}"
            )
        if ssl_shutdown_timeout is None:
            ssl_shutdown_timeout = constants.SSL_SHUTDOWN_TIMEOUT
        elif ssl_shutdown_timeout <= 0:
            raise ValueError(
                f"ssl_shutdown_timeout should be a positive number, got {ssl_shutdown_timeout}"
            )
        if not sslcontext:
            sslcontext = _default_context(server_side, server_hostname)
        self._loop = loop
        self._waiter = waiter
        self._extra: dict[str, Any] = {"sslcontext": sslcontext, "close_notify": None}
        self._lower: Any = None
        self._tcp: StreamTransport | None = None
        self._state = _UNWRAPPED
        self._app_made = not call_connection_made
        self._app_ended = False
        self._discarding = False
        self._peer_eof = False
        self._read_ended = False
        self._delivering = False
        # Calls of the protocol that have not returned, and what must wait until they have: see _returned.
        self._calls = 0
        self._controlling = False
        self._eof_due = False
        self._last: Any = None
        self._app_paused = False
        self._lower_reading_paused = False
        self._lower_writing_paused = False
        self._protocol_paused = False
        self._conn_lost = 0
        self._backlog: list[bytes] = []
        self._backlog_offset = 0
        self._backlog_size = 0
        self._handshake_timeout = ssl_handshake_timeout
        self._shutdown_timeout = ssl_shutdown_timeout
        self._timer: Any = None
        self._began = 0.0
        self._write_high, self._write_low = _limits(None, None, 512)
        self._read_high, self._read_low = _limits(None, None, 256)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        sslobj = sslcontext.wrap_bio(
            incoming,
            outgoing,
            server_side=server_side,
            server_hostname=server_hostname if server_hostname and not server_side else None,
        )
        self._incoming = incoming
        self._outgoing = outgoing
        self._incoming_write = incoming.write
        self._outgoing_read = outgoing.read
        self._sslobj = sslobj
        # The object inside does the same without a Python frame per call.
        inner: Any = sslobj
        if type(sslobj) is ssl.SSLObject:
            inner = sslobj._sslobj  # type: ignore[attr-defined]
        self._ssl_read = inner.read
        self._ssl_write = inner.write
        self._ssl_pending = inner.pending
        self._received: Account = loop._ledger.account("tls receive")
        self._sent: Account = loop._ledger.account("tls send")
        self._app_protocol: Any = None
        self._buffered = False
        self.set_protocol(protocol)
        self._closed = False

    # -- what users see ----------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = _STATE_NAMES[self._state]
        version = self._sslobj.version() if self._sslobj is not None else None
        return f"<clearway.TLSTransport {state} {version or 'no version yet'} over {self._lower!r}>"

    def __del__(self) -> None:
        if not self._closed:
            self._closed = True
            warnings.warn(
                "unclosed transport <clearway.TLSTransport>", ResourceWarning, stacklevel=2
            )

    @property
    def _ssl_protocol(self) -> Any:
        """asyncio has two objects where this is one."""
        return self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in self._extra:
            return self._extra[name]
        if self._lower is not None:
            return self._lower.get_extra_info(name, default)
        return default

    def get_protocol(self) -> Any:
        return self._app_protocol

    def set_protocol(self, protocol: Any) -> None:
        self._app_protocol = protocol
        self._buffered = isinstance(protocol, BufferedProtocol)

    def is_closing(self) -> bool:
        return bool(self._closed)

    def is_reading(self) -> bool:
        return not self._app_paused

    def pause_reading(self) -> None:
        self._app_paused = True

    def resume_reading(self) -> None:
        if self._app_paused:
            self._app_paused = False
            self._loop.call_soon(self._resumed)

    def write(self, data: Any) -> None:
        if type(data) is bytes:
            chunk = data
        else:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            chunk = bytes(data)  # the caller may change it once we have returned
            self._sent.add(0, len(chunk))
        if len(chunk) == 0 or self._refused():
            return
        self._backlog.append(chunk)
        self._backlog_size += len(chunk)
        self._flush()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        chunks = []
        for data in list_of_data:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            if len(data):
                if type(data) is not bytes:
                    data = bytes(data)
                    self._sent.add(0, len(data))
                chunks.append(data)
        if not chunks or self._refused():
            return
        for chunk in chunks:
            self._backlog.append(chunk)
            self._backlog_size += len(chunk)
        self._flush()

    def write_eof(self) -> None:
        raise NotImplementedError("TLS has no half-close: close_notify ends both directions")

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return int(self._backlog_size + self._outgoing.pending)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (self._write_low, self._write_high)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._write_high, self._write_low = _limits(high, low, 512)
        self._control_app_writing()

    def get_read_buffer_size(self) -> int:
        """Bytes received and not yet decrypted."""
        return int(self._incoming.pending)

    def get_read_buffer_limits(self) -> tuple[int, int]:
        return (self._read_low, self._read_high)

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """While reading is paused, receive up to ``high`` bytes, then pause the transport below."""
        self._read_high, self._read_low = _limits(high, low, 256)
        self._control_lower_reading()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._discarding = True
            self._start_shutdown()

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        self._closed = True
        self._state = _UNWRAPPED
        if self._lower is not None:
            self._lower._force_close(exc)

    def _test__append_write_backlog(self, data: bytes) -> None:
        self._backlog.append(data)  # CPython's tests build up a backlog with this
        self._backlog_size += len(data)

    # -- from the transport below ------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._lower = transport
        if type(transport) is StreamTransport:
            self._tcp = transport
        if self._closed:  # the caller gave up before the first step
            transport._force_close(None)
            return
        loop = self._loop
        if loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
        self._began = loop.time()
        self._state = _HANDSHAKE
        self._timer = loop.call_later(self._handshake_timeout, self._handshake_overdue)
        self._do_handshake()

    def data_received(self, data: bytes) -> None:
        self._incoming_write(data)
        self._received.add(0, _BIO_COPIES * len(data))
        if self._state == _WRAPPED:
            self._read()
        elif self._state == _HANDSHAKE:
            self._do_handshake()
        elif self._state == _FLUSHING:
            self._finish_flushing()
        elif self._state == _SHUTDOWN:
            self._do_shutdown()

    def eof_received(self) -> bool:
        """The byte stream ended; True while something is left to do before it closes."""
        self._peer_eof = True
        if self._extra["close_notify"] is None:
            self._extra["close_notify"] = False
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        if self._state == _HANDSHAKE:
            self._handshake_failed(
                ConnectionResetError("the peer closed the connection during the TLS handshake")
            )
        elif self._state == _WRAPPED:
            self._read()  # and what follows the last byte; waits if the protocol has paused reading
        elif self._state == _FLUSHING:
            self._finish_flushing()
        elif self._state == _SHUTDOWN:
            self._do_shutdown()
        return bool(self._state == _WRAPPED or self._state == _FLUSHING)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._backlog.clear()
        self._backlog_size = 0
        self._outgoing_read()
        self._conn_lost += 1
        self._closed = True
        self._cancel_timer()
        protocol = None
        if self._state == _HANDSHAKE:
            if exc is None:
                exc = ConnectionAbortedError("the connection was closed during the TLS handshake")
        elif self._app_made:
            self._app_made = False
            protocol = self._app_protocol
        self._state = _UNWRAPPED
        self._app_protocol = None
        self._wake_waiter(exc)
        if protocol is not None:
            if self._calls:
                self._last = (protocol, exc)  # suspended in there: this comes after it
            else:
                # This is the last step of the transport below, which reports what is raised here.
                protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._lower_writing_paused = True

    def resume_writing(self) -> None:
        self._lower_writing_paused = False
        if self._state == _FLUSHING:
            self._finish_flushing()
        else:
            self._flush()

    # -- handshake ---------------------------------------------------------------------------------

    def _do_handshake(self) -> None:
        try:
            self._sslobj.do_handshake()
        except _AGAIN:
            self._send()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._handshake_failed(exc)
        else:
            self._handshake_done()

    def _handshake_failed(self, exc: BaseException) -> None:
        self._cancel_timer()
        self._state = _UNWRAPPED
        self._send()  # the alert that tells the peer why,
        if self._lower is not None:
            # which this flushes: the close drops what waits for the end of the turn.
            self._lower.get_write_buffer_size()
        if isinstance(exc, ssl.CertificateError):
            message = "SSL handshake failed on verifying the certificate"
        else:
            message = "SSL handshake failed"
        self._fatal_error(exc, message)
        self._wake_waiter(exc)

    def _handshake_done(self) -> None:
        self._cancel_timer()
        sslobj = self._sslobj
        try:
            peercert = sslobj.getpeercert()
        except Exception as exc:
            self._handshake_failed(exc)
            return
        self._state = _WRAPPED
        if self._loop.get_debug():
            took_s = self._loop.time() - self._began
            logger.debug("%r: SSL handshake took %.1f ms", self, took_s * 1e3)
        self._extra["peercert"] = peercert
        self._extra["cipher"] = sslobj.cipher()
        self._extra["compression"] = sslobj.compression()
        self._extra["ssl_object"] = sslobj
        self._send()
        if not self._app_made:
            self._app_made = True
            self._delivering = True
            self._calls += 1
            try:
                self._app_protocol.connection_made(self)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error: protocol.connection_made() call failed.")
                return
            finally:
                self._delivering = False
                self._returned()
        self._wake_waiter(None)
        if self._state == _WRAPPED:
            self._flush()
            self._read()

    def _handshake_overdue(self) -> None:
        if self._state == _HANDSHAKE:
            self._fatal_error(
                ConnectionAbortedError(
                    f"SSL handshake is taking longer than {self._handshake_timeout} seconds: "
                    f"aborting the connection"
                )
            )

    def _wake_waiter(self, exc: BaseException | None) -> None:
        waiter = self._waiter
        self._waiter = None
        if waiter is not None and not waiter.done():
            if exc is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(exc)

    # -- incoming ----------------------------------------------------------------------------------

    def _resumed(self) -> None:
        if self._state == _WRAPPED and not self._app_paused:
            self._read()

    def _read(self) -> None:
        """Hand what has arrived to the protocol. Only while the state is WRAPPED."""
        if self._delivering:
            return  # who delivers (and may be suspended there) looks again afterwards
        self._delivering = True
        self._calls += 1
        try:
            if not self._app_paused:
                if self._buffered:
                    self._read_into()
                else:
                    self._read_chunks()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")
            return
        finally:
            self._delivering = False
            self._returned()
        if self._state != _WRAPPED:
            return
        if self._read_ended:
            self._extra["close_notify"] = True
            self._peer_ended()
        elif self._peer_eof and not self._app_paused:
            self._peer_ended()
        else:
            self._flush()  # an answer to a key update, and writes that had to wait for a read
            self._control_lower_reading()

    def _returned(self) -> None:
        """A call of the protocol is over; while it was suspended others had to wait."""
        self._calls -= 1
        if self._last is not None:
            if not self._calls:
                protocol, exc = self._last
                self._last = None
                if self._eof_due:
                    self._loop.call_soon(protocol.eof_received)
                self._loop.call_soon(protocol.connection_lost, exc)
        elif self._eof_due and not self._delivering:
            self._eof_due = False
            self._call_eof_received()

    def _read_chunks(self) -> None:
        while True:
            first = None
            parts = None
            ended = False
            want = self._incoming.pending
            if want == 0:
                want = self._ssl_pending()
            try:
                while want:
                    if want > _RECORD_MAX:
                        want = _RECORD_MAX
                    chunk = self._ssl_read(want)
                    if len(chunk) == 0:
                        ended = True
                        break
                    if first is None:
                        first = chunk
                    elif parts is None:
                        parts = [first, chunk]
                    else:
                        parts.append(chunk)
                    # A read that got less than it asked for has emptied its record.
                    if len(chunk) == want:
                        want = self._ssl_pending()
                        if want:
                            continue
                    want = self._incoming.pending
            except _AGAIN:
                pass
            if first is None and not ended:
                return
            if first is not None:
                data = first
                if parts is not None:
                    data = b"".join(parts)
                    self._received.add(0, len(data))
                self._received.add(len(data), len(data))
                self._app_protocol.data_received(data)
            if self._state != _WRAPPED:
                return
            if ended:
                self._read_ended = True
                return
            if self._app_paused or self._buffered or not self._incoming.pending:
                return

    def _read_into(self) -> None:
        """Decrypt into the buffers of a ``BufferedProtocol``."""
        for _ in range(_FILLS_PER_STEP):
            want = self._incoming.pending
            if want == 0:
                want = self._ssl_pending()
                if want == 0:
                    return
            buffer = self._app_protocol.get_buffer(want)
            size = len(buffer)
            if size == 0:
                raise RuntimeError("get_buffer() returned an empty buffer")
            offset = 0
            count = 1
            view = memoryview(buffer)
            try:
                while offset < size:
                    left = size - offset
                    count = self._ssl_read(left, view[offset:] if offset else view)
                    if count == 0:
                        break
                    offset += count
                    if count < left and not self._incoming.pending:
                        break
            except _AGAIN:
                count = -1
            finally:
                view.release()  # its owner may want to resize it
            if offset:
                self._received.add(offset, offset)
                self._app_protocol.buffer_updated(offset)
            if self._state != _WRAPPED:
                return
            if count == 0:
                self._read_ended = True
                return
            if count < 0 or self._app_paused or not self._buffered:
                return
        self._loop.call_soon(self._resumed)

    def _drop_received(self) -> None:
        """Decrypt and forget: after ``close()`` only the peer's close_notify still counts."""
        try:
            while self._ssl_read(_RECORD_MAX):
                pass
            self._extra["close_notify"] = True
        except _AGAIN:
            pass
        except ssl.SSLError:
            self._peer_eof = True  # whatever comes now, it is not a close_notify

    def _peer_ended(self) -> None:
        """The peer has sent its last byte: send what is still to be written, and close."""
        if self._app_ended:
            return  # it is being told, and suspended there: whoever tells it closes
        self._call_eof_received()
        self._start_shutdown()

    def _call_eof_received(self) -> None:
        if not self._app_made or self._app_ended:
            return
        if self._delivering:
            self._eof_due = True  # suspended in there: this comes after it
            return
        self._app_ended = True
        self._calls += 1
        try:
            if self._app_protocol.eof_received():
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Error calling eof_received()")
        finally:
            self._returned()

    def _control_lower_reading(self) -> None:
        if self._lower is None:
            return
        if self._lower_reading_paused:
            if self._incoming.pending <= self._read_low:
                self._lower_reading_paused = False
                self._lower.resume_reading()
        elif self._app_paused and self._incoming.pending >= self._read_high:
            self._lower_reading_paused = True
            self._lower.pause_reading()

    # -- outgoing ----------------------------------------------------------------------------------

    def _refused(self) -> bool:
        """Whether a write must be dropped because the connection is closing or lost."""
        if self._state == _WRAPPED or self._state == _HANDSHAKE:
            return False
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("SSL connection is closed")
        self._conn_lost += 1
        return True

    def _flush(self) -> None:
        """Encrypt the backlog and pass it on, as far as the transport below takes it."""
        if self._state == _WRAPPED or self._state == _FLUSHING:
            try:
                while self._backlog_size and not self._lower_writing_paused:
                    if not self._encrypt():
                        break
                    self._send()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error on SSL protocol")
                return
        self._send()
        if self._protocol_paused or self._backlog_size > self._write_high:
            self._control_app_writing()

    def _encrypt(self) -> bool:
        """Encrypt up to a slice of the backlog; False when OpenSSL has to read first."""
        backlog = self._backlog
        if len(backlog) > 1 and self._backlog_offset == 0 and len(backlog[0]) < _RECORD_MAX:
            self._sent.add(0, _join_small(backlog))
        room = _SLICE
        count = 0
        try:
            while backlog and room > 0:
                head = backlog[0]
                size = len(head)
                if self._backlog_offset == 0 and size <= _RECORD_MAX:
                    count = self._ssl_write(head)
                else:
                    # No more of it than the slice: OpenSSL's buffer takes whatever it is given. Whole records, and
                    # no less than the last time, should OpenSSL have had to read first.
                    if room < _RECORD_MAX:
                        room = _RECORD_MAX
                    with memoryview(head) as view:
                        begin = self._backlog_offset
                        count = self._ssl_write(view[begin : begin + room])
                room -= count
                self._encrypted_head(count)
        except _AGAIN:
            return False
        return True

    def _encrypted_head(self, count: int) -> None:
        self._sent.add(count, count)
        self._backlog_size -= count
        self._backlog_offset += count
        if self._backlog_offset == len(self._backlog[0]):
            del self._backlog[0]
            self._backlog_offset = 0

    def _send(self) -> None:
        if self._lower_writing_paused:
            return
        data = self._outgoing_read()
        if len(data) == 0:
            return
        self._sent.add(0, _BIO_COPIES * len(data))
        if self._tcp is not None:
            self._tcp.write(data)
        elif self._lower is not None:
            self._lower.write(data)

    def _control_app_writing(self) -> None:
        if self._controlling:
            return  # who is in there (and may be suspended) looks again afterwards
        self._controlling = True
        self._calls += 1
        try:
            while self._app_protocol is not None:
                size = self._backlog_size + self._outgoing.pending
                if not self._protocol_paused:
                    if size <= self._write_high:
                        return
                    self._protocol_paused = True
                    name = "pause_writing"
                else:
                    if size > self._write_low:
                        return
                    self._protocol_paused = False
                    name = "resume_writing"
                try:
                    getattr(self._app_protocol, name)()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    self._report(f"protocol.{name}() failed", exc)
        finally:
            self._controlling = False
            self._returned()

    # -- shutdown ----------------------------------------------------------------------------------

    def _start_shutdown(self) -> None:
        self._closed = True
        if self._state == _HANDSHAKE:
            self._force_close(None)
        elif self._state == _WRAPPED:
            self._state = _FLUSHING
            self._timer = self._loop.call_later(self._shutdown_timeout, self._shutdown_overdue)
            self._finish_flushing()

    def _finish_flushing(self) -> None:
        """Close as soon as everything is encrypted and on its way."""
        if not self._peer_eof:
            self._drop_received()
            self._control_lower_reading()
        self._flush()
        if self._state == _FLUSHING and self._backlog_size == 0:
            self._state = _SHUTDOWN
            self._do_shutdown()

    def _do_shutdown(self) -> None:
        try:
            if not self._peer_eof:
                self._sslobj.unwrap()
        except _AGAIN:
            self._send()  # our close_notify; the peer's is to come
        except ssl.SSLError as exc:
            # A peer that goes on sending does not want to end together with us: no error of ours.
            after = exc.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
            self._shutdown_done(None if after else exc)
        else:
            if not self._peer_eof:
                self._extra["close_notify"] = True
            self._call_eof_received()
            self._shutdown_done(None)

    def _shutdown_done(self, exc: BaseException | None) -> None:
        self._cancel_timer()
        if exc is not None:
            self._fatal_error(exc)
            return
        self._lower_writing_paused = False  # it flushes before it closes
        self._send()
        self._loop.call_soon(self._lower.close)

    def _shutdown_overdue(self) -> None:
        if self._state == _FLUSHING or self._state == _SHUTDOWN:
            self._lower._force_close(TimeoutError("SSL shutdown timed out"))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if self._lower is not None:
            self._lower._force_close(exc)
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        elif not isinstance(exc, CancelledError):
            self._report(message, exc)

    def _report(self, message: str, exc: BaseException) -> None:
        self._loop.call_exception_handler(
            {
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self._app_protocol,
            }
        )


def _join_small(backlog: list[bytes]) -> int:
    """Make one piece, at most a record long, of the small ones in front: a copy costs less.

    A piece that OpenSSL refused for now has to be offered again at the front: it stays there.
    Returns the bytes that were copied.
    """
    size = 0
    count = 0
    for piece in backlog:
        if size + len(piece) > RECORD_MAX:
            break
        size += len(piece)
        count += 1
    if count < 2:
        return 0
    backlog[:count] = [b"".join(backlog[:count])]
    return size


def _limits(high: int | None, low: int | None, default_kib: int) -> tuple[int, int]:
    """(high, low) water marks in bytes; low is a quarter of high unless given, as in asyncio."""
    if high is None:
        high = default_kib * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


def _default_context(server_side: bool, server_hostname: str | None) -> ssl.SSLContext:
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context
