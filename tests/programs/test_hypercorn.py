"""hypercorn serving FastAPI: HTTP/1.1, HTTP/2 by ALPN, WebSockets, an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.support.certs import LOCALHOST, client_context
from tests.support.loops import Factory, run

from .asgi import make_app
from .asgi_checks import check_requests, check_streams, check_web_sockets


@asynccontextmanager
async def serving(app: Any, **settings: Any) -> AsyncIterator[int]:
    """Serve `app` in this loop; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # hypercorn closes what it is given.
        config = Config.from_mapping(
            bind=[f"fd://{listener.detach()}"], errorlog=None, graceful_timeout=30, **settings
        )
    end = asyncio.Event()
    task = asyncio.create_task(serve(app, config, shutdown_trigger=end.wait))
    try:
        yield port
    finally:
        end.set()
        await task


def test_requests_and_streams(factory: Factory) -> None:
    app = make_app()

    async def main() -> None:
        async with (
            serving(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await check_requests(client)
            await check_streams(client)

    run(factory, main)
    assert app.state.log == ["startup", "after saw", "shutdown"]


def test_http_2_over_tls(factory: Factory) -> None:
    async def main() -> None:
        files = {"certfile": str(LOCALHOST), "keyfile": str(LOCALHOST)}
        async with (
            serving(make_app(), **files) as port,
            httpx.AsyncClient(
                base_url=f"https://localhost:{port}", verify=client_context(), http2=True
            ) as client,
        ):
            assert (await client.get("/double?number=1")).http_version == "HTTP/2"
            await check_requests(client)

    run(factory, main)


def test_web_sockets(factory: Factory) -> None:
    async def main() -> None:
        async with serving(make_app()) as port:
            await check_web_sockets(f"ws://127.0.0.1:{port}")

    run(factory, main)


def test_a_server_that_ends_finishes_the_answers_it_has_begun(factory: Factory) -> None:
    app = make_app()

    async def main() -> str:
        async with httpx.AsyncClient() as client:
            async with serving(app) as port:
                url = f"http://127.0.0.1:{port}/slow?seconds=0.05"
                request = asyncio.create_task(client.get(url))
                await app.state.begun.wait()
            with pytest.raises(httpx.ConnectError):
                await client.get(url)
            return (await request).json()

    assert run(factory, main) == "finished"
    assert app.state.log == ["startup", "shutdown"]
