"""Channels: between the tasks of a loop (``Channel``, ``Broadcast``, ``select``) and between processes
(``SharedChannel``)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clearway.channels.broadcast import Broadcast, Subscription
from clearway.channels.channel import Channel, ChannelStatistics
from clearway.channels.errors import (
    ChannelClosed,
    ChannelCorrupt,
    ChannelEmpty,
    ChannelError,
    ChannelFull,
    PeerDied,
)
from clearway.channels.selecting import select

if TYPE_CHECKING:
    from clearway.channels._ring import Reservation, SharedLease
    from clearway.channels.shared import (
        SharedChannel,
        SharedChannelListener,
        SharedChannelStatistics,
    )

__all__ = [
    "Broadcast",
    "Channel",
    "ChannelClosed",
    "ChannelCorrupt",
    "ChannelEmpty",
    "ChannelError",
    "ChannelFull",
    "ChannelStatistics",
    "PeerDied",
    "Reservation",
    "SharedChannel",
    "SharedChannelListener",
    "SharedChannelStatistics",
    "SharedLease",
    "Subscription",
    "select",
]

#: Imported when first asked for: these need Linux and the compiled ring.
_SHARED = {
    "Reservation",
    "SharedChannel",
    "SharedChannelListener",
    "SharedChannelStatistics",
    "SharedLease",
}


def __getattr__(name: str) -> Any:
    if name not in _SHARED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        shared = importlib.import_module("clearway.channels.shared")
    except ModuleNotFoundError as error:
        if error.name != "clearway.channels._ring":
            raise
        raise RuntimeError(
            f"{name} needs compiled clearway on Linux: shared memory is written with atomic instructions "
            "that Python does not have. Install without CLEARWAY_SKIP_CYTHON."
        ) from error
    return getattr(shared, name)
