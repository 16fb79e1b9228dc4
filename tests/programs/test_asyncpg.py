"""asyncpg against PostgreSQL: its protocol is a compiled class that our transports call directly."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.support.loops import Factory, cancelled, run
from tests.support.services import Address

from .computing import ON, REFUSED, Hog


@asynccontextmanager
async def connected(address: Address, **options: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        **{"host": address.host, "port": address.port, "user": "postgres", **options}
    )
    try:
        yield connection
    finally:
        await connection.close()


def pool_of(address: Address, size: int) -> Any:
    return asyncpg.create_pool(
        host=address.host, port=address.port, user="postgres", min_size=size, max_size=size
    )


async def backends(connection: asyncpg.Connection, name: str) -> int:
    return await connection.fetchval(
        "select count(*) from pg_stat_activity where application_name = $1", name
    )


def test_a_transaction_is_rolled_back_by_an_exception(
    factory: Factory, postgresql: Address
) -> None:
    async def main() -> list[int]:
        async with connected(postgresql) as connection:
            await connection.execute("create temporary table entry (n int)")
            async with connection.transaction():
                await connection.executemany("insert into entry values ($1)", [(1,), (2,)])
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("insert into entry values (3)")
                    raise ZeroDivisionError
            with pytest.raises(asyncpg.UndefinedTableError):
                await connection.execute("select * from nowhere")
            return [row["n"] for row in await connection.fetch("select n from entry order by n")]

    assert run(factory, main) == [1, 2]


def test_a_unix_socket_serves_as_well(factory: Factory, postgresql: Address) -> None:
    async def main() -> str:
        async with connected(postgresql, host=postgresql.unix) as connection:
            return await connection.fetchval("select 'over a unix socket'")

    assert run(factory, main) == "over a unix socket"


def test_many_tasks_share_a_pool(factory: Factory, postgresql: Address) -> None:
    async def main() -> list[int]:
        async with pool_of(postgresql, 4) as pool:

            async def square(n: int) -> int:
                async with pool.acquire() as connection:
                    return await connection.fetchval("select $1::int * $1::int", n)

            return await asyncio.gather(*(square(n) for n in range(100)))

    assert run(factory, main) == [n * n for n in range(100)]


def test_a_cancelled_task_cancels_its_query_on_the_server(
    factory: Factory, postgresql: Address
) -> None:
    async def main() -> None:
        name = f"cancel-{uuid.uuid4()}"
        settings = {"application_name": name}
        async with (
            connected(postgresql) as watcher,
            connected(postgresql, server_settings=settings) as connection,
        ):
            query = asyncio.create_task(connection.execute("select pg_sleep(3600)"))
            asks = "select count(*) from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'"
            while not await watcher.fetchval(asks, name):
                pass
            await cancelled(query)
            # The connection is as good as new.
            assert await connection.fetchval("select 1") == 1
            assert not await watcher.fetchval(asks, name)

    run(factory, main)


def test_a_query_that_times_out_leaves_the_connection_usable(
    factory: Factory, postgresql: Address
) -> None:
    async def main() -> int:
        async with connected(postgresql) as connection:
            with pytest.raises(TimeoutError):
                await connection.execute("select pg_sleep(3600)", timeout=0.05)
            return await connection.fetchval("select 1")

    assert run(factory, main) == 1


def test_a_notification_reaches_its_listener(factory: Factory, postgresql: Address) -> None:
    async def main() -> tuple[str, str]:
        heard = asyncio.get_running_loop().create_future()
        channel = f"channel_{uuid.uuid4().hex}"
        async with connected(postgresql) as listener, connected(postgresql) as notifier:
            await listener.add_listener(
                channel, lambda _connection, _pid, name, payload: heard.set_result((name, payload))
            )
            await notifier.execute(f"notify {channel}, 'hello'")
            name, payload = await heard
            await listener.reset()
            assert name == channel
            return payload

    assert run(factory, main) == "hello"


def test_a_cursor_streams_more_rows_than_fit_into_a_socket(
    factory: Factory, postgresql: Address
) -> None:
    rows = 20_000

    async def main() -> int:
        total = 0
        async with connected(postgresql) as connection, connection.transaction():
            query = "select n, repeat('x', 100) as text from generate_series(1, $1) as n"
            async for row in connection.cursor(query, rows, prefetch=1000):
                assert len(row["text"]) == 100
                total += row["n"]
        return total

    assert run(factory, main) == rows * (rows + 1) // 2


def test_a_megabyte_is_copied_in_and_out(factory: Factory, postgresql: Address) -> None:
    lines = b"".join(b"%d\t%s\n" % (n, b"x" * 100) for n in range(10_000))

    async def main() -> bytes:
        async with connected(postgresql) as connection:
            await connection.execute("create temporary table bulk (n int, text text)")
            await connection.copy_to_table("bulk", source=io.BytesIO(lines))
            out = io.BytesIO()
            await connection.copy_from_query("select * from bulk order by n", output=out)
            return out.getvalue()

    assert run(factory, main) == lines


def test_a_connection_that_the_server_ends_is_an_error_of_its_user(
    factory: Factory, postgresql: Address
) -> None:
    async def main() -> None:
        async with connected(postgresql) as killer:
            victim = await asyncpg.connect(
                host=postgresql.host, port=postgresql.port, user="postgres"
            )
            query = asyncio.create_task(victim.execute("select pg_sleep(3600)"))
            while not await killer.fetchval(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 "
                "and wait_event = 'PgSleep'",
                victim.get_server_pid(),
            ):
                pass
            # Which of the two: whether the error or the end of the stream is looked at first.
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
                await query
            while not victim.is_closed():
                await asyncio.sleep(0)

    run(factory, main)


@pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
def test_queries_are_answered_while_a_task_computes(
    clearway_factory: Factory, postgresql: Address
) -> None:
    async def main() -> bool:
        hog = Hog()

        async def compute() -> bool:
            return hog.compute()

        async with pool_of(postgresql, 2) as pool:
            computing = asyncio.create_task(compute())
            while not hog.started:
                await asyncio.sleep(0)
            for n in range(20):
                assert await pool.fetchval("select $1::int", n) == n
            hog.release()
            return await computing

    assert run(clearway_factory, main, **ON)
