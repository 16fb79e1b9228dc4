"""``ByteStream``: bytes in and out of a connection as leases, waiting where there is nothing to do but wait.

The problem. A protocol is handed bytes that were copied out of the kernel's buffer, whether it wants them now or
not. Here a task *asks*, and gets a lease on the memory the kernel wrote to; what nobody asks for stays in the kernel,
which is the back-pressure.

Rules that make cancelling harmless:

- What has arrived is put on ``_unread`` before its receiver is woken. A receiver that is cancelled leaves it there; so
  do ``receive_exactly`` and ``receive_until`` with all they had gathered.
- A send waits *before* it hands anything over, never after. One that returned has been accepted whole and goes out in
  order; one that was cancelled has sent nothing. There is no third case.

The memory of what was accepted is held by leases of the body's own until the kernel has done with it.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from clearway.buffers.account import Account
from clearway.buffers.lease import Lease, Memory
from clearway.channels._operation import Operation
from clearway.channels._states import GRANTED, WAITING
from clearway.loop.core import INLINE_BUDGET, LoopCore
from clearway.streams._body import Body, Front
from clearway.streams.errors import (
    SeparatorNotFound,
    StreamBroken,
    StreamBusy,
    StreamClosed,
    StreamEmpty,
    StreamEnded,
)

#: Bytes accepted and not yet taken by the kernel above which ``send`` waits: half of what one stream's readers may hold
#: in received buffers, so that an echo to a peer that does not read stops before it has to copy.
HIGH_WATER = 256 * 1024

#: Bytes at which it goes on: a quarter, as in asyncio's transports.
LOW_WATER = HIGH_WATER // 4

#: Bytes that ``receive_until`` looks at unless told otherwise: the limit of asyncio's StreamReader.
UNTIL_MAX = 64 * 1024

_WAITING = WAITING
_GRANTED = GRANTED
_HIGH_WATER = HIGH_WATER
_LOW_WATER = LOW_WATER


@dataclass(frozen=True)
class StreamStatistics:
    """Figures of a stream since it was opened. "Copied" is in user space; see ``docs/zero-copy.md``.

    :ivar received: bytes that arrived. :ivar received_copied: bytes of them that were copied, counted once per copy.
    :ivar sent: bytes that the kernel has taken. :ivar sent_copied: bytes that were copied on the way.
    :ivar pending: bytes accepted by ``send`` that the kernel has not taken yet.
    :ivar unread: bytes that were received in part of an operation that was given up, and wait for the next.
    :ivar held: received buffers that leases hold now. :ivar fallbacks: times a buffer was copied because too many
        were held, or because too few were left for the other streams of the loop.
    """

    received: int
    received_copied: int
    sent: int
    sent_copied: int
    pending: int
    unread: int
    held: int
    fallbacks: int


class ByteStream(Front):
    """A connection. Opened by ``connect``, ``serve``, ``from_socket`` and their kin.

    ``async for lease in stream`` receives to the end; ``async with stream`` closes it. Whoever receives a lease
    releases it. One task may receive at a time, any number may send. It belongs to the loop it was opened on.
    """

    def __init__(self, body: Body) -> None:
        self._open = False
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._core = self._loop if isinstance(self._loop, LoopCore) else None
        self._receiver: Receive | None = None
        self._occupied = False
        self._unread: list[Lease] = []
        self._ended = False
        self._closed = False
        self._eof = False
        self._eof_told = False
        self._error_told = False
        self._input_error: BaseException | None = None
        self._output_error: BaseException | None = None
        self._senders: deque[Send] = deque()
        self._drainers: list[asyncio.Future[None]] = []
        self._inline = 0
        body.front = self
        self._open = True
        body.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self._output_error else "open"
        if self._ended:
            state += ", input ended"
        if self._eof:
            state += ", output ended"
        peer = self.get_extra_info("peername")
        return f"<ByteStream {state}{f' to {peer}' if peer else ''} pending={self._body.pending()}>"

    def __del__(self) -> None:
        if self._open:
            self._open = False
            warnings.warn("unclosed stream: await aclose()", ResourceWarning, stacklevel=2)
            self._body.abort()

    # -- receiving -------------------------------------------------------------------------------------------

    def receive(self) -> Awaitable[Lease]:
        """What arrives next, as soon as something does: a lease on the memory it was received into.

        At the end of the stream the lease is empty, which is false: ``while lease := await stream.receive()``. How
        much a lease has is the kernel's affair: up to 16 KiB on io_uring, up to 64 KiB elsewhere. A task that is
        cancelled meanwhile loses nothing: what arrives is the next receiver's.

        :raises StreamBusy: another task is receiving. :raises StreamClosed: the stream was closed, also meanwhile.
        :raises StreamBroken: the connection failed.
        """
        operation = Receive()
        operation.source = self
        return operation

    def receive_nowait(self) -> Lease:
        """The same without waiting.

        :raises StreamEmpty: nothing has arrived.
        """
        self._check_receive()
        lease = self._take()
        if lease is None:
            raise StreamEmpty("nothing has arrived: await receive()")
        return lease

    async def receive_exactly(self, count: int) -> Lease:
        """``count`` bytes. They are copied only when they did not arrive in one piece; the copy is counted.

        :raises StreamEnded: the stream ended before; what came can still be received.
        :raises ValueError: ``count`` is negative. Else as ``receive``.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        self._check_receive()
        if count == 0:
            return _nothing()
        self._occupied = True
        try:
            first = await self._next()
            if len(first) >= count:
                return self._split(first, count)
            if not first:
                raise StreamEnded(f"the stream ended; {count} more bytes were expected")
            return await self._gather_exactly(first, count)
        finally:
            self._occupied = False

    async def receive_until(self, separator: bytes, max_bytes: int = UNTIL_MAX) -> Lease:
        """All up to and including ``separator``. Copied only when it did not arrive in one piece, and counted.

        :param max_bytes: how many bytes to look at, the separator included.
        :raises SeparatorNotFound: it is not among the first ``max_bytes``; they can still be received.
        :raises StreamEnded: the stream ended without it; what came can still be received.
        :raises ValueError: the separator is empty, or longer than ``max_bytes``. Else as ``receive``.
        """
        if not separator:
            raise ValueError("an empty separator is everywhere")
        if len(separator) > max_bytes:
            raise ValueError(f"a separator of {len(separator)} bytes is not within {max_bytes}")
        self._check_receive()
        self._occupied = True
        try:
            first = await self._next()
            at = first.find(separator, 0, max_bytes) if first else -1
            if at >= 0:
                return self._split(first, at + len(separator))
            if len(first) >= max_bytes:
                self._unread.insert(0, first)
                raise SeparatorNotFound(f"{separator!r} is not within {max_bytes} bytes")
            if not first:
                raise StreamEnded(f"the stream ended; {separator!r} was expected")
            return await self._gather_until(first, separator, max_bytes)
        finally:
            self._occupied = False

    def __aiter__(self) -> AsyncIterator[Lease]:
        return self

    async def __anext__(self) -> Lease:
        lease = await self.receive()
        if not lease:
            raise StopAsyncIteration
        return lease

    def _next(self) -> Awaitable[Lease]:
        """``receive`` for whoever occupies the input."""
        operation = Receive()
        operation.source = self
        operation.flag = True
        return operation

    def _split(self, lease: Lease, count: int) -> Lease:
        """The first ``count`` bytes of ``lease``; the rest is unread again."""
        if count == len(lease):
            return lease
        self._unread.insert(0, lease[count:])
        lease.truncate(count)
        return lease

    async def _gather_exactly(self, lease: Lease, count: int) -> Lease:
        target = bytearray(count)
        filled = 0
        try:
            while True:
                taken = min(len(lease), count - filled)
                if taken < len(lease):
                    lease = self._split(lease, taken)
                filled = self._copy(lease, target, filled)
                if filled == count:
                    return self._gathered(target, count)
                lease = await self._next()
                if not lease:
                    raise StreamEnded(f"the stream ended after {filled} of {count} bytes")
        except BaseException:
            if 0 < filled < count:
                self._unread.insert(0, self._gathered(target, filled))
            raise

    async def _gather_until(self, lease: Lease, separator: bytes, max_bytes: int) -> Lease:
        target = bytearray()
        overlap = len(separator) - 1
        try:
            while True:
                filled = len(target)
                end = _find_across(target, lease, separator, overlap)
                if end < 0 and filled + len(lease) < max_bytes:
                    with lease.view as view:
                        target += view
                    self._body.received.add(0, len(lease))
                    lease.release()
                    lease = await self._next()
                    if not lease:
                        raise StreamEnded(
                            f"the stream ended after {len(target)} bytes without {separator!r}"
                        )
                    continue
                if not 0 <= end <= max_bytes:
                    self._unread.insert(0, lease)
                    raise SeparatorNotFound(f"{separator!r} is not within {max_bytes} bytes")
                lease = self._split(lease, end - filled)
                with lease.view as view:
                    target += view
                self._body.received.add(0, end - filled)
                lease.release()
                return self._gathered(target, end)
        except BaseException:
            if target:
                self._unread.insert(0, self._gathered(target, len(target)))
            raise

    def _copy(self, lease: Lease, target: bytearray, at: int) -> int:
        size = len(lease)
        with lease.view as view:
            target[at : at + size] = view
        self._body.received.add(0, size)
        lease.release()
        return at + size

    def _gathered(self, target: bytearray, size: int) -> Lease:
        return Memory(target, account=self._body.received).lend(0, size)

    # -- sending ---------------------------------------------------------------------------------------------

    def send(self, data: Any) -> Awaitable[None]:
        """Have ``data`` sent after all that was sent before, from where it lies.

        Returns once it has been *accepted*, whole: at once unless more than 256 KiB are on their way already. A send
        that is cancelled or fails while it waits for that has sent nothing. ``drain`` waits until the kernel has
        all of it; a failure after that is told to whoever sends, drains or closes next.

        :param data: a lease (it stays yours to release, which you may do at once; the memory must not change until
            it is sent), ``bytes``, or another buffer, which is copied because its owner may change it.
        :raises StreamClosed: the stream was closed, or its output ended. :raises StreamBroken: the connection failed.
        :raises TypeError: it is none of these. :raises ValueError: the lease was released.
        """
        operation = Send()
        operation.source = self
        operation.message = data
        return operation

    def send_many(self, pieces: Iterable[Any]) -> Awaitable[None]:
        """``send`` of several pieces as one, by one call of the kernel (scatter-gather, 64 pieces a call)."""
        operation = Send()
        operation.source = self
        operation.message = list(pieces)
        operation.flag = True
        return operation

    async def drain(self) -> None:
        """Wait until the kernel has taken all that was accepted.

        :raises StreamBroken: the connection failed, and not all of it went. :raises StreamClosed: it was aborted.
        """
        while True:
            if self._output_error is not None:
                raise self._broken_output()
            if not self._open:
                raise StreamClosed("the stream was closed")
            self._watch_output()
            if not self._body.pending():
                return
            future = self._loop.create_future()
            self._drainers.append(future)
            await future

    async def send_eof(self) -> None:
        """Tell the other side that nothing more will come, behind all that was sent; it may go on sending.

        When it is cancelled while output is pending, the end is told behind it all the same.

        :raises StreamClosed: it was closed. :raises StreamBroken: the connection failed.
        :raises NotImplementedError: TLS cannot end one direction.
        """
        if self._eof and self._open:
            return
        self._check_send()
        self._body.check_can_end()
        self._eof = True
        await self.drain()
        self._end_output()

    def _end_output(self) -> None:
        if self._eof_told:
            return
        self._eof_told = True
        try:
            self._body.end_output()
        except OSError as exc:
            self.output_failed(exc)

    # -- the end ---------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close, after the kernel has taken all that was accepted. Twice does nothing.

        A receiver that waits gets ``StreamClosed``. If it is cancelled, the stream is closed at once and what is
        pending is lost.

        :raises StreamBroken: the connection failed before all that was accepted had gone, and nobody has been told of
            it yet. It is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        self.input_ready()
        self._serve_senders()
        hard = True
        try:
            if self._body.pending() or (self._output_error is not None and not self._error_told):
                await self.drain()
            hard = False
        finally:
            self._shut(hard)

    def abort(self) -> int:
        """Close at once; returns how many accepted bytes are lost because the kernel had not taken them."""
        self._closed = True
        if not self._open:
            return 0
        lost = self._body.pending()
        self._shut(True)
        return lost

    def _shut(self, hard: bool) -> None:
        if not self._open:
            return
        self._open = False
        if hard:
            self._body.abort()
        else:
            self._body.close()
        self._body.front = Front()
        unread, self._unread = self._unread, []
        self.input_ready()
        self._serve_senders()
        self._wake_drainers()
        for lease in unread:
            lease.release()

    async def __aenter__(self) -> ByteStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; at once where the block failed or was cancelled, so that nobody waits for a peer who does not read."""
        if error is None:
            await self.aclose()
        elif self._open:
            try:
                self._body.flush()
            except OSError as exc:
                self.output_failed(exc)
            self.abort()

    # -- figures ---------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
        return bool(self._closed)

    @property
    def pending(self) -> int:
        """Bytes that were accepted and that the kernel has not taken."""
        return int(self._body.pending()) if self._open else 0

    def statistics(self) -> StreamStatistics:
        """The figures so far."""
        held, fallbacks = self._body.counts()
        received: Account = self._body.received
        sent: Account = self._body.sent
        return StreamStatistics(
            received=received.moved,
            received_copied=received.copied,
            sent=sent.moved,
            sent_copied=sent.copied,
            pending=self.pending,
            unread=sum(len(lease) for lease in self._unread),
            held=held,
            fallbacks=fallbacks,
        )

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """ "socket", "sockname", "peername", and for TLS what its transport has, as of asyncio's transports."""
        return self._body.get_extra_info(name, default)

    # -- from the body ---------------------------------------------------------------------------------------

    def input_ready(self) -> None:
        receiver = self._receiver
        if receiver is None or not receiver.is_waiting():
            return
        if not (self._unread or self._ended or self._closed or self._input_error is not None):
            try:
                got = self._body.receive()
            except OSError as exc:
                self._input_error = exc
            else:
                if got is None:
                    return
                if isinstance(got, bytes):
                    self._ended = True
                    self._body.stop_input()
                else:
                    self._unread.append(got)
        receiver.grant()

    def output_moved(self) -> None:
        pending = self._body.pending()
        if not pending:
            if self._eof and self._open and self._output_error is None:
                self._end_output()
            self._wake_drainers()
        if pending <= _LOW_WATER and self._senders:
            self._serve_senders()
        if not (self._senders or self._drainers):
            self._body.await_output(False)

    def output_failed(self, exc: BaseException) -> None:
        if self._output_error is None:
            self._output_error = exc
        self._wake_drainers()
        self._serve_senders()

    def _wake_drainers(self) -> None:
        drainers, self._drainers = self._drainers, []
        for future in drainers:
            if not future.done():
                future.set_result(None)

    def _serve_senders(self) -> None:
        """Let the sender that has waited longest go on, if there is room or no hope of it."""
        while self._senders:
            first = self._senders[0]
            if first.state == _GRANTED:
                return  # it serves the next one
            if first.is_waiting():
                if (
                    self._body.pending() <= _LOW_WATER
                    or self._closed
                    or self._output_error is not None
                ):
                    first.grant()
                return
            self._senders.popleft()

    # -- inside ----------------------------------------------------------------------------------------------

    def _must_yield(self) -> bool:
        """Count an operation that did not wait; whether the task should let others run first."""
        if self._core is not None:
            return self._core._over_budget()
        self._inline += 1
        if self._inline > INLINE_BUDGET:
            self._inline = 0
            return True
        return False

    def _check_receive(self) -> None:
        if self._closed:
            raise StreamClosed("the stream was closed")
        if self._receiver is not None or self._occupied:
            raise StreamBusy("another task is receiving from this stream")

    def _check_send(self) -> None:
        if self._closed:
            raise StreamClosed("the stream was closed")
        if self._output_error is not None:
            raise self._broken_output()
        if self._eof:
            raise StreamClosed("the output of this stream was ended by send_eof()")

    def _broken_output(self) -> StreamBroken:
        self._error_told = True
        assert self._output_error is not None
        return self._broken(self._output_error)

    def _broken(self, exc: BaseException) -> StreamBroken:
        error = StreamBroken(f"the connection failed: {exc}")
        error.__cause__ = exc
        return error

    def _take(self) -> Lease | None:
        if self._unread:
            return self._unread.pop(0)
        if self._ended:
            return _nothing()
        if self._input_error is not None:
            raise self._broken(self._input_error)
        try:
            got = self._body.receive()
        except OSError as exc:
            self._input_error = exc
            raise self._broken(exc) from exc
        if isinstance(got, bytes):
            self._ended = True
            self._body.stop_input()
            return _nothing()
        return got

    def _piece(self, data: Any) -> bytes | Lease | None:
        """What is written for ``data``: itself, a lease of our own, or a copy; None for nothing."""
        if type(data) is Lease:
            lease = data
            return lease.share() if len(lease) else None
        if type(data) is bytes:
            return data if data else None
        with memoryview(data) as view:
            copy = bytes(view)
        self._body.sent.add(0, len(copy))
        return copy if copy else None

    def _write(self, message: Any, many: bool) -> None:
        try:
            if not many:
                piece = self._piece(message)
                if piece is not None:
                    self._body.write(piece)
                return
            pieces: list[Any] = []
            try:
                for data in message:
                    piece = self._piece(data)
                    if piece is not None:
                        pieces.append(piece)
            except BaseException:
                for piece in pieces:
                    if type(piece) is not bytes:
                        piece.release()
                raise
            if pieces:
                self._body.write_many(pieces)
        except OSError as exc:
            self.output_failed(exc)
            raise self._broken_output() from exc

    def _watch_output(self) -> None:
        """From here on hear when output leaves; it is offered once more first, so that no news is missed."""
        try:
            self._body.flush()
        except OSError as exc:
            self.output_failed(exc)
            raise self._broken_output() from exc
        if self._body.pending():
            self._body.await_output(True)


