"""Datagrams in ordinary Python: the stand-in for ``dgram.pyx`` when nothing is compiled.

The interface, results and errors are the same, but each datagram is a system call of its own.
"""

from __future__ import annotations

import socket
from typing import Any

SIZE_MAX = 256 * 1024  # as in dgram.h


class Datagrams:
    """What a loop's datagram sockets receive and send with.

    :ivar more: the last ``receive`` filled the batch, so there may be more.
    :ivar refused: not here, where ``can_cut`` is never true.
    :ivar copies: not here, where each is received into an object of its own.
    """

    def __init__(self) -> None:
        self.more = False
        self.refused = False
        self.copies = False

    def can_cut(self, fd: int) -> bool:
        return False

    def receive(self, sock: socket.socket, fd: int) -> list[Any]:
        """[data, address] of what waits: a batch of one here; empty where nothing does."""
        try:
            got = list(sock.recvfrom(SIZE_MAX))
        except BlockingIOError:
            self.more = False
            return []
        self.more = True
        return got

    def send(self, sock: socket.socket, fd: int, family: int, data: Any, address: Any) -> int:
        """Send one datagram: 1 when it left, -1 where the call would block."""
        try:
            if address is None:
                sock.send(data)
            else:
                sock.sendto(data, address)
        except BlockingIOError:
            return -1
        return 1

    def send_many(
        self, sock: socket.socket, fd: int, family: int, out: list[Any], start: int, cut: bool
    ) -> int:
        """Send the first of ``out`` (data, address, data, address, ...) from ``start`` on; as ``send``."""
        return self.send(sock, fd, family, out[start], out[start + 1])
