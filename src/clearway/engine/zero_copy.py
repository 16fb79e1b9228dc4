"""Zero-copy sends: which output is worth one, and who holds its memory until the kernel has done with it.

The kernel sends from the pages themselves and says twice what became of it: how much it has taken, as of any send,
and later, in a notification, that nothing looks at the memory any more: the peer has acknowledged all of it, or the
connection is gone. Until then the bytes must not change and not be freed, whatever becomes of the stream and the loop.

- Only what cannot change is sent that way: ``bytes``, and leases on memory that nobody can write to.
- It pays from about 10 KiB a piece on (Linux, Documentation/networking/msg_zerocopy); below ``SEND_MIN`` it is not
  tried.
- Where the kernel copies all the same, as on loopback, it says so in the notification; then the stream is done with
  it (``UringStream.zero_copy``).
"""

from __future__ import annotations

from typing import Any

from clearway.kernel.sysio import pack_addresses
from clearway.steps import Step

#: Bytes of output from which a zero-copy send is worth its pinned pages and its second completion.
SEND_MIN = 64 * 1024

#: And bytes that its pieces must have on average: each is pinned by itself.
PIECE_MIN = 16 * 1024

#: Pieces of one send, as many as of any.
PIECES_MAX = 64

#: How the loopback addresses begin that need not be our own: 127/8, and the same in IPv6.
_LOOPBACK = (b"\x7f", bytes(10) + b"\xff\xff\x7f")

#: What a kernel may still be sending from although its ring is gone. It is never freed: that is rare and little, and
#: the memory of what is being sent would otherwise be somebody else's.
_kept: list[Any] = []


class Notice(Step):
    """The memory of one zero-copy send. As a step it gives the memory back, which may run other people's code.

    :ivar holder: the stream that sends; None once it has heard how much was taken and whether it was copied.
    """

    def __init__(self, holder: Any, pieces: list[Any]) -> None:
        self.holder = holder
        self.pieces: list[Any] | None = pieces
        self.leased = False
        for index in range(len(pieces)):
            piece = pieces[index]
            if type(piece) is not bytes:
                pieces[index] = piece.share()
                self.leased = True

    def run(self) -> None:
        pieces = self.pieces
        self.pieces = None
        if pieces is not None and self.leased:
            for piece in pieces:
                if type(piece) is not bytes:
                    piece.release()

    def keep(self) -> None:
        """The notification will not come: hold the memory for good."""
        _kept.append(self.pieces)
        self.pieces = None
        self.holder = None


def choose(out: list[Any], head: int, offset: int) -> list[Any] | None:
    """The pieces of ``out`` from ``head`` on that one zero-copy send takes; None where that does not pay.

    :param offset: bytes of the first piece that have been sent already.
    """
    pieces: list[Any] = []
    total = -offset
    while head < len(out) and len(pieces) < PIECES_MAX:
        piece = out[head]
        if type(piece) is not bytes and not piece.readonly:
            break
        pieces.append(piece)
        total += len(piece)
        head += 1
    if total < SEND_MIN or total < PIECE_MIN * len(pieces):
        return None
    return pieces


def is_remote(fd: int) -> bool:
    """Whether a connected socket's peer is another machine, as far as the addresses tell; False where it has none."""
    packed = pack_addresses(fd)
    if packed is None:
        return False
    size = 4 if len(packed) == 12 else 16
    own = packed[2 : 2 + size]
    peer = packed[len(packed) // 2 + 2 :][:size]
    return own != peer and not peer.startswith(_LOOPBACK)
