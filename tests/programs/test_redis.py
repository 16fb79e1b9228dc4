"""redis-py against Redis: streams with a protocol of their own over them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import asyncio as redis
from redis.exceptions import ResponseError, TimeoutError, WatchError

from tests.support.loops import Factory, cancelled, run
from tests.support.services import Address

from .computing import ON, REFUSED, Hog


@asynccontextmanager
async def client_of(address: Address, **options: Any) -> AsyncIterator[Any]:
    client = redis.Redis(host=address.host, port=address.port, decode_responses=True, **options)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
def key() -> str:
    """A key that no other test has."""
    return f"test-{uuid.uuid4()}"


def test_values_are_set_and_read(factory: Factory, redis_server: Address, key: str) -> None:
    async def main() -> str | None:
        big = "x" * 3_000_000
        async with client_of(redis_server) as client:
            await client.set(key, big)
            assert await client.get(key) == big
            with pytest.raises(ResponseError):
                await client.incr(key)
            await client.delete(key)
            return await client.get(key)

    assert run(factory, main) is None


def test_a_unix_socket_serves_as_well(factory: Factory, redis_server: Address) -> None:
    async def main() -> bool:
        client = redis.Redis(unix_socket_path=redis_server.unix)
        try:
            return await client.ping()
        finally:
            await client.aclose()

    assert run(factory, main) is True


def test_a_pipeline_sends_a_thousand_commands_at_once(
    factory: Factory, redis_server: Address, key: str
) -> None:
    async def main() -> list[int]:
        async with client_of(redis_server) as client, client.pipeline(transaction=False) as pipe:
            for _ in range(1000):
                pipe.incr(key)
            return await pipe.execute()

    assert run(factory, main) == list(range(1, 1001))


def test_a_transaction_fails_when_a_watched_key_changes(
    factory: Factory, redis_server: Address, key: str
) -> None:
    async def main() -> None:
        async with client_of(redis_server) as client, client.pipeline() as pipe:
            await pipe.watch(key)
            await client.set(key, "changed by another")
            pipe.multi()
            pipe.set(key, "mine")
            with pytest.raises(WatchError):
                await pipe.execute()
            assert await client.get(key) == "changed by another"

    run(factory, main)


def test_messages_reach_their_subscribers_in_order(
    factory: Factory, redis_server: Address, key: str
) -> None:
    async def main() -> list[list[str]]:
        async with client_of(redis_server) as client:

            async def hear(ready: asyncio.Event) -> list[str]:
                heard: list[str] = []
                async with client.pubsub() as subscription:
                    await subscription.subscribe(key)
                    async for message in subscription.listen():
                        if message["type"] == "subscribe":
                            ready.set()
                        elif message["data"] == "end":
                            return heard
                        else:
                            heard.append(message["data"])
                return heard

            events = [asyncio.Event() for _ in range(3)]
            listeners = [asyncio.create_task(hear(event)) for event in events]
            for event in events:
                await event.wait()
            for n in range(100):
                assert await client.publish(key, str(n)) == len(listeners)
            await client.publish(key, "end")
            return await asyncio.gather(*listeners)

    assert run(factory, main) == [[str(n) for n in range(100)]] * 3


def test_a_blocking_pop_waits_for_a_push_and_can_be_cancelled(
    factory: Factory, redis_server: Address, key: str
) -> None:
    async def blocked(client: Any) -> None:
        while (await client.info("clients"))["blocked_clients"] == 0:
            pass

    async def main() -> str:
        async with client_of(redis_server) as client:
            popping = asyncio.create_task(client.blpop(key))
            await blocked(client)
            await client.rpush(key, "pushed")
            popped = await popping
            popping = asyncio.create_task(client.blpop(key))
            await blocked(client)
            await cancelled(popping)
            assert await client.ping()
            return popped[1]

    assert run(factory, main) == "pushed"


def test_a_command_that_takes_too_long_times_out(
    factory: Factory, redis_server: Address, key: str
) -> None:
    async def main() -> None:
        # Without retries: those of redis-py repeat the command.
        async with client_of(redis_server, socket_timeout=0.05, retry=None) as client:
            with pytest.raises(TimeoutError):
                await client.blpop(key, timeout=30)
            assert await client.ping()

    run(factory, main)


def test_a_lock_excludes_other_tasks(factory: Factory, redis_server: Address, key: str) -> None:
    async def main() -> int:
        async with client_of(redis_server) as client:
            inside = 0
            most = 0

            async def work() -> None:
                nonlocal inside, most
                async with client.lock(key, sleep=0.001):
                    inside += 1
                    most = max(most, inside)
                    await client.ping()
                    inside -= 1

            await asyncio.gather(*(work() for _ in range(10)))
            return most

    assert run(factory, main) == 1


@pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
def test_commands_are_answered_while_a_task_computes(
    clearway_factory: Factory, redis_server: Address, key: str
) -> None:
    async def main() -> bool:
        hog = Hog()

        async def compute() -> bool:
            return hog.compute()

        async with client_of(redis_server) as client:
            computing = asyncio.create_task(compute())
            while not hog.started:
                await asyncio.sleep(0)
            for n in range(1, 21):
                assert await client.incr(key) == n
            hog.release()
            return await computing

    assert run(clearway_factory, main, **ON)
