"""select: one message from several channels, fairly, and nothing taken from the others."""

from __future__ import annotations

import asyncio

import pytest

from clearway.channels import Broadcast, Channel, ChannelClosed, select

from ..support.loops import cancelled, run
from ..support.net import settle
from .test_channel import start


def test_takes_what_is_there(factory):
    async def main():
        a, b = Channel(2), Channel(2)
        b.send_nowait("b")
        assert await select(a, b) == (b, "b")
        waiting = start(select(a, b))
        await settle()
        a.send_nowait("a")
        b.send_nowait("later")
        assert await waiting == (a, "a")
        assert b.receive_nowait() == "later"

    run(factory, main)


def test_no_channel_starves(factory):
    async def main():
        a, b = Channel(1), Channel(1)
        got = {a: 0, b: 0}
        for _ in range(400):
            for channel in (a, b):
                if not len(channel):
                    channel.send_nowait(0)
            channel, _ = await select(a, b)
            got[channel] += 1
        # A fair coin falls outside of this once in 10^23 runs.
        assert min(got.values()) > 100

    run(factory, main)


def test_a_cancelled_select_takes_nothing(factory):
    async def main():
        a, b = Channel(1), Channel(1)
        waiting = start(select(a, b))
        await settle()
        a.send_nowait("kept")
        await cancelled(waiting)
        assert a.receive_nowait() == "kept"
        for channel in (a, b):
            channel.send_nowait(1)
            assert channel.receive_nowait() == 1
            assert channel.statistics().waiting_receivers == 0

    run(factory, main)


def test_two_channels_at_once_grant_one_claim(factory):
    async def main():
        a, b = Channel(1), Channel(1)
        waiting = start(select(a, b))
        await settle()
        b.send_nowait(1)
        a.send_nowait(2)
        assert await waiting == (b, 1)
        assert a.receive_nowait() == 2

    run(factory, main)


def test_closed_channels_are_passed_over_until_all_are(factory):
    async def main():
        a, b = Channel(1), Channel(1)
        waiting = start(select(a, b))
        await settle()
        a.close()
        await settle()
        assert not waiting.done()
        b.send_nowait("b")
        assert await waiting == (b, "b")
        waiting = start(select(a, b))
        await settle()
        b.close()
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(ChannelClosed):
            await select(a, b)

    run(factory, main)


def test_over_subscriptions(factory):
    async def main():
        news = Broadcast(2)
        orders = Channel(2)
        subscription = news.subscribe()
        waiting = start(select(orders, subscription))
        await settle()
        await news.send("read all about it")
        assert await waiting == (subscription, "read all about it")

    run(factory, main)


def test_bad_arguments():
    channel = Channel(1)
    with pytest.raises(ValueError):
        select()
    with pytest.raises(ValueError, match="twice"):
        select(channel, channel)
    with pytest.raises(TypeError):
        select(channel, asyncio.Queue)
