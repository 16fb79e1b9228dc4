"""What a transfer has done so far, and in the end: its result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from clearway.loop.statistics import ledger_of


@dataclass
class Transfer:
    """The account of one transfer: exact at every moment, also after it was cancelled or has failed.

    :ivar moved: bytes that the destination has taken.
    :ivar path: how they went: "sendfile", "splice", "copy_file_range" or "buffers"; "" before it is chosen.
    :ivar buffered: of ``moved``, the bytes that passed through memory of this process.
    :ivar copied: bytes copied in user space on the way, once per copy: by TLS, which copies to en- and decrypt, and of
        what had been received before the transfer began. Nothing else copies.
    :ivar fetched: bytes of a cold file that a worker thread brought into the page cache first.
    :ivar ended: the source has come to its end; False when ``count`` bytes were moved before that.
    :ivar undelivered: bytes that were taken from the source when the transfer was cancelled or failed, and that the
        destination has not taken. They follow the ``moved`` ones. Empty unless the source is a bare socket or pipe:
        to files, readers and transports they are given back.
    """

    moved: int = 0
    path: str = ""
    buffered: int = 0
    copied: int = 0
    fetched: int = 0
    ended: bool = False
    undelivered: bytes = b""


def enter(account: Transfer) -> None:
    """Enter it in the accounts of the loop: what went through memory under "buffers", the rest under its path."""
    ledger = ledger_of(asyncio.get_running_loop())
    if account.buffered or account.copied:
        ledger.account("buffers").add(account.buffered, account.copied)
    direct = account.moved - account.buffered
    if direct:
        ledger.account(account.path).add(direct, 0)
