"""What can go wrong with a channel: the type says whose doing it is."""

from __future__ import annotations


class ChannelError(Exception):
    """The base of all errors of channels."""


class ChannelClosed(ChannelError):
    """The channel was closed, on purpose, by either side; what it still held has been received."""


class ChannelFull(ChannelError):
    """``send_nowait`` or ``reserve_nowait`` found no room."""


class ChannelEmpty(ChannelError):
    """``receive_nowait`` found nothing to take."""


class PeerDied(ChannelError, ConnectionError):
    """The process at the other end of a shared channel ended without closing it."""


class ChannelCorrupt(ChannelError):
    """The shared memory holds what no well-behaved peer writes; the channel cannot be used further."""