class Receive(Operation):
    """One ``receive``. ``flag``: on behalf of who occupies the input."""

    def start(self) -> bool:
        stream: ByteStream = self.source
        if stream._closed or stream._receiver is not None or (stream._occupied and not self.flag):
            stream._check_receive()
        if stream._must_yield():
            self.suspend()
            stream._receiver = self
            stream._loop.call_soon(stream.input_ready)
            return False
        lease = stream._take()
        if lease is not None:
            self.result = lease
            return True
        stream._inline = 0
        self.suspend()
        stream._receiver = self
        return False

    def resume(self) -> Any:
        stream: ByteStream = self.source
        stream._receiver = None
        if stream._closed:
            raise StreamClosed("the stream was closed")
        lease = stream._take()
        if lease is None:
            raise RuntimeError("a receiver was woken for nothing")
        return lease

    def abandon(self) -> None:
        stream: ByteStream = self.source
        stream._receiver = None


class Send(Operation):
    """One ``send``. ``flag``: of several pieces."""

    def start(self) -> bool:
        stream: ByteStream = self.source
        stream._check_send()
        if (
            not stream._senders
            and stream._body.pending() <= _HIGH_WATER
            and not stream._must_yield()
        ):
            stream._write(self.message, self.flag)
            return True
        stream._inline = 0
        if stream._body.pending() > _LOW_WATER:
            stream._watch_output()
        self.suspend()
        stream._senders.append(self)
        if stream._body.pending() <= _LOW_WATER:
            stream._loop.call_soon(stream._serve_senders)
        return False

    def resume(self) -> None:
        stream: ByteStream = self.source
        stream._senders.popleft()
        try:
            stream._check_send()
            stream._write(self.message, self.flag)
        finally:
            stream._serve_senders()

    def abandon(self) -> None:
        stream: ByteStream = self.source
        state = self.state
        if self in stream._senders:
            stream._senders.remove(self)
        if state == _GRANTED:
            stream._serve_senders()


def _nothing() -> Lease:
    return Memory(b"").lend()


def _find_across(target: bytearray, lease: Lease, separator: bytes, overlap: int) -> int:
    """Where ``separator`` ends in ``target`` and then ``lease``, when it is not in ``target`` alone; -1: nowhere.

    :param overlap: how many of its bytes may lie on either side of the seam.
    """
    if overlap:
        start = max(0, len(target) - overlap)
        with lease.view as view:
            seam = bytes(target[start:]) + bytes(view[:overlap])
        at = seam.find(separator)
        if at >= 0:
            return start + at + len(separator)
    at = lease.find(separator)
    return len(target) + at + len(separator) if at >= 0 else -1
