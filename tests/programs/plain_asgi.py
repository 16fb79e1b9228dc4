"""Small applications that servers serve as programs of their own: `app` for ASGI, `web_app` for aiohttp."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from aiohttp import web


def loop_name() -> str:
    """asyncio, uring or epoll."""
    return str(getattr(asyncio.get_running_loop(), "engine_name", "asyncio"))


def compute_until(path: str) -> None:
    while not os.path.exists(path):
        pass


async def body(path: str) -> AsyncIterator[bytes]:
    """`/loop` names the loop; any other path is one of the file system, and is waited for.

    `/computing` before the path: without giving way to anybody.
    """
    if path == "/loop":
        yield loop_name().encode()
        return
    yield b"waiting\n"
    if path.startswith("/computing/"):
        await asyncio.sleep(0.01)  # so that what was written is on its way
        compute_until(path.removeprefix("/computing"))
    while not path.startswith("/computing/") and not os.path.exists(path):
        await asyncio.sleep(0.001)
    yield b"finished\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise RuntimeError(f"{scope['type']} is not spoken here")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async for part in body(unquote(scope["path"])):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _handler(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for part in body(request.path):
        await response.write(part)
    return response


web_app = web.Application()
web_app.router.add_get("/{path:.*}", _handler)
