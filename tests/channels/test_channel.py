"""Channel: order, bounds, closing and cancellation, on every loop."""

from __future__ import annotations

import asyncio
import random

import pytest

from clearway.channels import Channel, ChannelClosed, ChannelEmpty, ChannelFull

from ..support.loops import cancelled, run
from ..support.net import settle


def start(awaitable):
    async def wait():
        return await awaitable

    return asyncio.ensure_future(wait())


def test_messages_arrive_in_order_and_are_the_same_objects(factory):
    async def main():
        channel = Channel(3)
        sent = [object() for _ in range(100)]

        async def send_all():
            for message in sent:
                await channel.send(message)
            channel.close()

        task = asyncio.ensure_future(send_all())
        received = [message async for message in channel]
        await task
        assert all(a is b for a, b in zip(received, sent, strict=True))

    run(factory, main)


def test_at_once():
    channel = Channel(2)
    channel.send_nowait(1)
    channel.send_nowait(2)
    with pytest.raises(ChannelFull):
        channel.send_nowait(3)
    assert len(channel) == 2
    assert [channel.receive_nowait(), channel.receive_nowait()] == [1, 2]
    with pytest.raises(ChannelEmpty):
        channel.receive_nowait()


def test_batches_take_what_fits_and_give_what_is_there():
    channel = Channel(5)
    assert channel.send_many_nowait([1, 2, 3]) == 3
    assert channel.send_many_nowait((4, 5, 6)) == 2
    assert channel.receive_many_nowait(2) == [1, 2]
    assert channel.receive_many_nowait(100) == [3, 4, 5]
    assert channel.receive_many_nowait(100) == []


def test_the_ring_grows_and_wraps():
    channel = Channel(1000)
    expected = []
    generator = random.Random(5)
    number = 0
    for _ in range(5000):
        if generator.random() < 0.55 and len(expected) < 1000:
            channel.send_nowait(number)
            expected.append(number)
            number += 1
        elif expected:
            assert channel.receive_nowait() == expected.pop(0)
    assert channel.receive_many_nowait(1000) == expected


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_without_a_slot(capacity):
    with pytest.raises(ValueError, match="capacity"):
        Channel(capacity)


@pytest.mark.parametrize("capacity", ["4", 1.5, None, True])
def test_a_capacity_that_is_no_integer(capacity):
    with pytest.raises(TypeError, match="capacity"):
        Channel(capacity)


def test_waiters_are_served_in_order_and_newcomers_behind_them(factory):
    async def main():
        channel = Channel(1)
        first, second = start(channel.receive()), start(channel.receive())
        await settle()
        channel.send_nowait("a")
        # Promised to `first`, which has not run yet.
        with pytest.raises(ChannelEmpty):
            channel.receive_nowait()
        assert await first == "a"
        channel.send_nowait("b")
        assert await second == "b"

        channel.send_nowait("full")
        senders = [start(channel.send(i)) for i in range(3)]
        await settle()
        assert channel.receive_nowait() == "full"
        with pytest.raises(ChannelFull):
            channel.send_nowait("newcomer")
        assert [await channel.receive() for _ in range(3)] == [0, 1, 2]
        await asyncio.gather(*senders)

    run(factory, main)


def test_a_cancelled_receive_takes_nothing(factory):
    async def main():
        channel = Channel(4)
        # Before and after the wake-up: in the second case the message is promised to the one cancelled.
        waiting = start(channel.receive())
        await settle()
        await cancelled(waiting)
        woken, other = start(channel.receive()), start(channel.receive())
        await settle()
        channel.send_nowait("kept")
        await cancelled(woken)
        assert await other == "kept"
        woken = start(channel.receive())
        await settle()
        channel.send_nowait("kept too")
        await cancelled(woken)
        assert channel.receive_nowait() == "kept too"

    run(factory, main)


def test_a_cancelled_send_has_not_sent(factory):
    async def main():
        channel = Channel(1)
        channel.send_nowait(0)
        waiting, woken, other = (start(channel.send(i)) for i in (1, 2, 3))
        await settle()
        await cancelled(waiting)
        assert channel.receive_nowait() == 0
        await cancelled(woken)
        assert await channel.receive() == 3
        await other
        assert len(channel) == 0

    run(factory, main)


def test_closing_ends_senders_at_once_and_receivers_when_empty(factory):
    async def main():
        channel = Channel(1)
        channel.send_nowait("last")
        sender = start(channel.send("never"))
        await settle()
        channel.close()
        channel.close()
        with pytest.raises(ChannelClosed):
            await sender
        with pytest.raises(ChannelClosed):
            await channel.send("never")
        with pytest.raises(ChannelClosed):
            channel.send_nowait("never")
        assert channel.closed
        assert await channel.receive() == "last"
        for receive in (channel.receive, lambda: channel.receive_many(3)):
            with pytest.raises(ChannelClosed):
                await receive()
        with pytest.raises(ChannelClosed):
            channel.receive_nowait()
        assert [message async for message in channel] == []

    run(factory, main)


