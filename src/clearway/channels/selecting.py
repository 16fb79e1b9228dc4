"""``select``: the first message of several channels.

One operation stands in the lines of all its channels. The channel that grants it makes the claim; its other
places are passed over from then on. Where several channels have a message the choice is random: with a fixed
or rotating order a busy channel could starve another, or two selects that take turns could see one half each.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable
from typing import Any

from clearway.channels._states import GONE, WAITING
from clearway.channels.channel import Channel, Wait
from clearway.channels.errors import ChannelClosed, ChannelEmpty


class Select(Wait):
    """``await select(...)``; the result is ``(channel, message)``."""

    def start(self) -> bool:
        if self._try():
            return True
        self.suspend()
        channels = self.channel
        for channel in channels:
            channel._join(self)
        return False

    def _try(self) -> bool:
        channels = self.channel
        number = len(channels)
        first = int(random.random() * number)
        ended = 0
        for offset in range(number):
            channel = channels[(first + offset) % number]
            try:
                self.result = (channel, channel.receive_nowait())
            except ChannelEmpty:
                continue
            except ChannelClosed:
                ended += 1
                continue
            return True
        if ended == number:
            raise ChannelClosed("all channels of the select are closed and empty")
        return False

    def resume(self) -> Any:
        source = self.source
        if source is None:
            self._leave(None)
            raise ChannelClosed("all channels of the select are closed and empty")
        self.source = None
        self._leave(source)
        return (source, source._take_claimed())

    def abandon(self) -> None:
        state = self.state
        self.state = GONE
        source = self.source
        self.source = None
        self._leave(source)
        if state != WAITING and source is not None:
            source._unclaim()

    def source_closed(self) -> None:
        channels = self.channel
        for channel in channels:
            if not channel.closed or len(channel):
                return
        self.grant()

    def _leave(self, source: Channel[Any] | None) -> None:
        channels = self.channel
        for channel in channels:
            if channel is not source:
                channel._leave()


def select(*channels: Channel[Any]) -> Awaitable[tuple[Channel[Any], Any]]:
    """Take one message from whichever of the channels has one first; fair among those that have.

    Await the result once: ``channel, message = await select(orders, commands)``. A channel that is closed and
    empty is passed over. Nothing is taken from any channel when the wait is cancelled.

    :param channels: at least one, each once; subscriptions of a ``Broadcast`` too.
    :raises ChannelClosed: all of them are closed and empty.
    :raises TypeError: something is not a channel.
    :raises ValueError: none were given, or one twice.
    """
    if not channels:
        raise ValueError("select() needs at least one channel")
    for channel in channels:
        if not isinstance(channel, Channel):
            raise TypeError(f"select() takes channels of one process, got {channel!r}")
    if len(set(map(id, channels))) != len(channels):
        raise ValueError("select() was given the same channel twice")
    operation = Select()
    operation.channel = channels
    return operation
