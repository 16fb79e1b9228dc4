"""uvicorn serving FastAPI on Starlette, with httpx and websockets as clients."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from tests.support.certs import LOCALHOST, client_context
from tests.support.loops import Factory, run, until

from .asgi import make_app
from .asgi_checks import (
    check_a_client_that_leaves,
    check_requests,
    check_streams,
    check_web_sockets,
)
from .uvicorn_server import serving


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_requests_and_streams(factory: Factory, http: str) -> None:
    app = make_app()

    async def main() -> None:
        async with (
            serving(app, http=http) as (_, port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await check_requests(client)
            await check_streams(client)
            await check_a_client_that_leaves(client)

    run(factory, main)
    assert app.state.log == ["startup", "after saw", "shutdown"]


def test_web_sockets(factory: Factory) -> None:
    app = make_app()

    async def main() -> None:
        async with serving(app, ws="websockets-sansio") as (_, port):
            await check_web_sockets(f"ws://127.0.0.1:{port}")

    run(factory, main)
    assert app.state.log == ["startup", 4000, "shutdown"]


def test_tls(factory: Factory) -> None:
    async def main() -> None:
        options = {"ssl_certfile": str(LOCALHOST), "ssl_keyfile": str(LOCALHOST)}
        async with (
            serving(make_app(), **options) as (_, port),
            httpx.AsyncClient(
                base_url=f"https://localhost:{port}", verify=client_context()
            ) as client,
        ):
            await check_requests(client)
            await check_streams(client)
            await check_a_client_that_leaves(client)

    run(factory, main)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_request_finish(factory: Factory, sig: signal.Signals) -> None:
    app = make_app()
    kept: list[int] = []

    async def main() -> str:
        async with serving(app) as (server, port), httpx.AsyncClient() as client:
            request = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/slow?seconds=0.05"))
            await app.state.begun.wait()
            signal.raise_signal(sig)
            await until(lambda: server.should_exit)
            return (await request).json()

    # uvicorn raises the signal again when it is done, for whoever started it.
    before = signal.signal(sig, lambda number, _: kept.append(number))
    try:
        assert run(factory, main) == "finished"
    finally:
        signal.signal(sig, before)
    assert kept == [sig]
    assert app.state.log == ["startup", "shutdown"]
