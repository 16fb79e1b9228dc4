"""A TCP echo server on a chosen loop, written against asyncio's interface in one of four ways.

Run as a program by the harness; prints one line of JSON with its port when it listens, and dies
with whoever started it::

    python benchmarks/servers/echo.py --loop asyncio|uvloop|uring|epoll|selector
        --mode protocol|buffered|streams|sock [--core N] [--option NAME=VALUE ...]

It imports nothing of the benchmarks, so that any interpreter can run it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import platform
import resource
import signal
import socket
import sys
from typing import Any

#: Linux cuts it to net.core.somaxconn (4,096 since 5.4); 1,000 clients connect in one burst.
BACKLOG = 4096
#: What a stream or socket server asks for in one read: asyncio's own stream limit.
READ_SIZE = 64 * 1024
CLEARWAY_ENGINES = ("uring", "epoll", "selector")
MODES = ("protocol", "buffered", "streams", "sock")


class Echo(asyncio.Protocol):
    """The plainest protocol: what arrives goes back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    # Back-pressure: whoever does not read its echo is not read from.
    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class BufferedEcho(asyncio.BufferedProtocol):
    """Receives into a buffer of its own, and returns a view of it."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.view = memoryview(bytearray(READ_SIZE))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        # A transport that cannot send at once must copy: the buffer is filled again.
        self.transport.write(self.view[:nbytes])

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def echo_socket(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    with sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := await loop.sock_recv(sock, READ_SIZE):
                await loop.sock_sendall(sock, data)
        except ConnectionError:
            pass


async def serve_sockets(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    tasks = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        task = loop.create_task(echo_socket(loop, sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def listen() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def start(mode: str, listener: socket.socket) -> list[Any]:
    """Start serving and return what must be kept alive."""
    loop = asyncio.get_running_loop()
    if mode == "protocol":
        return [await loop.create_server(Echo, sock=listener, backlog=BACKLOG)]
    if mode == "buffered":
        return [await loop.create_server(BufferedEcho, sock=listener, backlog=BACKLOG)]
    if mode == "streams":
        return [await asyncio.start_server(echo_stream, sock=listener, backlog=BACKLOG)]
    return [loop.create_task(serve_sockets(listener))]


def new_loop(name: str, options: dict[str, Any]) -> asyncio.AbstractEventLoop:
    """Make the loop to be measured; clearway and uvloop are imported only when asked for."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    import clearway

    return clearway.new_event_loop(engine=name, **options)


def option(text: str) -> tuple[str, Any]:
    """``name=value`` for clearway.new_event_loop; a value that is JSON is taken as that."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="TCP echo server on a chosen event loop")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", *CLEARWAY_ENGINES), required=True)
    parser.add_argument("--mode", choices=MODES, default="protocol")
    parser.add_argument("--core", type=int, default=-1)
    parser.add_argument("--option", type=option, action="append", default=[])
    parser.add_argument("--stay", action="store_true", help="outlive the starter")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not args.stay:
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if args.core >= 0:
        os.sched_setaffinity(0, {args.core})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = new_loop(args.loop, dict(args.option))
    asyncio.set_event_loop(loop)
    listener = listen()
    kept = loop.run_until_complete(start(args.mode, listener))
    ready = {
        "port": listener.getsockname()[1],
        "pid": os.getpid(),
        "loop": f"{type(loop).__module__}.{type(loop).__qualname__}",
        "engine": str(getattr(loop, "engine", "")),
        "python": platform.python_version(),
    }
    print(json.dumps(ready), flush=True)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        del kept


if __name__ == "__main__":
    main()
