"""A TCP proxy in front of a port, of a chosen kind: by ``clearway.transfer`` or by an asyncio Protocol.

    python benchmarks/servers/proxy.py --loop uring|epoll|asyncio|uvloop|threads --way splice|protocol
        --upstream PORT [--core N]

``splice`` is examples/proxy.py. ``protocol`` writes what arrives on one side to the other, with back-pressure.
``threads`` is no loop but the limit of either way: a thread for each direction that does nothing but make the two
system calls, splice(2) twice, or for ``protocol`` recv(2) and send(2).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import fcntl
import importlib.util
import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

#: Bytes of one call of the limit's: as much as clearway's pipes hold, and as uvloop receives at once.
PIECE = 256 * 1024
F_SETPIPE_SZ = 1031

LOOPS = ("uring", "epoll", "asyncio", "uvloop", "threads")

EXAMPLE = Path(__file__).parents[2] / "examples" / "proxy.py"


class Side(asyncio.Protocol):
    """One of the two connections."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)  # type: ignore[union-attr]

    def eof_received(self) -> bool:
        self.other.transport.write_eof()  # type: ignore[union-attr]
        return True

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()  # type: ignore[union-attr]

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()  # type: ignore[union-attr]

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Front(Side):
    """The client's side: opens the server's, and keeps what comes before that is there."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.task = asyncio.ensure_future(self._open())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(lambda: Side(self), "127.0.0.1", self._port)
        self.other.transport.writelines(self._early)


async def serve(way: str, upstream: int) -> Any:
    if way == "protocol":
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Front(upstream), "127.0.0.1", 0, backlog=1024)
    spec = importlib.util.spec_from_file_location("example_proxy", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    proxy = example.Proxy("127.0.0.1", upstream)
    return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=1024)


def splice_all(source: socket.socket, sink: socket.socket) -> None:
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, F_SETPIPE_SZ, PIECE)
        while count := os.splice(source.fileno(), writer, PIECE, flags=os.SPLICE_F_MOVE):
            while count:
                count -= os.splice(reader, sink.fileno(), count, flags=os.SPLICE_F_MOVE)
    finally:
        os.close(reader)
        os.close(writer)


def copy_all(source: socket.socket, sink: socket.socket) -> None:
    memory = memoryview(bytearray(PIECE))
    while count := source.recv_into(memory):
        sink.sendall(memory[:count])


def serve_by_threads(way: str, upstream: int) -> None:
    move = splice_all if way == "splice" else copy_all

    def one_way(source: socket.socket, sink: socket.socket) -> None:
        try:
            move(source, sink)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side is gone, and the other thread finds that out as well

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", upstream))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=one_way, args=ends, daemon=True).start()


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    import clearway

    return clearway.new_event_loop(engine=name)


def main() -> None:
    parser = argparse.ArgumentParser(description="a TCP proxy")
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--way", choices=("splice", "protocol"), required=True)
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--core", type=int, default=-1)
    args = parser.parse_args()
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if args.core >= 0:
        os.sched_setaffinity(0, {args.core})

    if args.loop == "threads":
        serve_by_threads(args.way, args.upstream)
        return

    async def run() -> None:
        server = await serve(args.way, args.upstream)
        ready = {"port": server.sockets[0].getsockname()[1], "pid": os.getpid()}
        print(json.dumps(ready), flush=True)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=lambda: new_loop(args.loop)) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
