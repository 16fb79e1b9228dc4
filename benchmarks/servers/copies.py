"""Moves bytes in one way on one loop and says what that copied; run by ``benchmarks/copies.py``, its counter preloaded.

    python benchmarks/servers/copies.py --loop asyncio|uvloop|uring|epoll --way WAY --size BYTES --piece BYTES

The peers are forked children, which have counters of their own: what they copy is not seen. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import multiprocessing
import os
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.servers.echo import Echo, new_loop

#: Bytes that a stream of asyncio's is read by.
READ = 64 * 1024
#: Bytes of a datagram at most.
DATAGRAM = 32 * 1024
CERTIFICATE = Path(__file__).parents[2] / "tests" / "support" / "localhost.pem"


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.setblocking(False)
    return near, far


def send(sock: socket.socket, size: int, piece: int) -> None:
    block = bytes(piece)
    for _ in range(size // piece):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket) -> None:
    buffer = bytearray(4 * READ)
    while sock.recv_into(buffer):
        pass


def peer(work: Callable[..., Any], sock: socket.socket, *args: Any) -> None:
    """Do it in a process of its own, which alone has the socket from here on."""
    if os.fork() == 0:
        os.closerange(3, sock.fileno())
        os.closerange(sock.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        work(sock, *args)
        os._exit(0)
    sock.close()


def talk(sock: socket.socket, size: int, piece: int) -> None:
    reading = threading.Thread(target=receive, args=(sock,))
    reading.start()
    send(sock, size, piece)
    reading.join()


class Once(Echo):
    """An echo that tells of its end."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def echo_protocol(size: int, piece: int) -> None:
    near, far = tcp_pair()
    peer(talk, far, size, piece)
    _, protocol = await asyncio.get_running_loop().create_connection(Once, sock=near)
    await protocol.ended


