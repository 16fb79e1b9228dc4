"""Broadcast: every subscriber receives every message, and all of them the same object.

A subscription is a channel of its own, so it can be iterated, closed and selected over like any other, and a
message in ten subscriptions is one object with ten references. A message is accepted only when every
subscription has room: the slowest one holds the sender back, and memory stays bounded. Dropping for the slow
(as some brokers do) was rejected as a default: it loses data silently; who wants it closes the subscription.

All subscriptions see all messages in one order: a message is put into each of them before anybody is woken.
"""

from __future__ import annotations

from typing import Any

from clearway.channels._line import Line
from clearway.channels._states import GONE, WAITING
from clearway.channels.channel import Channel, Wait
from clearway.channels.errors import ChannelClosed, ChannelFull


class Subscription(Channel):  # type: ignore[type-arg]
    """The receiving end of a broadcast; made by ``Broadcast.subscribe``. Close it to stop receiving."""

    def send(self, message: Any) -> Any:
        raise TypeError("a subscription only receives; send to its Broadcast")

    def send_nowait(self, message: Any) -> None:
        raise TypeError("a subscription only receives; send to its Broadcast")

    def send_many_nowait(self, messages: Any) -> int:
        raise TypeError("a subscription only receives; send to its Broadcast")

    def _attach(self, feed: Any) -> None:
        self._feed = feed

    def _free(self) -> int:
        return self._capacity - self._count

    def _fill(self, message: Any) -> None:
        self._put(message)

    def _announce(self) -> None:
        if self._receivers.size:
            self._wake_receivers()


class Broadcast:
    """Sends each message to all who have subscribed by then; messages sent before that are not seen.

    :param capacity: messages each subscription may hold before ``send`` waits for it; at least 1.
    :raises TypeError: the capacity is not an integer.
    :raises ValueError: the capacity is below 1.
    """

    def __init__(self, capacity: int) -> None:
        Channel(capacity)  # the same checks
        self._capacity = capacity
        self._reserved = 0
        self._closed = False
        self._subscriptions: tuple[Subscription, ...] = ()
        self._senders = Line()

    def subscribe(self) -> Subscription:
        """A new subscription; it receives what is sent from now on.

        :raises ChannelClosed: the broadcast is closed.
        """
        if self._closed:
            raise ChannelClosed("the broadcast is closed: nothing will be sent any more")
        subscription = Subscription(self._capacity)
        subscription._attach(self)
        self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def send(self, message: Any) -> BroadcastSend:
        """Give a message to every subscription; wait until all of them have room. Await the result once.

        Without subscriptions the message is dropped. Nobody gets it when the wait is cancelled.

        :raises ChannelClosed: the broadcast is closed, or was while this waited.
        """
        operation = BroadcastSend()
        operation.channel = self
        operation.message = message
        return operation

    def send_nowait(self, message: Any) -> None:
        """Give a message to every subscription, or to none.

        :raises ChannelFull: a subscription has no room.
        :raises ChannelClosed: the broadcast is closed.
        """
        if self._closed:
            raise ChannelClosed("the broadcast is closed: nothing can be sent any more")
        if self._room() <= 0:
            raise ChannelFull("a subscriber of the broadcast has no room for another message")
        self._deliver(message)

    def close(self) -> None:
        """End the sending: subscribers receive what they still hold, then ChannelClosed."""
        if self._closed:
            return
        self._closed = True
        subscriptions = self._subscriptions
        self._subscriptions = ()
        for subscription in subscriptions:
            subscription.close()
        while True:
            operation = self._senders.pop()
            if operation is None:
                return
            operation.grant()

    @property
    def closed(self) -> bool:
        return bool(self._closed)

    @property
    def subscribers(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscriptions)

    def __enter__(self) -> Broadcast:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- what subscriptions call ------------------------------------------------------------------------------

    def pump(self) -> None:
        """A subscription has more room, or is gone: promise a place to those who wait, oldest first."""
        while self._senders.size and self._room() > 0:
            operation = self._senders.pop()
            if operation is None:
                return
            self._reserved += 1
            operation.flag = True
            operation.grant()

    def detach(self, subscription: Subscription) -> None:
        self._subscriptions = tuple([s for s in self._subscriptions if s is not subscription])
        self.pump()

    # -- delivery -----------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Messages that fit into every subscription and are not promised."""
        room = self._capacity
        for subscription in self._subscriptions:
            free = subscription._free()
            if free < room:
                room = free
        return room - self._reserved

    def _deliver(self, message: Any) -> None:
        subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription._fill(message)
        for subscription in subscriptions:
            subscription._announce()


class BroadcastSend(Wait):
    """``await broadcast.send(message)``."""

    def start(self) -> bool:
        broadcast = self.channel
        if broadcast._closed:
            raise ChannelClosed("the broadcast is closed: nothing can be sent any more")
        if broadcast._room() > 0:
            broadcast._deliver(self.message)
            return True
        self.suspend()
        broadcast._senders.add(self)
        return False

    def resume(self) -> None:
        broadcast = self.channel
        if self.flag:
            self.flag = False
            broadcast._reserved -= 1
        if broadcast._closed:
            raise ChannelClosed("the broadcast was closed while send() waited for room")
        broadcast._deliver(self.message)

    def abandon(self) -> None:
        broadcast = self.channel
        state = self.state
        self.state = GONE
        if state == WAITING:
            broadcast._senders.leave()
        elif self.flag:
            self.flag = False
            broadcast._reserved -= 1
            broadcast.pump()
