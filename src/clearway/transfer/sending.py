"""``send_file``: a head and a part of a file over one connection, as cheaply as a server can have it.

``transfer`` takes any two ends over and gives them back, which costs more than all else when the file is small or
there is one after the other. A server knows that one end is its own connection and the other a regular file: then
what the transport has been given is waited for, and sendfile(2) follows it on the same socket.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from clearway.loop.readahead import WINDOW, Readahead
from clearway.transfer import ends
from clearway.transfer.paths import Pump
from clearway.transfer.progress import Transfer, enter


async def send_file(
    transport: Any,
    fd: int,
    offset: int,
    count: int,
    *,
    head: bytes = b"",
    progress: Transfer | None = None,
) -> Transfer:
    """Send ``head`` and then ``count`` bytes of a file to the other end of ``transport``.

    The two share segments of the network. A cold file is fetched by a worker thread, never by the loop. Meanwhile
    nobody else may write to the transport; it goes on reading. When the file ends early, less is sent:
    compare ``moved`` with ``count``.

    :param transport: of a TCP or Unix connection, of any asyncio loop; clearway's own need the least. With TLS the
        bytes go by way of memory.
    :param fd: a descriptor of a regular file; its position is neither used nor changed.
    :param offset: where to begin, in bytes.
    :param progress: a new ``Transfer`` to keep the account in; ``moved`` counts bytes of the file.
    :returns: the account.
    :raises ConnectionError: the connection is lost or was closed.
    :raises OSError: reading the file failed.
    """
    account = Transfer() if progress is None else progress
    if not hasattr(transport, "_wait_writable"):
        if head:
            transport.write(head)
        source, sink = ends.FileSource(fd, None, offset), ends.TransportSink(transport)
        await source.open()
        await sink.open()
        try:
            await Pump(source, sink, count, account, None).run()
        finally:
            enter(account)
            await sink.close()
        return account
    # Done already, unless the transport has output left; until it is reset, writes are refused.
    await transport._make_empty_waiter()
    try:
        if head:
            await _send_head(transport, head)
        await _send(transport, fd, offset, count, account)
    finally:
        transport._reset_empty_waiter()
        enter(account)
    return account


def _check(transport: Any) -> None:
    """While we waited the transport may have closed its descriptor, and another file be using the number."""
    if transport._conn_lost or transport._closing:
        raise ConnectionAbortedError("the connection was lost while a file was sent")


async def _send_head(transport: Any, head: bytes) -> None:
    """Send it in such a way that the kernel waits for what follows (MSG_MORE, tcp(7))."""
    sock: socket.socket = transport._sock
    sent = 0
    while True:
        try:
            sent += sock.send(head[sent:] if sent else head, socket.MSG_MORE)
        except (BlockingIOError, InterruptedError):
            pass
        if sent == len(head):
            return
        await transport._wait_writable()
        _check(transport)


async def _send(transport: Any, fd: int, offset: int, count: int, account: Transfer) -> None:
    loop = asyncio.get_running_loop()
    over_budget = loop._over_budget  # type: ignore[attr-defined]
    out: int = transport._sock_fd
    # As far as is asked for, whether the file is that long or not.
    ahead = Readahead(fd, offset + count)
    account.path = "sendfile"
    end = offset + count
    while offset < end:
        room = ahead.room(offset)
        if not room:
            await ahead.fetch(offset)
            account.fetched = ahead.fetched
            _check(transport)
            continue
        try:
            n = os.sendfile(out, fd, offset, min(room, end - offset, WINDOW))
        except (BlockingIOError, InterruptedError):
            await transport._wait_writable()
            _check(transport)
            continue
        if not n:
            account.ended = True
            return
        offset += n
        account.moved += n
        if offset < end and over_budget():
            await asyncio.sleep(0)
            _check(transport)