def talk_tls(sock: socket.socket, size: int, piece: int) -> None:
    context = ssl.create_default_context(cafile=CERTIFICATE)
    sock.setblocking(True)
    with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
        block, answer = bytes(piece), bytearray(piece)
        for _ in range(size // piece):
            wrapped.sendall(block)
            left = piece
            while left:
                left -= wrapped.recv_into(answer, left)
        wrapped.unwrap()


async def echo_tls(size: int, piece: int) -> None:
    near, far = tcp_pair()
    peer(talk_tls, far, size, piece)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    loop = asyncio.get_running_loop()
    protocol = Once()  # uvloop gives back another
    await loop.connect_accepted_socket(lambda: protocol, sock=near, ssl=context)
    await protocol.ended


def talk_udp(sock: socket.socket, size: int, piece: int) -> None:
    piece = min(piece, DATAGRAM)
    block, answer = bytes(piece), bytearray(piece)
    for _ in range(size // piece):
        sock.send(block)
        sock.recv_into(answer)
    sock.send(b"end")


class OnceDatagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if data == b"end":
            self.transport.close()
        else:
            self.transport.sendto(data, address)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def echo_udp(size: int, piece: int) -> None:
    near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    near.bind(("127.0.0.1", 0))
    far.connect(near.getsockname())
    peer(talk_udp, far, size, piece)
    near.setblocking(False)
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(OnceDatagrams, sock=near)
    await protocol.ended


async def echo_subprocess(size: int, piece: int) -> None:
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    block = bytes(piece)
    assert process.stdin is not None and process.stdout is not None
    for _ in range(size // piece):
        process.stdin.write(block)
        await process.stdout.readexactly(piece)
    process.stdin.close()
    await process.wait()


async def echo_asyncio_streams(size: int, piece: int) -> None:
    near, far = tcp_pair()
    peer(talk, far, size, piece)
    reader, writer = await asyncio.open_connection(sock=near)
    while data := await reader.read(READ):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def echo_leases(size: int, piece: int) -> None:
    from clearway import streams

    near, far = tcp_pair()
    peer(talk, far, size, piece)
    async with streams.from_socket(near) as stream:
        async for lease in stream:
            with lease:
                await stream.send(lease)


async def proxy_streams(size: int, piece: int) -> None:
    (left, source), (right, sink) = tcp_pair(), tcp_pair()
    peer(send, source, size, piece)
    peer(receive, sink)
    reader, upstream = await asyncio.open_connection(sock=left)
    _, writer = await asyncio.open_connection(sock=right)
    while data := await reader.read(READ):
        writer.write(data)
        await writer.drain()
    for one in (upstream, writer):
        one.close()
        await one.wait_closed()


async def proxy_leases(size: int, piece: int) -> None:
    from clearway import streams

    (left, source), (right, sink) = tcp_pair(), tcp_pair()
    peer(send, source, size, piece)
    peer(receive, sink)
    async with streams.from_socket(left) as incoming, streams.from_socket(right) as outgoing:
        async for lease in incoming:
            with lease:
                await outgoing.send(lease)


async def proxy_transfer(size: int, piece: int) -> None:
    import clearway

    (left, source), (right, sink) = tcp_pair(), tcp_pair()
    peer(send, source, size, piece)
    peer(receive, sink)
    with left, right:
        await clearway.transfer(left, right, send_eof=True)


def content(size: int) -> Any:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  whoever gets it closes it
    os.truncate(file.fileno(), size)
    return file


async def file_read_and_write(size: int, piece: int) -> None:
    near, far = tcp_pair()
    peer(receive, far)
    loop = asyncio.get_running_loop()
    _, writer = await asyncio.open_connection(sock=near)
    with content(size) as file:
        while data := await loop.run_in_executor(None, file.read, piece):
            writer.write(data)
            await writer.drain()
    writer.close()
    await writer.wait_closed()


async def file_transfer(size: int, piece: int) -> None:
    import clearway

    near, far = tcp_pair()
    peer(receive, far)
    with content(size) as file, near:
        await clearway.transfer(file, near)


async def read_leases(size: int, piece: int) -> None:
    import clearway
    from clearway.buffers import Pool

    with content(size) as plain:
        pool = Pool(max(piece, READ), 4)
        name = f"/proc/self/fd/{plain.fileno()}"
        async with await clearway.open_file(name, "rb", pool=pool) as file:
            for offset in range(0, size, piece):
                with await file.pread_lease(piece, offset):
                    pass


async def read_bytes(size: int, piece: int) -> None:
    loop = asyncio.get_running_loop()
    with content(size) as file:
        for offset in range(0, size, piece):
            await loop.run_in_executor(None, os.pread, file.fileno(), piece, offset)


async def messages_shared(size: int, piece: int) -> None:
    from clearway.channels import SharedChannel

    left, link = SharedChannel.pair()
    right = SharedChannel.attach(link)
    with left, right:
        for _ in range(size // piece):
            (await left.reserve(piece)).commit()
            (await right.receive()).release()


async def messages_pipe(size: int, piece: int) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    message = bytes(piece)
    loop = asyncio.get_running_loop()
    for _ in range(size // piece):
        sending = loop.run_in_executor(None, sender.send_bytes, message)
        await loop.run_in_executor(None, receiver.recv_bytes)
        await sending


WAYS: dict[str, Callable[[int, int], Awaitable[None]]] = {
    "echo, Protocol": echo_protocol,
    "echo, Protocol over TLS": echo_tls,
    "echo, DatagramProtocol": echo_udp,
    "echo, subprocess by asyncio's streams": echo_subprocess,
    "echo, asyncio's streams": echo_asyncio_streams,
    "echo, clearway.streams": echo_leases,
    "proxy, asyncio's streams": proxy_streams,
    "proxy, clearway.streams": proxy_leases,
    "proxy, clearway.transfer": proxy_transfer,
    "file to socket, read and write": file_read_and_write,
    "file to socket, clearway.transfer": file_transfer,
    "file, pread in a thread": read_bytes,
    "file, pread_lease": read_leases,
    "messages, multiprocessing.Pipe": messages_pipe,
    "messages, SharedChannel": messages_shared,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--way", required=True, choices=WAYS)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--piece", type=int, required=True)
    options = parser.parse_args()
    count = ctypes.CDLL(None).copycount_read
    count.restype = ctypes.c_uint64
    loop = new_loop(options.loop, {})
    asyncio.set_event_loop(loop)
    way = WAYS[options.way]
    loop.run_until_complete(way(1 << 20, options.piece))  # what is only done once
    account = own_account(loop)
    before = count()
    loop.run_until_complete(way(options.size, options.piece))
    copied = count() - before
    told = {"copied": copied, "size": options.size}
    if account is not None:
        told["account"] = own_account(loop) - account
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    print(json.dumps(told))


def own_account(loop: Any) -> Any:
    """Bytes copied by the loop's own account; None where it keeps none."""
    if not hasattr(loop, "statistics"):
        return None
    return sum(path.copied for path in loop.statistics().paths.values())


if __name__ == "__main__":
    main()
