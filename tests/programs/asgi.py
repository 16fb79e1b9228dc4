"""The ASGI application that the servers serve here, with FastAPI; it also runs as `tests.programs.asgi:app`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

BLOCK = bytes(range(256)) * 256


class Item(BaseModel):
    name: str
    price: float


def in_a_thread(number: int) -> int:
    # Plain functions are run by anyio's worker threads.
    return number * 2


def make_app() -> FastAPI:
    """A new application with a log of its own in `app.state.log`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.log.append("startup")
        yield
        app.state.log.append("shutdown")

    app = FastAPI(lifespan=lifespan)
    app.state.log = []
    app.state.begun = asyncio.Event()

    @app.get("/loop")
    async def loop() -> str:
        return type(asyncio.get_running_loop()).__module__

    @app.get("/double")
    def double(number: Annotated[int, Depends(in_a_thread)]) -> int:
        return number

    @app.post("/items")
    async def items(item: Item, background: BackgroundTasks) -> Item:
        background.add_task(app.state.log.append, f"after {item.name}")
        return Item(name=item.name.upper(), price=item.price)

    @app.get("/fails")
    async def fails() -> None:
        raise HTTPException(418, "a teapot")

    @app.post("/digest")
    async def digest(request: Request) -> str:
        summed = hashlib.sha256()
        async for data in request.stream():
            summed.update(data)
        return summed.hexdigest()

    @app.get("/stream/{blocks}")
    async def stream(blocks: int) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(blocks):
                yield BLOCK

        return StreamingResponse(body())

    @app.get("/slow")
    async def slow(seconds: float) -> str:
        app.state.begun.set()
        await asyncio.sleep(seconds)
        return "finished"

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while (text := await socket.receive_text()) != "leave":
                await socket.send_text(text)
            await socket.close(4001, "as you wish")
        except WebSocketDisconnect as error:
            app.state.log.append(error.code)

    return app


app = make_app()
