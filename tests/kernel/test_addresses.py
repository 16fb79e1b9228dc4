"""Packed addresses say what the socket's own methods say."""

from __future__ import annotations

import socket

import pytest

from clearway._compiled import is_compiled
from clearway.kernel import addresses
from clearway.kernel.sysio import close_fd, pack_addresses

LOCAL = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def connected(family: int) -> tuple[socket.socket, socket.socket]:
    with socket.socket(family) as listener:
        try:
            listener.bind((LOCAL[socket.AddressFamily(family)], 0))
        except OSError as error:
            pytest.skip(f"no such addresses here: {error}")
        listener.listen()
        client = socket.create_connection(listener.getsockname()[:2])
        return client, listener.accept()[0]


@pytest.mark.skipif(not is_compiled("clearway.kernel.sysio"), reason="uncompiled nothing is packed")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_both_ends_as_the_socket_tells_them(family: int) -> None:
    client, server = connected(family)
    with client, server:
        for sock in (client, server):
            packed = pack_addresses(sock.fileno())
            assert packed is not None and len(packed) == (12 if family == socket.AF_INET else 52)
            assert addresses.unpack(packed) == (sock.getsockname(), sock.getpeername())
            assert addresses.family(packed) == family


def test_what_cannot_be_packed_is_not() -> None:
    with socket.socket() as unconnected:
        assert pack_addresses(unconnected.fileno()) is None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert pack_addresses(ours.fileno()) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        close_fd(1 << 20)


def test_an_ipv6_address_keeps_flow_and_scope() -> None:
    end = b"\x1f\x90" + bytes(15) + b"\x01" + (7).to_bytes(4, "big") + (3).to_bytes(4, "little")
    # The scope is in the machine's byte order, and no machine we run on is big-endian.
    assert addresses.unpack(end + end) == (("::1", 8080, 7, 3), ("::1", 8080, 7, 3))
