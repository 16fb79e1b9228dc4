"""A bounded pool of equal blocks of memory, lent out as leases.

Memory for input that is allocated as it comes in grows with the slowest consumer. A pool has a fixed number of
blocks; who finds none waits (``take``), and that wait is the back-pressure: what cannot be received stays in the
socket or the file. The blocks are one anonymous mapping, so they are aligned for O_DIRECT, and pages that were
never used cost nothing. The block given back last is lent next: it is still in the cache.
"""

from __future__ import annotations

import mmap
from asyncio import Future, get_running_loop
from asyncio.events import _get_running_loop
from collections import deque
from dataclasses import dataclass
from typing import Any

from clearway.buffers.account import Account
from clearway.buffers.lease import Lease, Memory

#: Bytes of a block: a socket's usual receive, and few enough to stay in a second-level cache by the dozen.
BLOCK_SIZE = 64 * 1024

#: Blocks of a pool: 16 MiB with the size above.
BLOCKS = 256

#: Bytes: what a mapping is aligned to, so the most that a block can be. O_DIRECT asks for 512 or 4096.
MAX_ALIGNMENT = 4096


class PoolExhausted(Exception):
    """``take_nowait`` found every block lent out."""


class PoolClosed(Exception):
    """The pool was closed: it lends no more blocks."""


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool has done since it was made.

    :ivar blocks: how many there are. :ivar block_size: bytes of each.
    :ivar lent: blocks that are out now. :ivar peak: the most that were out at once.
    :ivar takes: blocks lent so far. :ivar waits: how many of them had to be waited for.
    :ivar waiting: tasks that wait now. :ivar copied: bytes copied out by ``bytes(lease)``.
    """

    blocks: int
    block_size: int
    lent: int
    peak: int
    takes: int
    waits: int
    waiting: int
    copied: int


class Block(Memory):
    """One block; it returns to its pool when nobody has a lease on it."""

    def idle(self) -> None:
        pool: Pool = self.home
        self.home = None
        pool._put(self)


class Pool:
    """A bounded number of equal blocks of memory.

    Leases may be given back in any thread; ``take`` and ``take_nowait`` may be called from several loops.

    :param block_size: bytes of each block.
    :param blocks: how many there are. Their memory is used only once they are.
    :param alignment: bytes, a power of two up to 4096: what each block's address is a multiple of. 4096 for
        O_DIRECT.
    :param name: for messages and statistics.
    :raises ValueError: a size or a number that is not positive, or an alignment that cannot be had.
    """

    def __init__(
        self,
        block_size: int = BLOCK_SIZE,
        blocks: int = BLOCKS,
        *,
        alignment: int = 64,
        name: str = "pool",
    ) -> None:
        if block_size <= 0 or blocks <= 0:
            raise ValueError(f"a pool needs blocks and they need bytes: {blocks} of {block_size}")
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise ValueError(f"alignment is a power of two up to {MAX_ALIGNMENT}, not {alignment}")
        stride = -(-block_size // alignment) * alignment
        self.name = name
        self.block_size = block_size
        self.blocks = blocks
        self.alignment = alignment
        self.account = Account(name)
        self.closed = False
        self._lent = 0
        self._peak = 0
        self._takes = 0
        self._waits = 0
        self._waiters: deque[Future[Lease]] = deque()
        memory = memoryview(_map(stride * blocks))
        starts = range(stride * (blocks - 1), -1, -stride)  # the first block on top
        self._free = [
            Block(memory[at : at + block_size], scarce=True, account=self.account) for at in starts
        ]

    def __repr__(self) -> str:
        return (
            f"<Pool {self.name!r} {self._lent}/{self.blocks} blocks of {self.block_size} bytes lent"
            f"{f', {len(self._waiters)} waiting' if self._waiters else ''}"
            f"{', closed' if self.closed else ''}>"
        )

    def take_nowait(self) -> Lease:
        """A lease on a whole block. What the block held before is still in it.

        :raises PoolExhausted: all are lent out, or others have been waiting for longer.
        :raises PoolClosed: the pool was closed.
        """
        if self.closed:
            raise PoolClosed(f"{self!r} was closed")
        if not self._free or self._waiters:
            raise PoolExhausted(f"{self!r}: release leases, or await take()")
        return self._lend()

    async def take(self) -> Lease:
        """A lease on a whole block, as soon as there is one; first come, first served.

        :raises PoolClosed: the pool was closed, also while waiting.
        """
        if self._free and not self._waiters:
            return self.take_nowait()
        if self.closed:
            raise PoolClosed(f"{self!r} was closed")
        future: Future[Lease] = get_running_loop().create_future()
        self._waiters.append(future)
        self._waits += 1
        if self._free:
            self._serve()  # given back by another thread just now
        try:
            return await future
        except BaseException:
            self._give_up(future)
            raise

    def _give_up(self, future: Future[Lease]) -> None:
        """Nobody waits for ``future`` any more: it was cancelled, perhaps after it had been granted."""
        if not future.done() and not future.get_loop().is_closed():
            future.cancel()
        if future.cancelled() or not future.done():
            try:
                self._waiters.remove(future)
            except ValueError:
                pass  # it was being served
        elif future.exception() is None:
            future.result().release()

    def statistics(self) -> PoolStatistics:
        """The figures so far."""
        return PoolStatistics(
            blocks=self.blocks,
            block_size=self.block_size,
            lent=self._lent,
            peak=self._peak,
            takes=self._takes,
            waits=self._waits,
            waiting=len(self._waiters),
            copied=self.account.copied,
        )

    def close(self) -> None:
        """Lend no more. Leases that are out stay valid; the memory is freed with the last. Twice does nothing."""
        self.closed = True
        self._free.clear()
        while self._waiters:
            self._resolve(self._waiters.popleft(), None)

    def _lend(self) -> Lease:
        block: Any = self._free.pop()
        block.home = self
        self._lent += 1
        self._takes += 1
        if self._lent > self._peak:
            self._peak = self._lent
        lease: Lease = block.lend()
        return lease

    def _put(self, block: Block) -> None:
        """Take a block back: from ``Block.idle``, perhaps in a finaliser, perhaps in another thread."""
        self._lent -= 1
        if not self.closed:
            self._free.append(block)
            if self._waiters:
                self._serve()

    def _serve(self) -> None:
        while self._free and self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                return  # another thread was faster
            if not waiter.done():
                lease = self._lend()
                if not self._resolve(waiter, lease):
                    lease.release()

    def _resolve(self, waiter: Future[Lease], lease: Lease | None) -> bool:
        """Hand a lease, or the news of the end, to who waits for it; False: nobody does any more."""
        loop = waiter.get_loop()
        if loop is _get_running_loop():
            return _settle(waiter, lease)
        if loop.is_closed():
            return False
        loop.call_soon_threadsafe(_settle_or_return, waiter, lease)
        return True


def _settle(waiter: Future[Lease], lease: Lease | None) -> bool:
    if waiter.done():
        return False
    if lease is None:
        waiter.set_exception(PoolClosed("the pool was closed while waiting for a block"))
    else:
        waiter.set_result(lease)
    return True


def _settle_or_return(waiter: Future[Lease], lease: Lease | None) -> None:
    if not _settle(waiter, lease) and lease is not None:
        lease.release()


def _map(size: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        # Private: a forked child must not write into what its parent receives.
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)
