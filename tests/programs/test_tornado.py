"""tornado: its loop wraps ours, its sockets go through add_handler, which is add_reader and add_writer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.iostream import StreamClosedError
from tornado.tcpclient import TCPClient
from tornado.tcpserver import TCPServer
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketHandler, websocket_connect

from tests.support.certs import client_context, server_context
from tests.support.loops import Factory, run

from .computing import ON, REFUSED, Hog

BLOCK = bytes(range(256)) * 256


class Streamed(web.RequestHandler):
    """Streams `count` blocks out; `flush` waits for the socket."""

    async def get(self, count: str) -> None:
        for _ in range(int(count)):
            self.write(BLOCK)
            await self.flush()


@web.stream_request_body
class Digest(web.RequestHandler):
    """The SHA-256 of a body that is never held as a whole."""

    def prepare(self) -> None:
        self.summed = hashlib.sha256()

    def data_received(self, chunk: bytes) -> None:
        self.summed.update(chunk)

    def post(self) -> None:
        self.write(self.summed.hexdigest())


class Echo(WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        if message == "leave":
            self.close(4001, "as you wish")
        else:
            await self.write_message(message, binary=isinstance(message, bytes))


class Compute(web.RequestHandler):
    def initialize(self, hog: Hog) -> None:
        self.hog = hog

    async def get(self) -> None:
        self.write(str(self.hog.compute()))


@asynccontextmanager
async def serving(*more: Any, tls: bool = False) -> AsyncIterator[int]:
    app = web.Application(
        [(r"/stream/(\d+)", Streamed), ("/digest", Digest), ("/echo", Echo), *more]
    )
    server = HTTPServer(app, ssl_options=server_context() if tls else None)
    sock, port = bind_unused_port()
    server.add_socket(sock)
    try:
        yield port
    finally:
        server.stop()
        await server.close_all_connections()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_bodies_stream_in_both_directions(factory: Factory, tls: bool) -> None:
    async def main() -> None:
        client = AsyncHTTPClient(
            force_instance=True, defaults={"ssl_options": client_context() if tls else None}
        )
        async with serving(tls=tls) as port:
            base = f"{'https' if tls else 'http'}://localhost:{port}"
            received = hashlib.sha256()
            await client.fetch(f"{base}/stream/50", streaming_callback=received.update)
            assert received.digest() == hashlib.sha256(BLOCK * 50).digest()
            posted = await client.fetch(f"{base}/digest", method="POST", body=BLOCK * 50)
            assert posted.body.decode() == hashlib.sha256(BLOCK * 50).hexdigest()
            with pytest.raises(HTTPClientError, match="404"):
                await client.fetch(f"{base}/nowhere")
            await asyncio.gather(*(client.fetch(f"{base}/stream/1") for _ in range(40)))
        client.close()

    run(factory, main)


def test_web_sockets(factory: Factory) -> None:
    async def main() -> None:
        async with serving() as port:
            socket = await websocket_connect(f"ws://localhost:{port}/echo")
            for message in ("", "x" * 126, "x" * 70_000, b"x" * 1_000_000):
                await socket.write_message(message, binary=isinstance(message, bytes))
                assert await socket.read_message() == message
            await socket.write_message("leave")
            assert await socket.read_message() is None
            assert (socket.close_code, socket.close_reason) == (4001, "as you wish")

    run(factory, main)


def test_streams(factory: Factory) -> None:
    class Lines(TCPServer):
        async def handle_stream(self, stream: Any, address: Any) -> None:
            try:
                while True:
                    await stream.write((await stream.read_until(b"\n")).upper())
            except StreamClosedError:
                served.set()

    served = asyncio.Event()

    async def main() -> None:
        server = Lines()
        sock, port = bind_unused_port()
        server.add_socket(sock)
        client = TCPClient()
        stream = await client.connect("localhost", port)
        await stream.write(b"one\ntwo\n")
        assert await stream.read_until(b"\n") == b"ONE\n"
        assert await stream.read_until(b"\n") == b"TWO\n"
        stream.close()
        client.close()
        server.stop()
        # The server's side of the stream is closed when it has seen the end of ours.
        await served.wait()

    run(factory, main)


def test_timers_and_callbacks_of_its_own_loop(factory: Factory) -> None:
    async def main() -> list[str]:
        loop = IOLoop.current()
        said: list[str] = []
        done = asyncio.Event()

        def tick() -> None:
            said.append("tick")
            if said.count("tick") == 3:
                periodic.stop()
                done.set()

        periodic = PeriodicCallback(tick, 1)
        periodic.start()
        loop.add_callback(said.append, "callback")
        said.append(await loop.run_in_executor(None, lambda: "executor"))
        loop.remove_timeout(loop.call_later(0, said.append, "never"))
        await done.wait()
        return said

    said = run(factory, main)
    assert sorted(said) == ["callback", "executor", "tick", "tick", "tick"]


def test_its_loop_can_own_ours(factory: Factory) -> None:
    """The line of the documentation: the other way round, tornado runs and closes the loop."""
    ours = factory()
    loop = IOLoop(asyncio_loop=ours, make_current=False)

    async def main() -> bool:
        return IOLoop.current() is loop and asyncio.get_running_loop() is ours

    assert loop.run_sync(main)
    loop.close()
    assert ours.is_closed()


@pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
def test_web_sockets_are_served_while_a_handler_computes(clearway_factory: Factory) -> None:
    async def main() -> None:
        hog = Hog()
        handler: tuple[str, Callable[..., Any], dict[str, Hog]] = (
            "/compute",
            Compute,
            {"hog": hog},
        )
        client = AsyncHTTPClient(force_instance=True, defaults={"request_timeout": 60})
        async with serving(handler) as port:
            socket = await websocket_connect(f"ws://localhost:{port}/echo")
            computing = asyncio.ensure_future(client.fetch(f"http://localhost:{port}/compute"))
            while not hog.started:
                await asyncio.sleep(0.001)
            for n in range(20):
                await socket.write_message(str(n))
                assert await socket.read_message() == str(n)
            hog.release()
            assert (await computing).body == b"True"
            socket.close()
            assert await socket.read_message() is None
        client.close()

    run(clearway_factory, main, **ON)
