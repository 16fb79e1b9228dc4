"""The threads that do what would block, where no ring does it.

One set per process, shared by its loops, started one by one as they are needed. They are few on purpose: a disk's
queue is busy with a handful, and each costs a stack and a share of the GIL. A blocked one (a dead network file
system) delays the others' work but never a loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Threads for files in a process. As many as the kernel's own workers of a ring (``engine/uring.pyx``).
WORKERS = 8

_pool: ThreadPoolExecutor | None = None


def submit(work: Callable[[], None]) -> None:
    """Have a thread call ``work``, which reports by itself and does not raise."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="clearway-files")
    _pool.submit(work)


def _forget_pool() -> None:
    # In the child of a fork: the threads are the parent's.
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
