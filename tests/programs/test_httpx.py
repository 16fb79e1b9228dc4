"""httpx on anyio's and asyncio's streams: pools, time-outs and cancelled requests."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.loops import Factory, cancelled, run

from .uvicorn_server import serving


async def never_ends(scope: Any, receive: Any, send: Any) -> None:
    """Answers `/` at once, begins an answer to `/begun` and none to anything else."""
    if scope["path"] in ("/", "/begun"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
    if scope["path"] != "/":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    await send({"type": "http.response.body", "body": b"thing"})


def options(port: int, **more: Any) -> dict[str, Any]:
    return {"base_url": f"http://127.0.0.1:{port}", **more}


def test_requests_wait_for_a_connection_of_a_small_pool(factory: Factory) -> None:
    async def main() -> None:
        async with serving(never_ends, lifespan="off") as (_, port):
            limits = httpx.Limits(max_connections=3)
            async with httpx.AsyncClient(**options(port, limits=limits)) as client:
                answers = await asyncio.gather(*(client.get("/") for _ in range(60)))
                assert [answer.text for answer in answers] == ["something"] * 60

    run(factory, main)


def test_each_of_its_time_outs(factory: Factory) -> None:
    async def main() -> None:
        async with serving(never_ends, lifespan="off") as (_, port):
            limits = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(**options(port, limits=limits)) as client:
                with pytest.raises(httpx.ReadTimeout):
                    await client.get("/never", timeout=httpx.Timeout(30, read=0.05))
                async with client.stream("GET", "/begun", timeout=30) as response:
                    parts = response.aiter_raw()
                    assert await anext(parts) == b"some"
                    with pytest.raises(httpx.PoolTimeout):
                        await client.get("/", timeout=httpx.Timeout(30, pool=0.05))
                # The pool has its connection back.
                assert (await client.get("/")).text == "something"

    run(factory, main)


def test_a_cancelled_request_gives_its_connection_back(factory: Factory) -> None:
    async def main() -> None:
        async with serving(never_ends, lifespan="off") as (_, port):
            limits = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(**options(port, limits=limits)) as client:
                begun = asyncio.Event()

                async def read() -> None:
                    async with client.stream("GET", "/begun") as response:
                        async for _ in response.aiter_raw():
                            begun.set()

                reading = asyncio.create_task(read())
                await begun.wait()
                await cancelled(reading)
                assert (await client.get("/")).text == "something"

    run(factory, main)


def test_a_refused_connection(factory: Factory) -> None:
    async def main() -> None:
        async with serving(never_ends, lifespan="off") as (_, port):
            pass
        async with httpx.AsyncClient(**options(port)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/")

    run(factory, main)
