"""A few threads for what waits for a disk, apart from the default executor.

There, jobs of the user's own may keep every thread busy for as long as they like, and a transfer that was
cancelled could not end before it got one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

#: Threads, hence disk requests of transfers at a time in one process: about what keeps one SSD or a few spindles busy
#: with requests of a megabyte.
WORKERS = 8

_executor: ThreadPoolExecutor | None = None


async def in_worker(function: Callable[..., T], *args: Any) -> T:
    """Call a function that may wait for a disk in a thread, and return its result.

    When the caller is cancelled this returns only after the function has: a descriptor it uses may be closed, and
    what it did may be counted, as soon as the caller runs on. So the function's own work must be bounded.

    :raises BaseException: what the function raises; also when cancelled, if that is how it ended.
    """
    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="clearway-disk")
    job = _executor.submit(function, *args)
    future = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not job.cancel():
            await _outlive(future)
            if not future.cancelled():
                future.result()
        raise


async def _outlive(future: asyncio.Future[Any]) -> None:
    """Wait for ``future``, however often we are cancelled meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            pass  # the caller raises the first one


def _after_fork_in_child() -> None:
    global _executor
    _executor = None  # its threads stayed in the parent


os.register_at_fork(after_in_child=_after_fork_in_child)
