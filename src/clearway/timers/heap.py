"""The timer heap: ``call_at`` in O(log n), ``cancel`` in O(log n) and without leaving the entry behind.

asyncio's heap keeps cancelled timers until half of it is dead. Servers cancel nearly every timer they set
(keep-alive, timeouts), so here a handle knows its index in the heap and leaves it when cancelled: the heap
is as large as the number of live timers. A hierarchical wheel would cancel in O(1) but rounds deadlines to
its tick; at the sizes met in practice (10^5 timers: 17 levels) the difference is below 1 µs.
Equal deadlines run in the order in which they were set.
"""

from __future__ import annotations

from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import Any

from clearway.steps import Handle


class TimerHandle(Handle):
    """A callback for a point in loop time, as ``call_later`` and ``call_at`` return it.

    :param when: deadline in seconds of ``loop.time()``.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return events.TimerHandle

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: Any,
        context: Context | None = None,
        debug: bool = False,
    ) -> None:
        Handle.__init__(self, callback, args, loop, context, debug)
        self._when = when
        self._scheduled = False
        self._index = -1
        self._order = 0
        self._heap: TimerHeap | None = None

    def when(self) -> float:
        """The deadline, in seconds of ``loop.time()``."""
        return self._when

    def cancel(self) -> None:
        if not self._cancelled and self._index >= 0 and self._heap is not None:
            self._heap.discard(self)
        Handle.cancel(self)

    def run(self) -> None:
        Handle.run(self)

    def _repr_info(self) -> list[str]:
        info = Handle._repr_info(self)
        info.insert(2 if self._cancelled else 1, f"when={self._when}")
        return info

    def __hash__(self) -> int:
        return hash(self._when)

    def __lt__(self, other: Any) -> bool:
        if isinstance(other, TimerHandle):
            return self._when < other.when()
        return NotImplemented

    def __le__(self, other: Any) -> bool:
        if isinstance(other, TimerHandle):
            return self._when <= other.when()
        return NotImplemented

    def __gt__(self, other: Any) -> bool:
        if isinstance(other, TimerHandle):
            return self._when > other.when()
        return NotImplemented

    def __ge__(self, other: Any) -> bool:
        if isinstance(other, TimerHandle):
            return self._when >= other.when()
        return NotImplemented

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TimerHandle):
            return bool(
                self._when == other._when
                and self._callback == other._callback
                and self._args == other._args
                and self._cancelled == other._cancelled
            )
        return NotImplemented


def _before(a: TimerHandle, b: TimerHandle) -> bool:
    return a._when < b._when or (a._when == b._when and a._order < b._order)


class TimerHeap:
    """A binary min-heap of timer handles by deadline, then by the order of setting."""

    def __init__(self) -> None:
        self._items: list[TimerHandle] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(list(self._items))

    def is_empty(self) -> bool:
        return not self._items

    def first_when(self) -> float:
        """The nearest deadline in seconds of loop time. The heap must not be empty."""
        first: TimerHandle = self._items[0]
        return first._when

    def push(self, handle: TimerHandle) -> None:
        self._count += 1
        handle._order = self._count
        handle._heap = self
        handle._scheduled = True
        handle._index = len(self._items)
        self._items.append(handle)
        self._sift_up(handle._index)

    def pop_due(self, now: float) -> TimerHandle | None:
        """Take out the first handle if its deadline lies at or before ``now``."""
        if not self._items:
            return None
        first: TimerHandle = self._items[0]
        if first._when > now:
            return None
        self._take(0)
        return first

    def discard(self, handle: TimerHandle) -> None:
        """Take out a handle that may be anywhere in the heap."""
        if handle._index >= 0:
            self._take(handle._index)

    def clear(self) -> None:
        for handle in self._items:
            handle._index = -1
            handle._scheduled = False
        self._items = []

    def _take(self, index: int) -> None:
        items = self._items
        handle: TimerHandle = items[index]
        last: TimerHandle = items.pop()
        if last is not handle:
            items[index] = last
            last._index = index
            self._sift_up(index)
            self._sift_down(last._index)
        handle._index = -1
        handle._scheduled = False
        handle._heap = None

    def _sift_up(self, index: int) -> None:
        items = self._items
        handle: TimerHandle = items[index]
        while index > 0:
            parent_index = (index - 1) >> 1
            parent: TimerHandle = items[parent_index]
            if not _before(handle, parent):
                break
            items[index] = parent
            parent._index = index
            index = parent_index
        items[index] = handle
        handle._index = index

    def _sift_down(self, index: int) -> None:
        items = self._items
        size = len(items)
        handle: TimerHandle = items[index]
        while True:
            child_index = 2 * index + 1
            if child_index >= size:
                break
            child: TimerHandle = items[child_index]
            if child_index + 1 < size:
                right: TimerHandle = items[child_index + 1]
                if _before(right, child):
                    child = right
                    child_index += 1
            if not _before(child, handle):
                break
            items[index] = child
            child._index = index
            index = child_index
        items[index] = handle
        handle._index = index
