"""Peers that owe nothing to the loop under test: plain sockets, and protocols that take notes."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from typing import Any

# Bound of every blocking call of a peer. Shorter than a test's time limit (conftest), so that the
# error which left the peer waiting is what the test reports.
PEER_TIMEOUT_S = 8.0


async def settle(rounds: int = 3) -> None:
    """Return after the loop has asked the kernel for events `rounds` times.

    What had arrived on any descriptor before the call has then been seen by the loop: this is how
    a test shows that something did *not* happen, without sleeping.
    """
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        for _ in range(rounds):
            seen = loop.create_future()
            # Again and again, where our own step is suspended before it has removed it.
            loop.add_reader(ours, lambda seen=seen: seen.done() or seen.set_result(None))
            theirs.send(b".")
            await seen
            loop.remove_reader(ours)
            ours.recv(1)


def listener(backlog: int = 128) -> socket.socket:
    """A blocking listening socket on loopback, port chosen by the kernel."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    sock.settimeout(PEER_TIMEOUT_S)
    return sock


def dial(address: tuple[str, int]) -> socket.socket:
    """A blocking client of a server at `address`."""
    return socket.create_connection(address, timeout=PEER_TIMEOUT_S)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: ours (non-blocking, for the loop) and the peer's (blocking)."""
    with listener() as server:
        peer = dial(server.getsockname())
        ours, _ = server.accept()
    ours.setblocking(False)
    return ours, peer


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected Unix stream sockets, as `tcp_pair`."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.settimeout(PEER_TIMEOUT_S)
    return ours, peer


PAIRS: dict[str, Callable[[], tuple[socket.socket, socket.socket]]] = {
    "tcp": tcp_pair,
    "unix": unix_pair,
}


def unix_path() -> str:
    """A path for a Unix socket, short enough for sun_path (108 bytes) wherever pytest's tmp is."""
    return os.path.join(tempfile.mkdtemp(prefix="cw-"), "s")


def recv_exactly(peer: socket.socket, count: int) -> bytes:
    """Read `count` bytes or fail with what came instead."""
    data = bytearray()
    while len(data) < count:
        part = peer.recv(min(1 << 16, count - len(data)))
        assert part, f"end of stream after {len(data)} of {count} bytes"
        data += part
    return bytes(data)


def recv_all(peer: socket.socket) -> bytes:
    """Read to the end of the stream."""
    data = bytearray()
    while part := peer.recv(1 << 16):
        data += part
    return bytes(data)


def fill(peer: socket.socket, limit: int, chunk: int = 1 << 16) -> int:
    """Send zeros without blocking until the kernel takes no more, at most `limit` bytes."""
    sent = 0
    payload = bytes(chunk)
    peer.setblocking(False)
    try:
        while sent < limit:
            sent += peer.send(payload[: limit - sent])
    except BlockingIOError:
        pass
    finally:
        peer.settimeout(PEER_TIMEOUT_S)
    return sent


def reset(peer: socket.socket) -> None:
    """Vanish: close with RST instead of FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def small_buffers(*socks: socket.socket, size: int = 1 << 15) -> None:
    """Fix the kernel's buffers (which otherwise grow by themselves to megabytes)."""
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def pattern(count: int) -> bytes:
    """`count` bytes in which a loss, a repetition or a swap of any block shows.

    Each group of four bytes holds its own position.
    """
    whole = struct.pack(f">{count // 4 + 1}I", *range(count // 4 + 1))
    return whole[:count]


class _Notes:
    """What every recording protocol has: an event that is set at each callback."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.transport: Any = None
        self.lost_with: list[BaseException | None] = []
        self._changed = asyncio.Event()

    def note(self, event: str) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until `condition()` is true, looking after each callback."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_lost(self) -> BaseException | None:
        await self.until(lambda: self.lost_with)
        return self.lost_with[0]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost_with.append(exc)
        self.note("lost")

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")


class Recorder(_Notes, asyncio.Protocol):
    """Keeps everything received; `keep_open` is what eof_received returns."""

    def __init__(self, keep_open: bool = False) -> None:
        super().__init__()
        self.data = bytearray()
        self.keep_open = keep_open

    def data_received(self, data: bytes) -> None:
        assert data, "data_received with nothing"
        self.data += data
        self.note("data")

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    async def until_received(self, count: int) -> bytes:
        await self.until(lambda: len(self.data) >= count or self.lost_with)
        assert len(self.data) >= count, f"lost after {len(self.data)} of {count} bytes"
        return bytes(self.data)


class BufferedRecorder(_Notes, asyncio.BufferedProtocol):
    """Receives into one buffer of its own of `size` bytes."""

    def __init__(self, size: int = 4096, keep_open: bool = False) -> None:
        super().__init__()
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.keep_open = keep_open

    def get_buffer(self, sizehint: int) -> bytearray:
        self.note("get_buffer")
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= len(self.buffer)
        self.data += self.buffer[:nbytes]
        # Whoever writes here later, by a stale pointer, will be seen in `data`.
        self.buffer[:] = b"\xee" * len(self.buffer)
        self.note("updated")

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keep_open

    async def until_received(self, count: int) -> bytes:
        await self.until(lambda: len(self.data) >= count or self.lost_with)
        assert len(self.data) >= count, f"lost after {len(self.data)} of {count} bytes"
        return bytes(self.data)


class Echo(asyncio.Protocol):
    """The server that every echo test uses: writes back, honours back-pressure."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def attach(sock: socket.socket, protocol: Any) -> Any:
    """Put `sock` under a transport of the running loop; returns the transport."""
    loop = asyncio.get_running_loop()
    transport, made = await loop.connect_accepted_socket(lambda: protocol, sock=sock)
    assert made is protocol
    return transport


async def closed(transport: Any, protocol: Any) -> None:
    """Close a transport and wait for connection_lost."""
    transport.close()
    await protocol.until_lost()
