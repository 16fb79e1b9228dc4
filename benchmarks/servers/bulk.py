"""A server that sends or swallows as much as it is told to, over TCP or TLS; started like echo.py; TLS where
BULK_TLS is set in its environment.

A client sends a line, ``send BYTES WRITE`` or ``receive BYTES``, which is answered with ``!``. To the first it says
``go``, and BYTES come back, written WRITE at a time; for the second it sends them, and one byte comes back at the end.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import echo

CERTIFICATE = Path(__file__).parents[2] / "tests" / "support" / "localhost.pem"


class Bulk(asyncio.Protocol):
    """One transfer after the other."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.line = b""
        self.expected = 0
        self.left = 0
        self.piece = b""
        self.paused = False

    def data_received(self, data: bytes) -> None:
        if self.expected:
            self.expected -= len(data)
            if not self.expected:
                self.transport.write(b".")
            return
        self.line += data
        if not self.line.endswith(b"\n"):
            return
        verb, *numbers = self.line.split()
        self.line = b""
        if verb == b"receive":
            self.expected = int(numbers[0])
        elif verb == b"send":
            self.left = int(numbers[0])
            self.piece = os.urandom(1024) * (int(numbers[1]) // 1024)
        else:
            self.fill()
            return
        self.transport.write(b"!")

    def fill(self) -> None:
        while self.left and not self.paused:
            self.left -= len(self.piece)
            self.transport.write(self.piece)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.fill()


async def start(mode: str, listener: Any) -> list[Any]:
    """Start serving and return what must be kept alive."""
    loop = asyncio.get_running_loop()
    context = None
    if os.environ.get("BULK_TLS"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE)
    return [await loop.create_server(Bulk, sock=listener, backlog=echo.BACKLOG, ssl=context)]


if __name__ == "__main__":
    echo.start = start
    echo.main()
