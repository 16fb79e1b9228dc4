"""What every ASGI server has to do with `asgi.app`, seen by its clients httpx and websockets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from .asgi import BLOCK


async def check_requests(client: httpx.AsyncClient) -> None:
    """Ordinary requests: validated bodies, dependencies in threads, errors, many at once."""
    posted = await client.post("/items", json={"name": "saw", "price": 5})
    assert posted.json() == {"name": "SAW", "price": 5.0}
    assert (await client.post("/items", json={"name": "saw"})).status_code == 422
    assert (await client.get("/fails")).status_code == 418
    answers = await asyncio.gather(
        *(client.get("/double", params={"number": n}) for n in range(50))
    )
    assert [answer.json() for answer in answers] == [2 * n for n in range(50)]


async def check_streams(client: httpx.AsyncClient) -> None:
    """Bodies larger than any buffer, in both directions."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield BLOCK

    whole = hashlib.sha256(BLOCK * 50)
    assert (await client.post("/digest", content=body())).json() == whole.hexdigest()
    received = hashlib.sha256()
    async with client.stream("GET", "/stream/50") as response:
        async for data in response.aiter_bytes():
            received.update(data)
    assert received.digest() == whole.digest()


async def check_a_client_that_leaves(client: httpx.AsyncClient) -> None:
    """To leave in the middle of an answer is no error of anybody's."""
    async with client.stream("GET", "/stream/100000") as response:
        async for _ in response.aiter_bytes():
            break


async def check_web_sockets(url: str) -> None:
    """Messages of all frame sizes, and who closed with which code."""
    async with connect(f"{url}/echo") as socket:
        for size in (0, 125, 126, 65_536, 500_000):
            await socket.send("x" * size)
            assert await socket.recv() == "x" * size
        await socket.close(4000, "enough")
    async with connect(f"{url}/echo") as socket:
        await socket.send("leave")
        with pytest.raises(ConnectionClosedError) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")
