"""A bounded channel between the tasks of one loop.

The problem with ``asyncio.Queue`` is its price (a coroutine per call, wake-ups by search) and its wake-up rule:
whoever was woken has to try again and may find that a newcomer was faster. Here

- an operation that need not wait is one small object and no coroutine (``_operation``);
- an operation that waits is woken with a *claim*. What is claimed nobody else can take, so the order of waiting
  is the order of service, and a task that is cancelled after it was woken passes its claim on: nothing is lost,
  nothing is delivered twice, a cancelled ``send`` has not sent.

Counts that always hold, and every call into the loop is made after they do (a step may be suspended there, and
another one enter the same channel)::

    0 <= claimed <= count            messages in the ring, and how many of them are promised
    count + reserved <= capacity     free slots promised to senders that were woken
    receivers wait  =>  count == claimed
    senders wait    =>  count + reserved == capacity

Rejected: handing the message to the waiter (a cancelled receiver would have to put it back, out of order or over
capacity), and a lock (the compiled functions below are atomic between their calls into the loop).

A channel belongs to one event loop. From another thread: ``loop.call_soon_threadsafe(channel.send_nowait, x)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import GenericAlias, TracebackType
from typing import Any

from clearway.channels._line import Line
from clearway.channels._operation import Operation
from clearway.channels._states import GONE, GRANTED, WAITING
from clearway.channels.errors import ChannelClosed, ChannelEmpty, ChannelFull

#: Slots of a new ring; it doubles up to the capacity as it fills, so that a large bound costs nothing unused.
RING_FIRST = 16

_GONE = GONE
_WAITING = WAITING
_GRANTED = GRANTED


@dataclass(frozen=True)
class ChannelStatistics:
    """Figures of a channel since it was made.

    :ivar capacity: messages it may hold.
    :ivar buffered: messages it holds.
    :ivar sent: messages it accepted.
    :ivar received: messages that were taken.
    :ivar waiting_senders: tasks that wait for room.
    :ivar waiting_receivers: tasks that wait for a message.
    """

    capacity: int
    buffered: int
    sent: int
    received: int
    waiting_senders: int
    waiting_receivers: int


class Channel:
    """Moves objects from tasks to tasks, in order, each to exactly one receiver. Nothing is copied.

    ``async for message in channel`` receives until the channel is closed and empty; ``with channel:`` closes it.

    :param capacity: messages it holds before ``send`` waits; at least 1.
    :raises TypeError: the capacity is not an integer.
    :raises ValueError: the capacity is below 1.
    """

    def __init__(self, capacity: int) -> None:
        if not isinstance(capacity, int) or isinstance(capacity, bool):
            raise TypeError(f"capacity must be an int, got {capacity!r}")
        if capacity < 1:
            raise ValueError(
                f"capacity must be at least 1, got {capacity}; an unbounded channel only hides that "
                "the receiver is too slow"
            )
        self._capacity = capacity
        self._size = min(RING_FIRST, capacity)
        self._ring: list[Any] = [None] * self._size
        self._head = 0
        self._count = 0
        self._claimed = 0
        self._reserved = 0
        self._sent = 0
        self._closed = False
        self._receivers = Line()
        self._senders = Line()
        self._feed = None

    # -- by await -------------------------------------------------------------------------------------------

    def send(self, message: Any) -> Send:
        """Put a message in; wait while there is no room. Senders that wait are served in order.

        Await the result once. Nothing is sent when the wait is cancelled.

        :raises ChannelClosed: the channel is closed, or was while this waited.
        """
        operation = Send.__new__(Send)
        operation.channel = self
        operation.message = message
        return operation

    def receive(self) -> Receive:
        """Take the oldest message; wait while there is none. Receivers that wait are served in order.

        Await the result once. Nothing is taken when the wait is cancelled.

        :raises ChannelClosed: the channel is closed and empty.
        """
        operation = Receive.__new__(Receive)
        operation.channel = self
        return operation

    def receive_many(self, limit: int) -> Receive:
        """Take at least one and at most ``limit`` messages, as a list; wait while there is none.

        :raises ChannelClosed: the channel is closed and empty.
        :raises ValueError: the limit is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        operation = Receive.__new__(Receive)
        operation.channel = self
        operation.limit = limit
        return operation

    async def send_many(self, messages: Iterable[Any]) -> None:
        """Put messages in, as many at a time as there is room for; wait for the rest.

        A cancelled call has sent the first messages and none of the others; where that has to be known
        exactly use ``send_many_nowait``, which says how many it took.

        :raises ChannelClosed: as ``send``.
        """
        batch = list(messages)
        done = 0
        while True:
            done += self.send_many_nowait(batch[done:] if done else batch)
            if done == len(batch):
                return
            await self.send(batch[done])
            done += 1

    def __aiter__(self) -> Channel:
        return self

    def __anext__(self) -> Receive:
        operation = Receive.__new__(Receive)
        operation.channel = self
        operation.flag = True
        return operation

    # -- at once --------------------------------------------------------------------------------------------

    def send_nowait(self, message: Any) -> None:
        """Put a message in if there is room.

        :raises ChannelFull: there is none, or tasks that waited longer have been promised it.
        :raises ChannelClosed: the channel is closed.
        """
        if self._closed:
            raise ChannelClosed("the channel is closed: nothing can be sent any more")
        if self._count + self._reserved >= self._capacity:
            raise ChannelFull(f"the channel holds {self._count} of {self._capacity} messages")
        self._put(message)
        if self._receivers.size:
            self._wake_receivers()

    def receive_nowait(self) -> Any:
        """Take the oldest message if there is one.

        :raises ChannelEmpty: there is none, or it has been promised to a task that waited for it.
        :raises ChannelClosed: the channel is closed and empty.
        """
        if self._count <= self._claimed:
            self._raise_empty()
        message = self._take()
        if self._closed or self._senders.size or self._feed is not None:
            self._made_room()
        return message

    def send_many_nowait(self, messages: list[Any]) -> int:
        """Put in as many of the messages as there is room for, from the first on; the number says how many.

        :raises ChannelClosed: the channel is closed.
        """
        if self._closed:
            raise ChannelClosed("the channel is closed: nothing can be sent any more")
        batch = messages if type(messages) is list else list(messages)
        room = self._capacity - self._count - self._reserved
        number = len(batch)
        if number > room:
            number = room
        index = 0
        while index < number:
            self._put(batch[index])
            index += 1
        if number and self._receivers.size:
            self._wake_receivers()
        return number

    def receive_many_nowait(self, limit: int) -> list[Any]:
        """Take what is there, at most ``limit`` messages; an empty list where there is nothing.

        :raises ChannelClosed: the channel is closed and empty.
        """
        number = self._count - self._claimed
        if number > limit:
            number = limit
        if number <= 0:
            if self._closed and self._count == 0:
                self._raise_empty()
            return []
        messages = self._take_many(number)
        if self._closed or self._senders.size or self._feed is not None:
            self._made_room()
        return messages

    # -- closing --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the sending: what is in the channel can still be received, then receivers get ChannelClosed.

        Tasks that wait in ``send`` get ChannelClosed and have sent nothing. Closing twice does nothing.
        """
        if self._closed:
            return
        self._closed = True
        if self._feed is not None:
            self._feed.detach(self)
        while True:
            operation = self._senders.pop()
            if operation is None:
                break
            operation.grant()
        if self._count == 0:
            self._end_receivers()

    @property
    def closed(self) -> bool:
        return bool(self._closed)

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- figures --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Messages in the channel, those included that are promised to a receiver."""
        return self._count

    def __bool__(self) -> bool:
        return True

    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias:
        return GenericAlias(cls, item)

    @property
    def capacity(self) -> int:
        """Messages it may hold."""
        return self._capacity

    def statistics(self) -> ChannelStatistics:
        """Figures since the channel was made."""
        return ChannelStatistics(
            capacity=self._capacity,
            buffered=self._count,
            sent=self._sent,
            received=self._sent - self._count,
            waiting_senders=self._senders.waiting(),
            waiting_receivers=self._receivers.waiting(),
        )

    def __repr__(self) -> str:
        state = "closed " if self._closed else ""
        return f"<{type(self).__name__} {state}{self._count}/{self._capacity}>"

    # -- the ring -------------------------------------------------------------------------------------------

    def _put(self, message: Any) -> None:
        if self._count == self._size:
            self._grow()
        index = self._head + self._count
        if index >= self._size:
            index -= self._size
        self._ring[index] = message
        self._count += 1
        self._sent += 1

    def _take(self) -> Any:
        ring = self._ring
        index = self._head
        message = ring[index]
        # The place is given up before the message is let go of: nothing user-written runs in between.
        ring[index] = None
        index += 1
        self._head = 0 if index == self._size else index
        self._count -= 1
        return message

    def _take_many(self, number: int) -> list[Any]:
        messages = []
        while number > 0:
            messages.append(self._take())
            number -= 1
        return messages

    def _grow(self) -> None:
        ring = self._ring[self._head :] + self._ring[: self._head]
        size = min(2 * self._size, self._capacity)
        ring.extend([None] * (size - self._size))
        self._ring = ring
        self._head = 0
        self._size = size

    # -- claims ---------------------------------------------------------------------------------------------

    def _wake_receivers(self) -> None:
        """Promise messages that nobody was promised to those who wait, oldest first."""
        while self._count > self._claimed:
            operation = self._receivers.pop()
            if operation is None:
                return
            self._claimed += 1
            operation.source = self
            operation.grant()

    def _made_room(self) -> None:
        """Promise free slots to those who wait, oldest first; let a broadcast fill them; or end."""
        if self._closed:
            if self._count == 0:
                self._end_receivers()
            return
        while self._count + self._reserved < self._capacity:
            operation = self._senders.pop()
            if operation is None:
                break
            self._reserved += 1
            operation.source = self
            operation.grant()
        if self._feed is not None:
            self._feed.pump()

    def _end_receivers(self) -> None:
        while True:
            operation = self._receivers.pop()
            if operation is None:
                return
            operation.source_closed()

    def _unclaim(self) -> None:
        """A receiver that was promised a message went away."""
        self._claimed -= 1
        self._wake_receivers()

    def _join(self, operation: Wait) -> None:
        """Queue an operation that waits for several channels."""
        if not (self._closed and self._count == 0):
            self._receivers.add(operation)

    def _leave(self) -> None:
        self._receivers.leave()

    def _take_claimed(self) -> Any:
        """What a promise was made for."""
        self._claimed -= 1
        message = self._take()
        if self._closed or self._senders.size or self._feed is not None:
            self._made_room()
        return message

    def _unreserve(self) -> None:
        """A sender that was promised a slot went away."""
        self._reserved -= 1
        self._made_room()

    def _raise_empty(self) -> None:
        if self._closed and self._count == 0:
            raise ChannelClosed("the channel is closed and empty")
        raise ChannelEmpty("the channel has no message that is not promised to somebody")


