"""Socket addresses kept small: both ends of a TCP connection in 12 bytes, as text only when somebody asks.

A connection's addresses must outlive it (who logs that a client has gone wants to say which), so they are taken when
it begins. As tuples of text and numbers they are 320 bytes and by far the larger part of what an idle connection
needs; packed they are 48.

The layout is that of ``pack_addresses`` (``sysio.h``), in network byte order: IPv4 our port, our address, the peer's
port, the peer's address; IPv6 for each end port, address, flow label and, in the machine's byte order, scope.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

_IPV4 = struct.Struct("!H4sH4s")
_IPV6_END = struct.Struct("!H16sI")
_SCOPE = struct.Struct("=I")
_END_SIZE = _IPV6_END.size + _SCOPE.size


def family(packed: bytes) -> int:
    """The address family of packed addresses."""
    return socket.AF_INET if len(packed) == _IPV4.size else socket.AF_INET6


def unpack(packed: bytes) -> tuple[Any, Any]:
    """What ``getsockname()`` and ``getpeername()`` would have returned."""
    if len(packed) == _IPV4.size:
        port, address, peer_port, peer_address = _IPV4.unpack(packed)
        return (
            (socket.inet_ntop(socket.AF_INET, address), port),
            (socket.inet_ntop(socket.AF_INET, peer_address), peer_port),
        )
    return _ipv6(packed, 0), _ipv6(packed, _END_SIZE)


def _ipv6(packed: bytes, offset: int) -> tuple[str, int, int, int]:
    port, address, flow = _IPV6_END.unpack_from(packed, offset)
    (scope,) = _SCOPE.unpack_from(packed, offset + _IPV6_END.size)
    return (socket.inet_ntop(socket.AF_INET6, address), port, flow, scope)
