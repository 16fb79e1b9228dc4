"""A TLS echo server on a chosen loop; its lines and options are those of echo.py.

    python benchmarks/servers/tls_echo.py --loop asyncio|uvloop|uring|epoll
        --mode protocol|buffered|streams [--core N] [--option NAME=VALUE ...]

The certificate is the test suite's (elliptic curve). It matters in the handshake only, which the
load generator does before its window.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import echo

CERTIFICATE = Path(__file__).parents[2] / "tests" / "support" / "localhost.pem"


async def start(mode: str, listener: Any) -> list[Any]:
    """Start serving and return what must be kept alive."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    loop = asyncio.get_running_loop()
    options = {"sock": listener, "backlog": echo.BACKLOG, "ssl": context}
    if mode == "protocol":
        return [await loop.create_server(echo.Echo, **options)]
    if mode == "buffered":
        return [await loop.create_server(echo.BufferedEcho, **options)]
    if mode == "streams":
        return [await asyncio.start_server(echo.echo_stream, **options)]
    sys.exit(f"--mode {mode}: there is no TLS on bare sockets")


if __name__ == "__main__":
    echo.start = start
    echo.main()
