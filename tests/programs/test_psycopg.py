"""psycopg against PostgreSQL: libpq owns the socket, the loop only watches it (add_reader, add_writer)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from tests.support.loops import Factory, cancelled, run
from tests.support.services import Address


@asynccontextmanager
async def connected(address: Address, **options: Any) -> AsyncIterator[psycopg.AsyncConnection]:
    options = {"host": address.host, "user": "postgres", "autocommit": True, **options}
    async with await psycopg.AsyncConnection.connect(port=address.port, **options) as connection:
        yield connection


async def fetch(connection: psycopg.AsyncConnection, query: str, *parameters: Any) -> Any:
    """The first column of the first row."""
    row = await (await connection.execute(query, parameters)).fetchone()
    return row and row[0]


@pytest.mark.parametrize("socket", ["tcp", "unix"])
def test_a_transaction_is_rolled_back_by_an_exception(
    factory: Factory, postgresql: Address, socket: str
) -> None:
    host = postgresql.host if socket == "tcp" else postgresql.unix

    async def main() -> list[int]:
        async with connected(postgresql, host=host) as connection:
            await connection.execute("create temporary table entry (n int)")
            async with connection.transaction():
                await connection.execute("insert into entry values (1), (2)")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("insert into entry values (3)")
                    raise ZeroDivisionError
            with pytest.raises(psycopg.errors.UndefinedTable):
                await connection.execute("select * from nowhere")
            cursor = await connection.execute("select n from entry order by n")
            return [row[0] for row in await cursor.fetchall()]

    assert run(factory, main) == [1, 2]


def test_a_pipeline_sends_queries_without_waiting_for_answers(
    factory: Factory, postgresql: Address
) -> None:
    async def main() -> list[Any]:
        async with connected(postgresql) as connection, connection.pipeline() as pipeline:
            cursors = [
                await connection.cursor().execute("select %s::int * 2", [n]) for n in range(100)
            ]
            await pipeline.sync()
            return [(await cursor.fetchone() or [None])[0] for cursor in cursors]

    assert run(factory, main) == [2 * n for n in range(100)]


def test_a_cancelled_task_cancels_its_query_on_the_server(
    factory: Factory, postgresql: Address
) -> None:
    asks = "select count(*) from pg_stat_activity where application_name = %s and wait_event = %s"

    async def main() -> None:
        name = f"cancel-{uuid.uuid4()}"
        async with (
            connected(postgresql) as watcher,
            connected(postgresql, application_name=name) as connection,
        ):
            query = asyncio.create_task(connection.execute("select pg_sleep(3600)"))
            while not await fetch(watcher, asks, name, "PgSleep"):
                pass
            await cancelled(query)
            assert await fetch(watcher, asks, name, "PgSleep") == 0
            assert await fetch(connection, "select 1") == 1

    run(factory, main)


def test_a_notification_reaches_its_listener(factory: Factory, postgresql: Address) -> None:
    channel = f"channel_{uuid.uuid4().hex}"

    async def main() -> list[str]:
        async with connected(postgresql) as listener, connected(postgresql) as notifier:
            await listener.execute(f"listen {channel}")

            async def notify() -> None:
                for word in ("one", "two", "three"):
                    await notifier.execute(f"notify {channel}, '{word}'")

            sending = asyncio.create_task(notify())
            heard = []
            async for notification in listener.notifies(stop_after=3):
                heard.append(notification.payload)
            await sending
            return heard

    assert run(factory, main) == ["one", "two", "three"]


def test_a_megabyte_is_copied_in_and_out(factory: Factory, postgresql: Address) -> None:
    line = b"x" * 1000 + b"\n"

    async def main() -> bytes:
        async with connected(postgresql) as connection:
            await connection.execute("create temporary table bulk (text text)")
            cursor = connection.cursor()
            async with cursor.copy("copy bulk from stdin") as copy:
                for _ in range(1000):
                    await copy.write(line)
            out = bytearray()
            async with cursor.copy("copy bulk to stdout") as copy:
                async for block in copy:
                    out += block
            return bytes(out)

    assert run(factory, main) == 1000 * line


def test_connections_wait_for_each_other_without_blocking_the_loop(
    factory: Factory, postgresql: Address
) -> None:
    """One connection waits for a lock that another holds: a loop that blocked would never let go of it."""

    async def main() -> str:
        async with connected(postgresql) as holder, connected(postgresql) as waiter:
            key = uuid.uuid4().int % 2**31
            await holder.execute("select pg_advisory_lock(%s)", [key])
            waiting = asyncio.create_task(
                fetch(waiter, "select 'mine' from pg_advisory_lock(%s)", key)
            )
            waits = "select wait_event_type from pg_stat_activity where pid = %s"
            while await fetch(holder, waits, waiter.info.backend_pid) != "Lock":
                pass
            await holder.execute("select pg_advisory_unlock(%s)", [key])
            return await waiting

    assert run(factory, main) == "mine"
