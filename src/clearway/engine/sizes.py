"""How large the io_uring engine makes its rings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RingSizes:
    """Capacities of a ring and of its receive buffers. Running out of any costs time, never data.

    :ivar submissions: operations that one system call carries; a turn with more makes several calls.
    :ivar completions: answers that fit between two looks. Four times the submissions, because multishot
        operations answer without being asked again; what does not fit waits in the kernel.
    :ivar buffers: receive buffers of 16 KiB that may be out at once; a power of two, at most 32,768
        (io_uring_register(2), IORING_REGISTER_PBUF_RING).
    :ivar buffers_at_first: receive buffers that are provided before the kernel asks for more, so that a small
        server's receives stay within the processor's cache.
    """

    submissions: int = 1024
    completions: int = 4096
    buffers: int = 1024
    buffers_at_first: int = 64


#: What every loop has. Tests make smaller rings to see them overflow.
DEFAULT_SIZES = RingSizes()

#: Receive buffers that one stream's readers may hold; what they take beyond is copied. Twice 256 KiB in buffers of
#: 16 KiB: what a stream's output accepts (``streams.HIGH_WATER``), not all in full buffers, and what is in hand.
LENT_MAX = 32

#: Receive buffers that may wait for a reader who does not come, after which a stream stops receiving.
AHEAD_MAX = 16
