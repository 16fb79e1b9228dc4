"""A handler of a user that computes for long is suspended under real frameworks, and others are answered."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import clearway
from clearway.scheduler.preemption import refusal

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

#: The slow handler gives up after this many rounds; it is released by the fast one long before.
ROUNDS_MAX = 100_000_000


class Meeting:
    """The slow handler computes until the fast one has been served: without suspension it never would be."""

    def __init__(self) -> None:
        self.computing = False
        self.met = False

    def compute(self) -> str:
        self.computing = True
        for _ in range(ROUNDS_MAX):
            if self.met:
                return "met"
        return "alone"

    def release(self) -> str:
        self.met = True
        return "fast"


async def get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.rpartition(b"\r\n\r\n")[2]


async def visit(port: int, meeting: Meeting) -> None:
    slow = asyncio.create_task(get(port, "/slow"))
    while not meeting.computing:
        await asyncio.sleep(0.001)
    assert await get(port, "/fast") == b"fast"
    assert await slow == b"met"


def test_starlette_under_uvicorn() -> None:
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    meeting = Meeting()

    async def slow(request: Any) -> Any:
        return PlainTextResponse(meeting.compute())

    async def fast(request: Any) -> Any:
        return PlainTextResponse(meeting.release())

    app = Starlette(routes=[Route("/slow", slow), Route("/fast", fast)])

    async def main() -> None:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", lifespan="off", http="h11")
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.001)
            await visit(listener.getsockname()[1], meeting)
            server.should_exit = True
            await serving

    clearway.run(main(), preempt="on", quantum=0.002)


def test_aiohttp() -> None:
    web = pytest.importorskip("aiohttp.web")
    meeting = Meeting()

    async def slow(request: Any) -> Any:
        return web.Response(text=meeting.compute())

    async def fast(request: Any) -> Any:
        return web.Response(text=meeting.release())

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/slow", slow)
        app.router.add_get("/fast", fast)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        await visit(runner.addresses[0][1], meeting)
        await runner.cleanup()

    clearway.run(main(), preempt="on", quantum=0.002)
