"""What a transfer has done so far, and in the end: its result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Transfer:
    """The account of one transfer: exact at every moment, also after it was cancelled or has failed.

    :ivar moved: bytes that the destination has taken.
    :ivar path: how they went: "sendfile", "splice", "copy_file_range" or "buffers"; "" before it is chosen.
    :ivar buffered: of ``moved``, the bytes that passed through memory of this process.
    :ivar fetched: bytes of a cold file that a worker thread brought into the page cache first.
    :ivar ended: the source has come to its end; False when ``count`` bytes were moved before that.
    :ivar undelivered: bytes that were taken from the source when the transfer was cancelled or failed, and that the
        destination has not taken. They follow the ``moved`` ones. Empty unless the source is a bare socket or pipe:
        to files, readers and transports they are given back.
    """

    moved: int = 0
    path: str = ""
    buffered: int = 0
    fetched: int = 0
    ended: bool = False
    undelivered: bytes = b""
