"""aiohttp, server and client in one process: bodies that stream, WebSockets, TLS, time-outs, an orderly end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.certs import client_context, server_context
from tests.support.loops import Factory, cancelled, run

from .computing import ON, REFUSED, Hog

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BLOCK = bytes(range(256)) * 256


@asynccontextmanager
async def serving(handler: Handler, *, tls: bool = False, **options: Any) -> AsyncIterator[str]:
    """Serve every path with `handler`; gives the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, **options)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost", 0, ssl_context=server_context() if tls else None)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    finally:
        await runner.cleanup()


async def digest(request: web.Request) -> web.Response:
    """The SHA-256 of a body that is read as it comes."""
    summed = hashlib.sha256()
    async for data in request.content.iter_any():
        summed.update(data)
    return web.Response(text=summed.hexdigest())


def test_bodies_stream_in_both_directions(factory: Factory) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for data in request.content.iter_chunked(10_000):
            await response.write(data)
        await response.write_eof()
        return response

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield BLOCK

    async def main() -> None:
        async with (
            serving(handler) as url,
            aiohttp.ClientSession() as session,
            session.post(url, data=body()) as response,
        ):
            summed = hashlib.sha256()
            async for data in response.content.iter_any():
                summed.update(data)
            assert summed.digest() == hashlib.sha256(BLOCK * 100).digest()

    run(factory, main)


def test_a_file_is_served_and_uploaded(factory: Factory, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = BLOCK * 10
    path.write_bytes(content)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.FileResponse(path)
        form = await request.post()
        field = form["upload"]
        assert isinstance(field, web.FileField)
        return web.Response(text=hashlib.sha256(field.file.read()).hexdigest())

    async def main() -> None:
        async with serving(handler) as url, aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                assert await response.read() == content
            async with session.get(url, headers={"Range": "bytes=256-511"}) as response:
                assert response.status == 206
                assert await response.read() == BLOCK[:256]
            with path.open("rb") as upload:
                async with session.post(url, data={"upload": upload}) as response:
                    assert await response.text() == hashlib.sha256(content).hexdigest()

    run(factory, main)


def test_many_requests_share_few_connections(factory: Factory) -> None:
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({"path": request.path})

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=5)
        async with serving(handler) as url, aiohttp.ClientSession(connector=connector) as session:

            async def get(n: int) -> None:
                async with session.get(f"{url}{n}") as response:
                    assert await response.json() == {"path": f"/{n}"}

            await asyncio.gather(*(get(n) for n in range(200)))
        assert len(peers) <= 5

    run(factory, main)


def test_tls_with_a_large_upload(factory: Factory) -> None:
    async def main() -> None:
        # By name, because that is what the certificate is for.
        async with serving(digest, tls=True) as url, aiohttp.ClientSession() as session:
            url = url.replace("127.0.0.1", "localhost")
            for _ in range(2):
                async with session.post(url, data=BLOCK * 50, ssl=client_context()) as response:
                    assert await response.text() == hashlib.sha256(BLOCK * 50).hexdigest()
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url, ssl=client_context(trusting=False))

    run(factory, main)


def test_web_socket_messages_and_close_codes(factory: Factory) -> None:
    left_with: list[int | None] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=["echo"], compress=True)
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT and message.data == "leave":
                await socket.close(code=4001, message=b"as you wish")
            elif message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        left_with.append(socket.close_code)
        return socket

    async def main() -> None:
        async with serving(handler) as url, aiohttp.ClientSession() as session:
            async with session.ws_connect(url, protocols=["echo"], compress=15) as socket:
                assert socket.protocol == "echo"
                for size in (0, 125, 126, 65_536, 3_000_000):
                    await socket.send_str("x" * size)
                    assert await socket.receive_str() == "x" * size
                await socket.send_bytes(BLOCK)
                assert await socket.receive_bytes() == BLOCK
                await socket.close(code=4000)
            async with session.ws_connect(url) as socket:
                await socket.send_str("leave")
                message = await socket.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001)

    run(factory, main)
    assert left_with[0] == 4000


def test_a_client_that_times_out_or_is_cancelled_ends_its_handler(factory: Factory) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        ended: list[BaseException] = []

        async def handler(request: web.Request) -> web.Response:
            begun.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError as error:
                ended.append(error)
                raise
            return web.Response()

        async def gone(count: int) -> None:
            while len(ended) < count:
                await asyncio.sleep(0)

        async with (
            serving(handler, handler_cancellation=True) as url,
            aiohttp.ClientSession() as session,
        ):
            with pytest.raises(TimeoutError):
                await session.get(url, timeout=aiohttp.ClientTimeout(total=0.05))
            await gone(1)
            begun.clear()
            request = asyncio.create_task(session.get(url))
            await begun.wait()
            await cancelled(request)
            await gone(2)

    run(factory, main)


def test_a_server_that_ends_finishes_the_answers_it_has_begun(factory: Factory) -> None:
    async def main() -> str:
        begun = asyncio.Event()
        go_on = asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            begun.set()
            await go_on.wait()
            return web.Response(text="finished")

        async with aiohttp.ClientSession() as session:

            async def get(url: str) -> str:
                async with session.get(url) as response:
                    return await response.text()

            async with serving(handler) as url:
                request = asyncio.create_task(get(url))
                await begun.wait()
                asyncio.get_running_loop().call_later(0.01, go_on.set)
            with pytest.raises(aiohttp.ClientConnectorError):
                await get(url)
            return await request

    assert run(factory, main) == "finished"


@pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
def test_web_sockets_are_served_while_a_handler_computes(clearway_factory: Factory) -> None:
    async def main() -> None:
        hog = Hog()

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path == "/compute":
                return web.Response(text=str(hog.compute()))
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket

        async with (
            serving(handler) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url) as socket,
        ):

            async def compute() -> str:
                async with session.get(f"{url}compute") as response:
                    return await response.text()

            computing = asyncio.create_task(compute())
            while not hog.started:
                await asyncio.sleep(0.001)
            for n in range(20):
                await socket.send_str(str(n))
                assert await socket.receive_str() == str(n)
            hog.release()
            assert await computing == "True"

    run(clearway_factory, main, **ON)
