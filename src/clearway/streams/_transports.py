"""A stream on an asyncio transport: TLS, pipes, and whatever else only comes as one.

A transport hands out ``bytes`` that it has copied from somewhere and copies what it is given unless that is
``bytes``. The leases here are on its ``bytes``, so nothing is copied a second time; what it copied itself is entered in
the account.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from clearway.buffers.lease import Lease
from clearway.engine.blocks import copied_lease
from clearway.loop.statistics import ledger_of
from clearway.streams._body import Body

#: Bytes received ahead of a reader before the transport is told to pause (asyncio: twice the limit of 64 KiB).
AHEAD_MAX = 128 * 1024


class TransportBody(Body, asyncio.Protocol):
    """The protocol of the transport it stands on."""

    def __init__(self) -> None:
        # The transport's own engine counts what it moves; these are on top of that.
        ledger = ledger_of(asyncio.get_running_loop())
        super().__init__(ledger.account("transport receive"), ledger.account("transport send"))
        self._transport: Any = None
        self._inner: Any = None
        self._chunks: deque[bytes] = deque()
        self._ahead = 0
        self._eof = False
        self._error: OSError | None = None
        self._lost = False
        self._awaited = False

    # -- what the transport calls ------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def take_over(self, transport: Any, early: bytes, ended: bool) -> None:
        """Become the protocol of ``transport``, which has another one.

        :param early: what that one has received and nobody has had. :param ended: and then the end.
        """
        self._inner = transport.get_protocol()
        self._transport = transport
        if early:
            self.data_received(early)
        self._eof = ended
        transport.set_protocol(self)
        if not ended:
            transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._chunks.append(bytes(data))
        self._ahead += len(data)
        if self._ahead > AHEAD_MAX:
            self._transport.pause_reading()
        self.front.input_ready()

    def eof_received(self) -> bool:
        self._eof = True
        self.front.input_ready()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._eof = True
        if exc is not None:
            self._error = exc if isinstance(exc, OSError) else ConnectionError(str(exc))
            self.front.output_failed(self._error)
        elif not self._transport_closed:
            self.front.output_failed(ConnectionError("the transport was closed"))
        self.front.input_ready()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    _transport_closed = False

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        if self._awaited:
            self.front.output_moved()

    # -- what the stream calls ---------------------------------------------------------------------------------

    def receive(self) -> Lease | bytes | None:
        if self._chunks:
            data = self._chunks.popleft()
            self._ahead -= len(data)
            if self._ahead <= AHEAD_MAX // 4 and not self._transport.is_closing():
                self._transport.resume_reading()
            self.received.add(len(data), len(data))
            return copied_lease(data, self.received)
        if self._error is not None:
            raise self._error
        return b"" if self._eof else None

    def write(self, piece: bytes | Lease) -> None:
        self.write_many([piece])

    def write_many(self, pieces: list[bytes | Lease]) -> None:
        if self._lost:
            for piece in pieces:
                if not isinstance(piece, bytes):
                    piece.release()
            raise self._error or ConnectionError("the connection was lost")
        chunks = []
        for piece in pieces:
            if not isinstance(piece, bytes):
                with piece:
                    self.sent.add(0, len(piece))
                    with piece.view as view:
                        chunks.append(view.tobytes())
            else:
                chunks.append(piece)
        # Taken by the transport is all that can be known of it.
        self.sent.add(sum(map(len, chunks)), 0)
        if len(chunks) == 1:
            self._transport.write(chunks[0])
        else:
            self._transport.writelines(chunks)

    def pending(self) -> int:
        return 0 if self._lost else int(self._transport.get_write_buffer_size())

    def await_output(self, wanted: bool) -> None:
        self._awaited = wanted
        if wanted and not self._lost:
            # Told at each mark: at once above the first byte, and again when the last has left.
            self._transport.set_write_buffer_limits(high=0)

    def check_can_end(self) -> None:
        if not self._transport.can_write_eof():
            raise NotImplementedError(
                "this transport (TLS) cannot end one direction: close the stream"
            )

    def end_output(self) -> None:
        self._transport.write_eof()

    def close(self) -> None:
        self._transport_closed = True
        self._transport.close()

    def abort(self) -> None:
        self._transport_closed = True
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
