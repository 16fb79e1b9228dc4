"""The epoll engine's receive buffers: blocks of memory that a socket is received into and a reader takes as it is.

They are for a loop what the ring of provided buffers is for io_uring's. A reader that keeps what it gets may have
``LENT_MAX`` of them and all readers together half: whoever wants more gets copies, so nobody's reading ever stops
for want of a block.
"""

from __future__ import annotations

import mmap
from typing import Any

from clearway.buffers.lease import Lease, Memory

#: Bytes of a block: what a receive brings at most.
BLOCK_SIZE = 64 * 1024

#: Blocks of a loop: 16 MiB, like io_uring's buffers. Pages that were never used cost nothing.
BLOCKS = 256


class ReceiveBlock(Memory):
    """One block; lent by a stream (its ``home``), it returns to the free ones when nobody has a lease on it."""

    def idle(self) -> None:
        stream: Any = self.home
        self.home = None
        self.account = None
        stream.block_returned(self)


def make_blocks() -> list[ReceiveBlock]:
    """The free blocks of a loop, the next one last."""
    # Private: a forked child must not write into what its parent receives.
    memory = memoryview(
        mmap.mmap(-1, BLOCK_SIZE * BLOCKS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    )
    starts = range(BLOCK_SIZE * (BLOCKS - 1), -1, -BLOCK_SIZE)
    return [ReceiveBlock(memory[at : at + BLOCK_SIZE], scarce=True) for at in starts]


def copied_lease(data: bytes, account: Any) -> Lease:
    """A lease on bytes that were copied out of a receive buffer; who copies them again is entered in ``account``."""
    return Memory(data, account=account).lend()
