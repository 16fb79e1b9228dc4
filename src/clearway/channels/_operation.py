"""The stand-in for ``_operation.pyx`` where nothing is compiled: the same operation in ordinary Python."""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any

from clearway.channels._states import DONE, GONE, GRANTED, NEW, WAITING


class Operation:
    """One awaited operation; see ``_states`` for its life."""

    state = NEW
    future: Future[None] | None = None
    result: Any = None
    # What subclasses need: here, so that compiled all have one size and a free list serves them.
    channel: Any = None
    message: Any = None
    source: Any = None
    limit = 0
    flag = False

    def start(self) -> bool:
        """Try at once: True with ``result`` set, or False after queueing for it and ``suspend()``."""
        raise NotImplementedError

    def resume(self) -> Any:
        """The result of an operation that was granted; takes what was promised to it."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Leave the queue, or hand back what was promised: nobody waits for this any more."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Make the future that is waited for."""
        self.future = get_running_loop().create_future()
        self.state = WAITING

    def is_waiting(self) -> bool:
        """Whether it can be granted: queued, and its future neither cancelled nor resolved."""
        return self.state == WAITING and not self.future.done()  # type: ignore[union-attr]

    def grant(self) -> None:
        """Wake whoever waits. The last act of the caller: this may run user code."""
        self.state = GRANTED
        try:
            self.future.set_result(None)  # type: ignore[union-attr]
        except RuntimeError:
            # The loop of the waiter is closed: nobody will resume it.
            self.abandon()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        future = self.future
        if self.state == NEW:
            if not self.start():
                future = self.future
                future._asyncio_future_blocking = True  # type: ignore[union-attr]
                return future
        elif self.state == GRANTED:
            self.future = None
            self.result = self.resume()
        elif self.state == WAITING:
            assert future is not None
            if not future.done():
                raise RuntimeError("a channel operation was resumed before it was granted")
            self.close()
            future.result()
            raise RuntimeError("the future of a channel operation was resolved by somebody else")
        else:
            raise RuntimeError("a channel operation can be awaited once only")
        self.state = DONE
        stop = StopIteration()
        stop.value = self.result
        self.result = None
        raise stop

    def send(self, value: Any) -> Any:
        return self.__next__()

    def throw(self, exc: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """Raise at the point of waiting, as cancellation does."""
        self.close()
        if isinstance(exc, BaseException):
            raise exc
        if value is None:
            value = exc()
        elif not isinstance(value, BaseException):
            value = exc(value)
        raise value.with_traceback(traceback)

    def close(self) -> None:
        """Give up, whatever the state. Twice does nothing."""
        if self.state in (WAITING, GRANTED):
            self.abandon()
        self.state = GONE
        self.future = None
