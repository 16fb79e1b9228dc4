"""Byte streams that hand out the memory the kernel received into, and send from where the data lies."""

from __future__ import annotations

from clearway.streams.adapting import to_asyncio, to_transport
from clearway.streams.errors import (
    SeparatorNotFound,
    StreamBroken,
    StreamBusy,
    StreamClosed,
    StreamEmpty,
    StreamEnded,
    StreamError,
)
from clearway.streams.opening import (
    connect,
    connect_unix,
    from_asyncio,
    from_socket,
    from_transport,
)
from clearway.streams.serving import StreamServer, serve, serve_unix
from clearway.streams.stream import ByteStream, StreamStatistics

__all__ = [
    "ByteStream",
    "SeparatorNotFound",
    "StreamBroken",
    "StreamBusy",
    "StreamClosed",
    "StreamEmpty",
    "StreamEnded",
    "StreamError",
    "StreamServer",
    "StreamStatistics",
    "connect",
    "connect_unix",
    "from_asyncio",
    "from_socket",
    "from_transport",
    "serve",
    "serve_unix",
    "to_asyncio",
    "to_transport",
]