def test_closing_wakes_receivers(factory):
    async def main():
        channel = Channel(1)
        tasks = [start(channel.receive()) for _ in range(3)]
        await settle()
        with channel:
            pass
        for task in tasks:
            with pytest.raises(ChannelClosed):
                await task

    run(factory, main)


def test_a_message_of_a_closed_channel_waits_for_whoever_is_left(factory):
    """The one it was promised to is cancelled after the close: the next in line gets it."""

    async def main():
        channel = Channel(1)
        woken, next_in_line, last = (start(channel.receive()) for _ in range(3))
        await settle()
        channel.send_nowait("kept")
        channel.close()
        await cancelled(woken)
        assert await next_in_line == "kept"
        with pytest.raises(ChannelClosed):
            await last

    run(factory, main)


def test_a_sender_that_was_woken_when_the_channel_closed_has_not_sent(factory):
    async def main():
        channel = Channel(1)
        channel.send_nowait(0)
        sender = start(channel.send(1))
        await settle()
        assert channel.receive_nowait() == 0
        channel.close()
        with pytest.raises(ChannelClosed):
            await sender
        with pytest.raises(ChannelClosed):
            channel.receive_nowait()

    run(factory, main)


def test_batches_by_await(factory):
    async def main():
        channel = Channel(7)
        task = start(channel.send_many(range(50)))
        received = []
        while len(received) < 50:
            batch = await channel.receive_many(10)
            assert 1 <= len(batch) <= 7
            received += batch
        await task
        assert received == list(range(50))
        with pytest.raises(ValueError):
            channel.receive_many(0)

    run(factory, main)


def test_an_operation_is_a_coroutine_to_asyncio(factory):
    async def main():
        channel = Channel(1)
        task = asyncio.get_running_loop().create_task(channel.receive())
        await settle()
        await channel.send("by task")
        assert await task == "by task"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.receive(), 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await channel.receive()
        assert await asyncio.gather(channel.send(1), channel.receive()) == [None, 1]

    run(factory, main)


def test_an_operation_is_awaited_once(factory):
    async def main():
        channel = Channel(2)
        operation = channel.send("one")
        await operation
        with pytest.raises(RuntimeError, match="once"):
            await operation
        assert len(channel) == 1
        channel.send("never awaited")
        assert len(channel) == 1

    run(factory, main)


def test_messages_that_are_exceptions_tuples_and_none(factory):
    async def main():
        channel = Channel(1)
        for message in (None, (1, 2), (), ValueError("a message"), StopIteration(3)):
            await channel.send(message)
            assert await channel.receive() is message

    run(factory, main)


def test_many_who_give_up_leave_nothing_in_the_line(factory):
    async def main():
        channel = Channel(1)
        last = start(channel.receive())
        await settle()
        for _ in range(20):
            tasks = [start(channel.receive()) for _ in range(50)]
            await settle()
            for task in tasks:
                await cancelled(task)
        assert channel.statistics().waiting_receivers == 1
        channel.send_nowait("found")
        assert await last == "found"

    run(factory, main)


def test_statistics(factory):
    async def main():
        channel = Channel(2)
        senders = [start(channel.send(i)) for i in range(5)]
        await settle()
        figures = channel.statistics()
        assert (figures.capacity, figures.buffered, figures.sent) == (2, 2, 2)
        assert (figures.received, figures.waiting_senders) == (0, 3)
        assert [await channel.receive() for _ in range(5)] == list(range(5))
        await asyncio.gather(*senders)
        figures = channel.statistics()
        assert (figures.sent, figures.received, figures.waiting_senders) == (5, 5, 0)
        assert "0/2" in repr(channel)

    run(factory, main)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_or_doubled_under_cancellation(factory, seed):
    """Senders and receivers that are cancelled at random moments, with what each of them did on record."""

    async def main():
        generator = random.Random(seed)
        channel = Channel(generator.choice([1, 2, 5]))
        sent, received = [], []
        number = iter(range(10**9))

        async def send():
            message = next(number)
            await channel.send(message)
            sent.append(message)

        async def receive():
            if generator.random() < 0.3:
                received.extend(await channel.receive_many(3))
            else:
                received.append(await channel.receive())

        tasks = []
        for _ in range(600):
            tasks.append(asyncio.ensure_future(generator.choice([send, receive])()))
            if generator.random() < 0.4:
                generator.choice(tasks).cancel()
            if generator.random() < 0.4:
                await asyncio.sleep(0)
            if generator.random() < 0.1:
                try:
                    received.append(channel.receive_nowait())
                except ChannelEmpty:
                    pass
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        received += channel.receive_many_nowait(1000)
        assert sorted(received) == sorted(sent)
        assert len(channel) == 0
        # No claim was left behind: the whole capacity can be used.
        assert channel.send_many_nowait([0] * 10) == channel.capacity
        assert len(channel.receive_many_nowait(10)) == channel.capacity

    run(factory, main)
