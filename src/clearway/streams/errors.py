"""What can go wrong with a stream: the type says whose doing it is."""

from __future__ import annotations


class StreamError(Exception):
    """The base of all errors of streams."""


class StreamClosed(StreamError):
    """This side has closed the stream, or ended what it is now asked to send."""


class StreamBroken(StreamError, ConnectionError):
    """The connection failed: the other side or the network; ``__cause__`` says how."""


class StreamBusy(StreamError):
    """Another task is receiving from this stream: bytes cannot go to two readers."""


class StreamEnded(StreamError, EOFError):
    """The other side ended the stream before what was asked for had arrived. What did arrive can still be received."""


class StreamEmpty(StreamError):
    """``receive_nowait`` found nothing to take yet."""


class SeparatorNotFound(StreamError, ValueError):
    """``receive_until`` looked at as many bytes as it may. They can still be received."""
