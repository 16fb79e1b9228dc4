"""A waiting line: first come, first served, and leaving it early costs nothing."""

from __future__ import annotations

from collections import deque

from clearway.channels._operation import Operation

#: Those who left stay in the line until it is longer than this and mostly made of them.
COMPACT_FROM = 32


_COMPACT_FROM = COMPACT_FROM


class Line:
    """Operations that wait for the same thing, oldest first."""

    def __init__(self) -> None:
        self._queue: deque[Operation] = deque()
        self._left = 0
        self.size = 0

    def add(self, operation: Operation) -> None:
        self._queue.append(operation)
        self.size += 1

    def pop(self) -> Operation | None:
        """The oldest that still waits, or None; whoever left, or was cancelled a moment ago, is skipped."""
        queue = self._queue
        while queue:
            operation = queue.popleft()
            self.size = len(queue)
            if operation.is_waiting():
                return operation
            if self._left > 0:
                self._left -= 1
        self._left = 0
        return None

    def leave(self) -> None:
        """Note that one in the line no longer waits. Amortised O(1)."""
        self._left += 1
        if self._left > _COMPACT_FROM and self._left * 2 > len(self._queue):
            # In place: somebody may be in the middle of pop().
            waiting = [operation for operation in self._queue if operation.is_waiting()]
            self._queue.clear()
            self._queue.extend(waiting)
            self._left = 0
            self.size = len(waiting)

    def waiting(self) -> int:
        number = 0
        for operation in self._queue:
            number += operation.is_waiting()
        return number
