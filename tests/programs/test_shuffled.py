"""Libraries people use, suspended wherever the rules allow: what a rule forgets shows as a torn message or a lost one.

Each scenario has several tasks in the library's code at once and checks every byte; it runs from fixed seeds. What that
found has a row in ``clearway.scheduler.libraries``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import aiosqlite
import anyio
import asyncpg
import httpx
import psycopg
import pytest
import uvicorn
from aiohttp import web
from hypercorn import asyncio as hypercorn
from hypercorn.config import Config
from redis import asyncio as redis
from sqlalchemy import String, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from tornado import escape, httpclient, httpserver, netutil, websocket
from tornado import web as tornado
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from clearway.testing import shuffle
from tests.support.loops import Factory
from tests.support.services import Address

from .computing import REFUSED

pytestmark = [
    pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED)),
    pytest.mark.limit(180),
]

#: The seed draws how many instructions lie between two suspensions: on the average 30, 10, 100 and 300 for these four.
SEED, RUNS = 7, 4

Scenario = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture
def shuffled(
    clearway_factory: Factory, caplog: pytest.LogCaptureFixture
) -> Callable[[Scenario], None]:
    """Run a scenario from the seeds; an error that is only logged is an error."""

    def run(scenario: Scenario) -> None:
        caplog.set_level(logging.ERROR)
        report = shuffle(scenario, runs=RUNS, seed=SEED, engine=clearway_factory.name)
        assert report.suspensions > 0
        errors = [record.getMessage() for record in caplog.records]
        assert not errors, f"seeds {SEED} to {SEED + RUNS - 1}: {errors}"

    return run


def body_of(number: int, turn: int) -> bytes:
    return bytes([65 + number]) * (1000 * number + turn)


def described(body: bytes) -> dict[str, Any]:
    """What every server here answers: computed in a loop, so that there is something to suspend."""
    total = 0
    for index in range(100):
        total += index * len(body)
    return {"length": len(body), "total": total, "digest": hashlib.sha256(body).hexdigest()}


def test_aiohttp(shuffled: Callable[[Scenario], None]) -> None:
    async def describe(request: Any) -> Any:
        return web.json_response(described(await request.read()))

    async def mirror(request: Any) -> Any:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(message.data[::-1])
        return answer

    async def post(session: Any, url: str, number: int) -> None:
        for turn in range(3):
            body = body_of(number, turn)
            async with session.post(url, data=body) as answer:
                assert await answer.json() == described(body)

    async def talk(session: Any, url: str) -> None:
        async with session.ws_connect(url + "mirror") as peer:
            for turn in range(5):
                await peer.send_str(f"hello {turn}")
                assert await peer.receive_str() == f"hello {turn}"[::-1]

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/", describe)
        app.router.add_get("/mirror", mirror)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            async with aiohttp.ClientSession() as session:
                await asyncio.gather(
                    *(post(session, url, number) for number in range(1, 6)),
                    talk(session, url),
                    talk(session, url),
                )
        finally:
            await runner.cleanup()

    shuffled(main)


def application() -> Any:
    """An ASGI application with one answer in a piece and one in many."""

    async def describe(request: Any) -> Any:
        return JSONResponse(described(await request.body()))

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(10):
            yield b"%d" % number * 1000
            await asyncio.sleep(0)

    async def stream(request: Any) -> Any:
        return StreamingResponse(pieces())

    return Starlette(routes=[Route("/", describe, methods=["POST"]), Route("/stream", stream)])


async def visit(client: Any, number: int) -> None:
    for turn in range(2):
        body = body_of(number, turn)
        answer = await client.post("/", content=body)
        assert answer.json() == described(body)
    answer = await client.get("/stream")
    assert answer.content == b"".join(b"%d" % number * 1000 for number in range(10))


async def visits(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await asyncio.gather(*(visit(client, number) for number in range(1, 4)))


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_uvicorn_starlette_and_httpx(shuffled: Callable[[Scenario], None], http: str) -> None:
    app = application()

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=http, loop="none", lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            await visits(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    shuffled(main)


def test_hypercorn_starlette_and_httpx(shuffled: Callable[[Scenario], None]) -> None:
    app = application()

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.accesslog = config.errorlog = None
        stop = asyncio.Event()
        serving = asyncio.ensure_future(hypercorn.serve(app, config, shutdown_trigger=stop.wait))
        try:
            await visits(port)
        finally:
            stop.set()
            await serving

    shuffled(main)


def test_tornado(shuffled: Callable[[Scenario], None]) -> None:
    class Describe(tornado.RequestHandler):
        async def post(self) -> None:
            self.write(described(self.request.body))

    class Mirror(websocket.WebSocketHandler):
        def on_message(self, message: Any) -> None:
            self.write_message(message[::-1])

    async def post(client: Any, port: int, number: int) -> None:
        for turn in range(3):
            body = body_of(number, turn)
            answer = await client.fetch(f"http://127.0.0.1:{port}/", method="POST", body=body)
            assert escape.json_decode(answer.body) == described(body)

    async def talk(port: int) -> None:
        peer = await websocket.websocket_connect(f"ws://127.0.0.1:{port}/mirror")
        for turn in range(4):
            text = f"hello {turn} " * 100
            await peer.write_message(text)
            assert await peer.read_message() == text[::-1]
        peer.close()
        assert await peer.read_message() is None

    async def main() -> None:
        listeners = netutil.bind_sockets(0, "127.0.0.1")
        port = listeners[0].getsockname()[1]
        app = tornado.Application(
            [("/", Describe), ("/mirror", Mirror)], log_function=lambda handler: None
        )
        server = httpserver.HTTPServer(app)
        server.add_sockets(listeners)
        client = httpclient.AsyncHTTPClient(force_instance=True)
        try:
            await asyncio.gather(
                *(post(client, port, number) for number in range(1, 5)), talk(port), talk(port)
            )
        finally:
            client.close()
            server.stop()
            await server.close_all_connections()

    shuffled(main)


def test_websockets(shuffled: Callable[[Scenario], None]) -> None:
    async def mirror(peer: Any) -> None:
        async for message in peer:
            await peer.send(message[::-1])

    async def talk(port: int, number: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}/") as peer:
            for turn in range(5):
                text = f"{number} says {turn} " * (50 * number)
                await peer.send(text)
                assert await peer.recv() == text[::-1]

    async def main() -> None:
        async with serve(mirror, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.gather(*(talk(port, number) for number in range(1, 6)))

    shuffled(main)


def test_anyio(shuffled: Callable[[Scenario], None]) -> None:
    async def produce(number: int, sender: Any, limiter: Any) -> None:
        async with sender:
            for turn in range(10):
                async with limiter:
                    await sender.send((number, turn))

    async def consume(receiver: Any, got: list[Any]) -> None:
        async with receiver:
            async for item in receiver:
                got.append(item)

    async def echo(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def talk(port: int, number: int) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            body = body_of(number, 0)
            await stream.send(body)
            got = b""
            while len(got) < len(body):
                got += await stream.receive()
            assert got == body

    async def main() -> None:
        sender, receiver = anyio.create_memory_object_stream(3)
        limiter = anyio.CapacityLimiter(2)
        got: list[Any] = []
        async with anyio.create_task_group() as group:
            async with sender:
                for number in range(4):
                    group.start_soon(produce, number, sender.clone(), limiter)
            async with receiver:
                for _ in range(3):
                    group.start_soon(consume, receiver.clone(), got)
        assert sorted(got) == [(number, turn) for number in range(4) for turn in range(10)]

        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as serving:
                serving.start_soon(listener.serve, echo)
                async with anyio.create_task_group() as talking:
                    for number in range(1, 5):
                        talking.start_soon(talk, port, number)
                serving.cancel_scope.cancel()

    shuffled(main)


def test_redis(shuffled: Callable[[Scenario], None], redis_server: Address) -> None:
    async def work(client: Any, number: int) -> None:
        for turn in range(4):
            await client.set(f"shuffled-key-{number}", f"value {number} {turn}")
            assert await client.get(f"shuffled-key-{number}") == f"value {number} {turn}".encode()
            pipeline = client.pipeline()
            for _ in range(5):
                pipeline.incr(f"shuffled-count-{number}")
            assert await pipeline.execute() == [turn * 5 + step for step in range(1, 6)]
        await client.delete(f"shuffled-key-{number}", f"shuffled-count-{number}")

    async def subscribe(client: Any) -> None:
        listener = client.pubsub()
        await listener.subscribe("shuffled")
        await client.publish("shuffled", "x")
        async for message in listener.listen():
            if message["type"] == "message":
                break
        await listener.aclose()

    async def main() -> None:
        client = redis.Redis(host=redis_server.host, port=redis_server.port)
        try:
            await asyncio.gather(*(work(client, number) for number in range(5)), subscribe(client))
        finally:
            await client.aclose()

    shuffled(main)


def test_asyncpg(shuffled: Callable[[Scenario], None], postgresql: Address) -> None:
    async def work(pool: Any, number: int) -> None:
        for _ in range(4):
            async with pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(
                    "select generate_series(1, $1::int) as x", 10 + number
                )
                assert [row["x"] for row in rows] == list(range(1, 11 + number))

    async def main() -> None:
        address = {"host": postgresql.host, "port": postgresql.port}
        async with asyncpg.create_pool(
            **address, user="postgres", database="postgres", min_size=1, max_size=3
        ) as pool:
            await asyncio.gather(*(work(pool, number) for number in range(6)))

    shuffled(main)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "shuffled_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(100))


def test_sqlalchemy(shuffled: Callable[[Scenario], None], postgresql: Address) -> None:
    """Each task's greenlet waits for the database on one stack of the loop and goes on on another."""
    url = f"postgresql+asyncpg://postgres@{postgresql.host}:{postgresql.port}/postgres"

    def compute(number: int) -> int:
        return sum(index * number for index in range(500))

    async def work(session: Any, number: int) -> None:
        for turn in range(3):
            text = f"{number} {turn} {compute(number)}"
            async with session() as mine, mine.begin():
                note = Note(text=text)
                mine.add(note)
                await mine.flush()
                key = note.id
            async with session() as mine:
                found = await mine.scalar(select(Note).where(Note.id == key))
                assert found is not None and found.text == text

    async def main() -> None:
        engine = create_async_engine(url, pool_size=3)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
            session = async_sessionmaker(engine)
            await asyncio.gather(*(work(session, number) for number in range(5)))
        finally:
            await engine.dispose()

    shuffled(main)


def test_psycopg(shuffled: Callable[[Scenario], None], postgresql: Address) -> None:
    async def work(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(
            host=postgresql.host, port=postgresql.port, user="postgres", dbname="postgres"
        ) as connection:
            for _ in range(4):
                cursor = await connection.execute(
                    "select generate_series(1, %s::int)", (10 + number,)
                )
                rows = [row[0] for row in await cursor.fetchall()]
                assert rows == list(range(1, 11 + number))

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(4)))

    shuffled(main)


def test_aiosqlite(shuffled: Callable[[Scenario], None]) -> None:
    async def work() -> None:
        async with aiosqlite.connect(":memory:") as database:
            await database.execute("create table t (x)")
            for number in range(5):
                await database.execute("insert into t values (?)", (number,))
            async with database.execute("select x from t order by x") as cursor:
                assert [row[0] async for row in cursor] == list(range(5))

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(4)))

    shuffled(main)
