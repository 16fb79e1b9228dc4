"""dask.distributed: scheduler, workers and client on our loop, over its own TCP protocol."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, Scheduler, Worker

from tests.support.loops import Factory, finish, until

#: Seconds for one test: distributed starts and ends many things, each in its own time.
pytestmark = pytest.mark.limit(60)


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path) -> Any:
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[Client, list[Worker]]]:
    """A scheduler, two workers of one thread each, and a client."""
    options = {"host": "127.0.0.1", "dashboard": False}
    async with (
        Scheduler(port=0, **options) as scheduler,
        Worker(scheduler.address, nthreads=1, name="one", **options) as one,
        Worker(scheduler.address, nthreads=1, name="two", **options) as two,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        yield client, [one, two]


def run(factory: Factory, main: Any) -> Any:
    """Without the proof that nothing is left over: distributed keeps threads and descriptors for the next cluster."""
    loop = factory()
    try:
        return loop.run_until_complete(main())
    finally:
        finish(loop)


def test_a_graph_is_computed_and_its_results_travel_between_workers(factory: Factory) -> None:
    async def main() -> int:
        async with cluster() as (client, _):
            squares = [
                client.submit(pow, n, 2, workers=["one" if n % 2 else "two"], pure=False)
                for n in range(40)
            ]
            return await client.submit(sum, squares)

    assert run(factory, main) == sum(n * n for n in range(40))


def test_megabytes_are_scattered_and_gathered(factory: Factory) -> None:
    block = bytes(range(256)) * 20_000

    async def main() -> bytes:
        async with cluster() as (client, _):
            scattered = await client.scatter(block, broadcast=True)
            return await client.submit(operator.getitem, scattered, slice(None, None, -1))

    assert run(factory, main) == block[::-1]


def test_an_exception_comes_back_from_the_worker(factory: Factory) -> None:
    async def main() -> None:
        async with cluster() as (client, _):
            with pytest.raises(ZeroDivisionError):
                await client.submit(operator.truediv, 1, 0)

    run(factory, main)


def test_work_of_a_worker_that_leaves_is_done_by_another(factory: Factory) -> None:
    async def main() -> int:
        async with cluster() as (client, workers):
            results = client.map(operator.neg, range(20))
            await asyncio.wait([asyncio.ensure_future(result.result()) for result in results])
            await workers[0].close()
            return sum(await client.gather(results))

    assert run(factory, main) == -sum(range(20))


def test_a_queue_and_an_event_between_tasks_of_the_cluster(factory: Factory) -> None:
    from distributed import Event, Queue

    def produce(count: int) -> int:
        Event("go").wait()
        queue = Queue("numbers")
        for n in range(count):
            queue.put(n)
        return count

    async def main() -> list[int]:
        async with cluster() as (client, workers):
            queue = await Queue("numbers", client=client)
            produced = client.submit(produce, 5)
            await until(lambda: any(worker.state.executing_count for worker in workers))
            await Event("go", client=client).set()
            assert await produced == 5
            return [await queue.get() for _ in range(5)]

    assert run(factory, main) == [0, 1, 2, 3, 4]
