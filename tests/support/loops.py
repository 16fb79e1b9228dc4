"""The loops under test, and `run`, which proves that a loop cleaned up after itself.

Every behaviour is tested once and run on asyncio's own loop (the control) and on both engines of
clearway. `run` owns the life of a loop: it fails the test when something reached the exception
handler that the test did not ask for, when a descriptor is left over, or when a clearway engine
still counts an operation in flight or a lease that was not given back.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from .net import settle

T = TypeVar("T")

# Turns of the loop that a closing connection may need before its last completion is reaped:
# cancel, its completion, the multishot's terminal completion, close. Ten times that.
DRAIN_TURNS = 40


class Factory:
    """Makes event loops of one kind; `name` is asyncio, uring, epoll or selector."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._warm = False

    def __repr__(self) -> str:
        return f"<Factory {self.name}>"

    @property
    def is_clearway(self) -> bool:
        return self.name != "asyncio"

    def __call__(self, **options: Any) -> asyncio.AbstractEventLoop:
        """A new loop. `options` go to `clearway.new_event_loop`."""
        if self.name == "asyncio":
            return asyncio.SelectorEventLoop()
        import clearway

        return clearway.new_event_loop(engine=self.name, **options)

    def warm(self) -> None:
        """Open once what a process opens only once, so that leaks can be counted after."""
        if not self._warm:
            self._warm = True
            loop = self()
            loop.run_until_complete(settle())
            loop.close()


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what each refers to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return found


def left_open(before: dict[int, str]) -> dict[int, str]:
    """The descriptors that are open now and were not in ``before``.

    On a busy machine a step of the test may be being reported as a stall, by a thread that holds its frames or reads
    a source file for it: that is waited for, up to the time limit of the test.
    """
    while True:
        left = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
        if not left or not (reporting() or all(what.endswith(".py") for what in left.values())):
            return left
        time.sleep(0.001)


def reporting() -> bool:
    """Whether a thread is making a stall report."""
    for frame in sys._current_frames().values():
        at: FrameType | None = frame
        while at is not None:
            if at.f_globals.get("__name__") == "clearway.scheduler.report":
                return True
            at = at.f_back
    return False


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Fail when the block leaves a descriptor open. Without a collection first: what only the
    garbage collector closes counts as left open."""
    before = descriptors()
    yield
    left = left_open(before)
    assert not left, f"descriptors left open: {left}"


def engine_counts(loop: asyncio.AbstractEventLoop) -> tuple[int, int]:
    """(operations in flight, leases out) of a clearway loop; zeros where nothing is counted."""
    engine = getattr(loop, "_engine", None)
    inflight = getattr(engine, "inflight", None)
    leased = getattr(engine, "leased", None)
    return (inflight() if inflight else 0, leased() if leased else 0)


async def _drained(loop: asyncio.AbstractEventLoop, resting: tuple[int, int]) -> tuple[int, int]:
    counts = engine_counts(loop)
    for _ in range(DRAIN_TURNS):
        if counts[0] <= resting[0] and counts[1] <= resting[1]:
            break
        await settle()
        counts = engine_counts(loop)
    return counts


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def finish(loop: asyncio.AbstractEventLoop) -> None:
    """End a loop as `asyncio.Runner` does: cancel tasks, generators and executor, then close."""
    try:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def run(
    factory: Callable[..., asyncio.AbstractEventLoop],
    main: Callable[[], Coroutine[Any, Any, T]],
    **options: Any,
) -> T:
    """Run `main()` on a new loop, return its result and prove that nothing is left over.

    Raises what `main` raises; AssertionError for a leak or an error that reached the loop's
    exception handler while the test had set none of its own.
    """
    if isinstance(factory, Factory):
        factory.warm()
    before = descriptors()
    loop = factory(**options)
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        loop.run_until_complete(settle())
        resting = engine_counts(loop)
        result = loop.run_until_complete(main())
        assert not errors, f"reached the exception handler: {errors}"
        counts = loop.run_until_complete(_drained(loop, resting))
        assert counts[0] <= resting[0], f"operations in flight: {counts[0]}, at rest {resting[0]}"
        assert counts[1] <= resting[1], f"leases out: {counts[1]}, at rest {resting[1]}"
    finally:
        finish(loop)
    assert not errors, f"reached the exception handler: {errors}"
    left = left_open(before)
    assert not left, f"descriptors left open: {left}"
    return result


@contextmanager
def caught_errors() -> Iterator[list[dict[str, Any]]]:
    """Collect what reaches the running loop's exception handler; the test looks at it."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    try:
        yield errors
    finally:
        loop.set_exception_handler(before)


async def cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task, wait for it, and insist that it was cancelled."""
    task.cancel()
    try:
        result: Any = await task
    except asyncio.CancelledError:
        return
    raise AssertionError(f"was not cancelled but gave {result!r}")


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that no callback announces. The test's time limit is the bound."""
    while not condition():
        await asyncio.sleep(0.001)


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a blocking peer's part beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


Main = Callable[[], Awaitable[Any]]
