"""A stream on an event loop that is not clearway's: the same bytes, by trying the call and watching the descriptor."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections import deque
from typing import Any

from clearway.buffers.lease import Lease, Memory
from clearway.buffers.pool import Pool, PoolExhausted
from clearway.engine.blocks import BLOCK_SIZE, BLOCKS, copied_lease
from clearway.engine.sizes import LENT_MAX
from clearway.streams._body import Body, socket_info

#: Pieces of one sendmsg(2); Linux takes 1024.
PIECES_MAX = 64

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()


def _pool(loop: asyncio.AbstractEventLoop) -> Pool:
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool(BLOCK_SIZE, BLOCKS, name="streams")
    return pool


class Received(Memory):
    """What a receive brought, in a block of the pool; counted as long as somebody holds it."""

    body: SocketBody
    block: Lease

    def idle(self) -> None:
        self.body.held -= 1
        super().idle()
        self.block.release()


class SocketBody(Body):
    """A connected socket on any loop that has ``add_reader`` and ``add_writer``.

    :raises ValueError: the socket is blocking.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        super().__init__(None, None)
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._pool = _pool(loop)
        self._reading = False
        self._writing = False
        self._awaited = False
        self._out: deque[memoryview] = deque()
        self._owned: deque[Any] = deque()
        self._pending = 0
        self.held = 0
        self.fallbacks = 0

    def receive(self) -> Lease | bytes | None:
        assert self._sock is not None
        try:
            if self.held >= LENT_MAX:
                return self._receive_copy()
            try:
                block = self._pool.take_nowait()
            except PoolExhausted:
                return self._receive_copy()
            count = 0
            try:
                count = self._sock.recv_into(block)
            finally:
                if count <= 0:
                    block.release()
        except (BlockingIOError, InterruptedError):
            self._watch_input(True)
            return None
        if not count:
            return b""
        block.truncate(count)
        memory = Received(block, scarce=True, account=self.received)
        memory.body = self
        memory.block = block
        self.held += 1
        self.received.add(count, 0)
        return memory.lend()

    def _receive_copy(self) -> Lease | bytes:
        assert self._sock is not None
        data = self._sock.recv(BLOCK_SIZE)
        if not data:
            return b""
        self.fallbacks += 1
        self.received.add(len(data), 0)
        return copied_lease(data, self.received)

    def _watch_input(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        self._watch_input(False)  # until a receive finds nothing again
        self.front.input_ready()

    def write(self, piece: bytes | Lease) -> None:
        self.write_many([piece])

    def write_many(self, pieces: list[bytes | Lease]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            self._out.append(view)
            self._owned.append(piece)
            self._pending += len(view)
        if not self._writing:
            self.flush()

    def flush(self) -> None:
        assert self._sock is not None
        while self._out:
            try:
                count = self._sock.sendmsg(
                    [self._out[i] for i in range(min(PIECES_MAX, len(self._out)))]
                )
            except (BlockingIOError, InterruptedError):
                self._watch_output(True)
                return
            except OSError:
                self._drop_output()
                raise
            self._sent(count)
        self._watch_output(False)

    def _sent(self, count: int) -> None:
        self._pending -= count
        self.sent.add(count, 0)
        while count:
            view = self._out[0]
            if count < len(view):
                self._out[0] = view[count:]
                view.release()
                return
            count -= len(view)
            self._drop_first()

    def _drop_first(self) -> None:
        self._out.popleft().release()
        piece = self._owned.popleft()
        if type(piece) is not bytes:
            piece.release()

    def _drop_output(self) -> None:
        self._pending = 0
        self._watch_output(False)
        while self._out:
            self._drop_first()

    def _watch_output(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        try:
            self.flush()
        except OSError as exc:
            self.front.output_failed(exc)
            return
        if self._awaited:
            self.front.output_moved()

    def pending(self) -> int:
        return self._pending

    def await_output(self, wanted: bool) -> None:
        self._awaited = wanted

    def end_output(self) -> None:
        assert self._sock is not None
        self._sock.shutdown(socket.SHUT_WR)

    def stop_input(self) -> None:
        self._watch_input(False)

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            if not self._loop.is_closed():
                self._watch_input(False)
                self._drop_output()
            sock.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return socket_info(self._sock, name, default)

    def counts(self) -> tuple[int, int]:
        return (self.held, self.fallbacks)
