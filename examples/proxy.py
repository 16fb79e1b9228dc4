"""A TCP proxy whose bytes never enter the process: they are spliced from socket to socket through a pipe.

    python examples/proxy.py 8080 example.org 80        # listens on 127.0.0.1:8080

Each direction ends by itself: when one side has said all it has to say the other is told, and may still answer. When
one direction fails both connections are cut, and with them the other direction.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

import clearway

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Joins connections to ``host:port``; ``moved`` counts the bytes of both directions."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.moved = 0
        self.copied = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The life of one connection."""
        client = (reader, writer)
        # Until it can be spliced nothing is to be received into memory.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            server = await asyncio.open_connection(self._host, self._port)
        except OSError as exc:
            print(f"no connection to {self._host}:{self._port}: {exc}", file=sys.stderr)
            reset(writer)
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(client, server))
                both.create_task(self._pass(server, client))
        except* OSError:
            for _, end in (client, server):
                reset(end)
        finally:
            for _, end in (client, server):
                end.close()

    async def _pass(self, source: Streams, destination: Streams) -> None:
        """One direction."""
        account = clearway.Transfer()
        try:
            await clearway.transfer(source[0], destination[1], send_eof=True, progress=account)
        finally:
            self.moved += account.moved
            self.copied += account.buffered


def reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection so that the other side sees an error: half of an answer must not look like a whole one."""
    if not writer.transport.is_closing():
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main(listen: int, host: str, port: int) -> None:
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", listen)
    address = server.sockets[0].getsockname()
    print(f"{address[0]}:{address[1]} -> {host}:{port}", flush=True)
    try:
        async with server:
            await server.serve_forever()
    finally:
        print(f"{proxy.moved:,} bytes moved, {proxy.copied:,} through memory", flush=True)


if __name__ == "__main__":
    try:
        clearway.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    except KeyboardInterrupt:
        pass
