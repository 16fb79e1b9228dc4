"""aiosqlite: a thread per connection that answers through call_soon_threadsafe."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import aiosqlite
import pytest

from tests.support.loops import Factory, run


def test_a_transaction_is_rolled_back(factory: Factory, tmp_path: Path) -> None:
    async def main() -> list[int]:
        async with aiosqlite.connect(tmp_path / "database") as database:
            await database.execute("create table entry (n integer unique)")
            await database.executemany("insert into entry values (?)", [(1,), (2,)])
            await database.commit()
            with pytest.raises(sqlite3.IntegrityError):
                await database.execute("insert into entry values (1)")
            await database.execute("insert into entry values (3)")
            await database.rollback()
            async with database.execute("select n from entry order by n") as cursor:
                return [row[0] async for row in cursor]

    assert run(factory, main) == [1, 2]


def test_many_tasks_share_a_connection(factory: Factory, tmp_path: Path) -> None:
    async def main() -> int:
        async with aiosqlite.connect(tmp_path / "database") as database:
            await database.execute("create table entry (n integer)")

            async def insert(n: int) -> None:
                await database.execute("insert into entry values (?)", (n,))

            await asyncio.gather(*(insert(n) for n in range(200)))
            async with database.execute("select sum(n) from entry") as cursor:
                row = await cursor.fetchone()
                assert row is not None
                return row[0]

    assert run(factory, main) == sum(range(200))


def test_a_long_query_is_interrupted_from_the_loop(factory: Factory) -> None:
    forever = (
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    )

    async def main() -> None:
        async with aiosqlite.connect(":memory:") as database:
            running = asyncio.Event()
            loop = asyncio.get_running_loop()
            # Called by SQLite in its thread, every so many instructions.
            await database.set_progress_handler(
                lambda: loop.call_soon_threadsafe(running.set) and None, 100_000
            )
            query = asyncio.create_task(database.execute_fetchall(forever))
            await running.wait()
            await database.interrupt()
            with pytest.raises(sqlite3.OperationalError, match="interrupted"):
                await query

    run(factory, main)
