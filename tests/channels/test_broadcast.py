"""Broadcast: all subscribers see the same objects in the same order, and the slowest bounds memory."""

from __future__ import annotations

import asyncio
import random

import pytest

from clearway.channels import Broadcast, ChannelClosed, ChannelFull

from ..support.loops import cancelled, run
from ..support.net import settle
from .test_channel import start


def test_all_receive_the_same_objects(factory):
    async def main():
        broadcast = Broadcast(2)
        subscriptions = [broadcast.subscribe() for _ in range(3)]

        async def collect(subscription):
            return [message async for message in subscription]

        tasks = [asyncio.ensure_future(collect(s)) for s in subscriptions]
        messages = [bytearray(8) for _ in range(20)]
        for message in messages:
            await broadcast.send(message)
        broadcast.close()
        for received in await asyncio.gather(*tasks):
            assert all(a is b for a, b in zip(received, messages, strict=True))

    run(factory, main)


def test_the_slowest_holds_the_sender_back(factory):
    async def main():
        broadcast = Broadcast(1)
        quick, slow = broadcast.subscribe(), broadcast.subscribe()
        await broadcast.send(1)
        assert quick.receive_nowait() == 1
        with pytest.raises(ChannelFull):
            broadcast.send_nowait(2)
        sender, second = start(broadcast.send(2)), start(broadcast.send(3))
        await settle()
        assert not sender.done()
        assert slow.receive_nowait() == 1
        await sender
        assert (quick.receive_nowait(), slow.receive_nowait()) == (2, 2)
        await second
        assert (quick.receive_nowait(), slow.receive_nowait()) == (3, 3)

    run(factory, main)


def test_a_subscription_that_closes_holds_nobody_back(factory):
    async def main():
        broadcast = Broadcast(1)
        leaving, staying = broadcast.subscribe(), broadcast.subscribe()
        await broadcast.send(1)
        staying.receive_nowait()
        sender = start(broadcast.send(2))
        await settle()
        leaving.close()
        await sender
        assert staying.receive_nowait() == 2
        assert broadcast.subscribers == 1
        assert leaving.receive_nowait() == 1

    run(factory, main)


def test_without_subscribers_messages_are_dropped_and_late_ones_miss_them():
    broadcast = Broadcast(1)
    for message in range(5):
        broadcast.send_nowait(message)
    assert len(broadcast.subscribe()) == 0


def test_closing(factory):
    async def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        await broadcast.send("last")
        sender = start(broadcast.send("never"))
        await settle()
        broadcast.close()
        with pytest.raises(ChannelClosed):
            await sender
        with pytest.raises(ChannelClosed):
            broadcast.subscribe()
        with pytest.raises(ChannelClosed):
            broadcast.send_nowait(1)
        assert await subscription.receive() == "last"
        with pytest.raises(ChannelClosed):
            await subscription.receive()

    run(factory, main)


def test_a_cancelled_send_reaches_nobody(factory):
    async def main():
        broadcast = Broadcast(1)
        subscription = broadcast.subscribe()
        await broadcast.send(0)
        waiting, other = start(broadcast.send(1)), start(broadcast.send(2))
        await settle()
        assert subscription.receive_nowait() == 0
        await cancelled(waiting)
        await other
        assert subscription.receive_nowait() == 2

    run(factory, main)


def test_a_subscription_only_receives():
    subscription = Broadcast(1).subscribe()
    with pytest.raises(TypeError):
        subscription.send_nowait(1)
    with pytest.raises(TypeError):
        subscription.send(1)


@pytest.mark.parametrize("seed", range(5))
def test_one_order_for_all_under_cancellation(factory, seed):
    async def main():
        generator = random.Random(seed)
        broadcast = Broadcast(2)
        subscriptions = [broadcast.subscribe() for _ in range(3)]
        received = [[] for _ in subscriptions]
        sent = []

        async def send(message):
            await broadcast.send(message)
            sent.append(message)

        async def receive(index):
            received[index].append(await subscriptions[index].receive())

        tasks = []
        for number in range(400):
            if generator.random() < 0.4:
                tasks.append(asyncio.ensure_future(send(number)))
            else:
                tasks.append(asyncio.ensure_future(receive(generator.randrange(3))))
            if generator.random() < 0.3:
                generator.choice(tasks).cancel()
            if generator.random() < 0.4:
                await asyncio.sleep(0)
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for index, subscription in enumerate(subscriptions):
            received[index] += subscription.receive_many_nowait(1000)
            assert received[index] == sent

    run(factory, main)