class Wait(Operation):
    """What the operations of channels have in common.

    :ivar channel: the channel (or channels) it is about.
    :ivar message: what a send sends.
    :ivar limit: of a ``receive_many``, else 0.
    :ivar flag: of a ``Receive``: a step of ``async for``; of a broadcast's send: room was promised.
    :ivar source: the channel that made a promise; None where it woke us without one, being closed.
    """

    def source_closed(self) -> None:
        """A channel that this waits for will never have a message again."""
        self.grant()


class Send(Wait):
    """``await channel.send(message)``."""

    def start(self) -> bool:
        channel = self.channel
        if channel._closed:
            raise ChannelClosed("the channel is closed: nothing can be sent any more")
        if channel._count + channel._reserved < channel._capacity:
            channel._put(self.message)
            if channel._receivers.size:
                channel._wake_receivers()
            return True
        self.suspend()
        channel._senders.add(self)
        return False

    def resume(self) -> None:
        channel = self.channel
        if self.source is not None:
            channel._reserved -= 1
            self.source = None
        if channel._closed:
            raise ChannelClosed("the channel was closed while send() waited for room")
        channel._put(self.message)
        if channel._receivers.size:
            channel._wake_receivers()

    def abandon(self) -> None:
        channel = self.channel
        state = self.state
        self.state = _GONE
        if state == _WAITING:
            channel._senders.leave()
        elif self.source is not None:
            self.source = None
            channel._unreserve()


class Receive(Wait):
    """``await channel.receive()``, ``receive_many()`` and a step of ``async for``."""

    def start(self) -> bool:
        channel = self.channel
        if channel._count > channel._claimed:
            self._finish(channel)
            return True
        if channel._closed and channel._count == 0:
            self._raise_closed()
        self.suspend()
        channel._receivers.add(self)
        return False

    def _finish(self, channel: Channel) -> None:
        if self.limit == 0:
            self.result = channel._take()
        else:
            number = channel._count - channel._claimed
            self.result = channel._take_many(self.limit if number > self.limit else number)
        if channel._closed or channel._senders.size or channel._feed is not None:
            channel._made_room()

    def resume(self) -> Any:
        channel = self.channel
        if self.source is None:
            self._raise_closed()
        self.source = None
        channel._claimed -= 1
        self._finish(channel)
        return self.result

    def abandon(self) -> None:
        channel = self.channel
        state = self.state
        self.state = _GONE
        if state == _WAITING:
            channel._receivers.leave()
        elif self.source is not None:
            self.source = None
            channel._unclaim()

    def _raise_closed(self) -> None:
        if self.flag:
            raise StopAsyncIteration
        raise ChannelClosed("the channel is closed and empty")
