"""Reads into leased memory: what the kernel has read is handed on as it lies, and goes back to its pool."""

from __future__ import annotations

from clearway.buffers import Lease, Pool
from clearway.files._moving import DIRECT_ALIGNMENT, Mover
from clearway.kernel.fileio import Block

#: The pool of a loop's files, where they have none of their own: bytes of a block, and 16 MiB of blocks.
POOL_BLOCK = 64 * 1024
POOL_BLOCKS = 256


def make_pool() -> Pool:
    """The pool that files of a loop share."""
    return Pool(POOL_BLOCK, POOL_BLOCKS, alignment=DIRECT_ALIGNMENT, name="files")


async def read_leased(mover: Mover, pool: Pool, size: int, offset: int) -> Lease:
    """A lease on ``size`` bytes from ``offset``, less only at the end of the file.

    :raises ValueError: a block of the pool is not that large.
    """
    if not 0 <= size <= pool.block_size:
        raise ValueError(
            f"{size} bytes do not fit the {pool.block_size} of a block of {pool!r}: "
            "read less, or open the file with a pool of larger blocks"
        )
    lease = await pool.take()
    block = Block.into(lease)
    try:
        count = await mover.fill(block, size, offset)
    except BaseException:
        block.release()
        # Where the kernel still reads into it (the task was destroyed), it goes back when that is over.
        if not block.pins:
            lease.release()
        raise
    block.release()
    lease.truncate(count)
    return lease
