"""``transfer``: bytes from one end to another by the cheapest way the kernel has for the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clearway.transfer.ends import sink_of, source_of
from clearway.transfer.paths import Pump
from clearway.transfer.progress import Transfer, enter
from clearway.transfer.sending import send_file

__all__ = ["Transfer", "send_file", "transfer"]


async def transfer(
    source: Any,
    destination: Any,
    count: int | None = None,
    *,
    offset: int | None = None,
    send_eof: bool = False,
    progress: Transfer | None = None,
    on_progress: Callable[[Transfer], Any] | None = None,
) -> Transfer:
    """Move bytes from ``source`` to ``destination`` and say how many, and how.

    ======================= ===================================== =====================================
    from                    to                                    by
    ======================= ===================================== =====================================
    file                    TCP or Unix socket                    sendfile(2)
    file                    pipe                                  splice(2)
    file                    file                                  copy_file_range(2), else sendfile(2)
    socket, pipe            socket, pipe, file                    splice(2)
    anything                TLS, a file opened for appending      buffers
    TLS                     anything                              buffers
    ======================= ===================================== =====================================

    What a kernel or a file system refuses goes by buffers too; the result says which way it was. Either end may be
    a descriptor, a binary file, a non-blocking socket, an asyncio transport, and a ``StreamReader`` or
    ``StreamWriter``. Bytes that a reader or transport has received already go first. Nothing is closed, and a
    file's position ends behind the bytes that were moved.

    While it lasts nobody else may read from the source or write to the destination. A destination that is slow
    holds the transfer up, never memory: at most one piece (256 KiB) is on its way. When it is cancelled or fails,
    ``progress`` has the exact count, and what had been taken from the source and not been delivered
    is given back to it or kept in ``progress.undelivered``.

    :param source: where the bytes come from.
    :param destination: where they go.
    :param count: bytes to move; None: until the source ends.
    :param offset: where to begin in a file, in bytes; its position is then neither used nor changed. Default: at
        the position.
    :param send_eof: when the source has ended, end the destination's input too and leave its other direction open: a
        socket is shut down for writing, a transport gets ``write_eof()``. Default: leave it as it is.
    :param progress: a new ``Transfer`` to keep the account in, for those who want to look at it meanwhile.
    :param on_progress: called with the account after each piece.
    :returns: the account.
    :raises TypeError: an end is nothing that bytes can be transferred from or to.
    :raises ValueError: an argument is out of range, a socket or pipe is blocking, ``send_eof`` for an end that
        cannot say it (a file, a bare pipe, TLS), ``offset`` for a source that is not a file.
    :raises RuntimeError: a transport is closing, or part of another transfer in the same direction.
    :raises OSError: either end failed; ConnectionError when it was a connection that was lost.
    """
    if count is not None:
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"count must be an int or None, got {count!r}")
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
    if offset is not None and offset < 0:
        raise ValueError(f"offset must not be negative, got {offset}")
    account = Transfer() if progress is None else progress
    if account.path:
        raise ValueError("progress has the account of another transfer: give a new Transfer()")
    reading = source_of(source, offset)
    writing = sink_of(destination)
    if send_eof and not writing.can_end():
        raise ValueError(f"send_eof: {destination!r} cannot be told the end without closing it")
    await reading.open()
    try:
        await writing.open()
        try:
            await Pump(reading, writing, count, account, on_progress).run()
            if send_eof and account.ended:
                writing.end()
        finally:
            await writing.close()
    finally:
        enter(account)
        account.undelivered = await reading.close(account.undelivered)
    return account
