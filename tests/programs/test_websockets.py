"""websockets, server and client: its asyncio implementation pauses and resumes our transports itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from tests.support.certs import client_context, server_context
from tests.support.loops import Factory, run, until

from .computing import ON, REFUSED, Hog


def port_of(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_messages_of_all_sizes(factory: Factory, tls: bool) -> None:
    async def main() -> None:
        async with serve(
            echo, "localhost", 0, max_size=None, ssl=server_context() if tls else None
        ) as server:
            scheme, context = ("wss", client_context()) if tls else ("ws", None)
            url = f"{scheme}://localhost:{port_of(server)}"
            async with connect(url, max_size=None, ssl=context) as client:
                for size in (0, 125, 126, 65_535, 65_536, 4_000_000):
                    await client.send(b"x" * size)
                    assert await client.recv() == b"x" * size
                # In fragments, and read as they come.
                await client.send(["one", "two", "three"])
                assert "".join([part async for part in client.recv_streaming()]) == "onetwothree"
                await (await client.ping())

    run(factory, main)


def test_both_sides_learn_who_closed_and_why(factory: Factory) -> None:
    seen: list[Any] = []

    async def handler(connection: ServerConnection) -> None:
        if connection.request is not None and connection.request.path == "/server":
            await connection.close(4002, "full")
            return
        if connection.request is not None and connection.request.path == "/error":
            raise ZeroDivisionError
        try:
            await connection.recv()
        except (ConnectionClosedOK, ConnectionClosedError) as error:
            seen.append((type(error), error.rcvd and error.rcvd.code))

    async def closed_with(url: str) -> int | None:
        async with connect(url) as client:
            with pytest.raises((ConnectionClosedOK, ConnectionClosedError)):
                await client.recv()
            return client.close_code

    async def main() -> None:
        async with serve(handler, "localhost", 0) as server:
            url = f"ws://localhost:{port_of(server)}"
            async with connect(url) as client:
                await client.close()
            async with connect(url) as client:
                await client.close(4000, "mine")
            async with connect(url) as client:
                client.transport.abort()
            await until(lambda: len(seen) == 3)
            assert await closed_with(f"{url}/server") == 4002
            assert await closed_with(f"{url}/error") == 1011

    run(factory, main)
    assert seen == [
        (ConnectionClosedOK, 1000),
        (ConnectionClosedError, 4000),
        (ConnectionClosedError, None),
    ]


def test_a_reader_that_stops_holds_up_the_writer(factory: Factory) -> None:
    """Back-pressure from the application on one side to the application on the other."""
    count, message = 200, b"x" * 100_000

    async def main() -> None:
        sent = 0
        blocked = asyncio.Event()

        async def flood(connection: ServerConnection) -> None:
            nonlocal sent
            for _ in range(count):
                sending = asyncio.ensure_future(connection.send(message))
                await asyncio.sleep(0)
                if not sending.done():
                    blocked.set()
                await sending
                sent += 1

        async with serve(flood, "localhost", 0, compression=None) as server:
            url = f"ws://localhost:{port_of(server)}"
            async with connect(url, compression=None, max_queue=2) as client:
                await blocked.wait()
                assert sent < count
                received = [await client.recv() for _ in range(count)]
                assert received == [message] * count

    run(factory, main)


def test_one_message_is_broadcast_to_many(factory: Factory) -> None:
    async def main() -> None:
        connections: set[ServerConnection] = set()

        async def handler(connection: ServerConnection) -> None:
            connections.add(connection)
            await connection.wait_closed()

        async with serve(handler, "localhost", 0) as server:
            url = f"ws://localhost:{port_of(server)}"
            clients = [await connect(url) for _ in range(20)]
            await until(lambda: len(connections) == 20)
            broadcast(connections, "all of you")
            assert [await client.recv() for client in clients] == ["all of you"] * 20
            await asyncio.gather(*(client.close() for client in clients))

    run(factory, main)


def test_a_handshake_is_refused_with_a_status(factory: Factory) -> None:
    async def main() -> int:
        def refuse(connection: ServerConnection, request: Any) -> Any:
            return connection.respond(403, "not you\n")

        async with serve(echo, "localhost", 0, process_request=refuse) as server:
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://localhost:{port_of(server)}")
            return refused.value.response.status_code

    assert run(factory, main) == 403


def test_a_server_that_ends_says_goodbye(factory: Factory) -> None:
    async def main() -> int | None:
        async with serve(echo, "localhost", 0) as server:
            client = await connect(f"ws://localhost:{port_of(server)}")
        with pytest.raises(ConnectionClosedOK):
            await client.recv()
        return client.close_code

    assert run(factory, main) == 1001


@pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
def test_messages_are_echoed_while_a_handler_computes(clearway_factory: Factory) -> None:
    async def main() -> None:
        hog = Hog()

        async def handler(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(str(hog.compute()) if message == "compute" else message)

        async with serve(handler, "localhost", 0) as server:
            url = f"ws://localhost:{port_of(server)}"
            async with connect(url) as slow, connect(url) as fast:
                await slow.send("compute")
                await until(lambda: hog.started)
                for n in range(20):
                    await fast.send(str(n))
                    assert await fast.recv() == str(n)
                hog.release()
                assert await slow.recv() == "True"

    run(clearway_factory, main, **ON)
