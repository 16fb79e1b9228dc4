"""Programs with greenlets of their own, as SQLAlchemy and playwright are, when steps are suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import greenlet
import pytest

from .host import Host, run


def spin_until(done: Callable[[], Any]) -> None:
    while not done():
        pass


def test_a_program_with_greenlets_of_its_own_is_left_alone() -> None:
    async def main(host: Host) -> None:
        flags: list[bool] = []
        scheduler = host._scheduler

        def inside() -> str:
            host.call_soon(flags.append, True)
            spin_until(lambda: scheduler.declined[3] >= 2)
            assert not flags
            return "back"

        assert greenlet.greenlet(inside).switch() == "back"
        assert scheduler.suspensions == 0

    run(main)


async def spawn(function: Callable[[], Any]) -> Any:
    """Run a plain function that can wait (`wait_for`), on a greenlet of its own, as SQLAlchemy does."""
    strand = greenlet.greenlet(function)
    result = strand.switch()
    while not strand.dead:
        try:
            value = await result
        except BaseException as error:
            result = strand.throw(error)
        else:
            result = strand.switch(value)
    return result


def wait_for(awaitable: Any) -> Any:
    return greenlet.getcurrent().parent.switch(awaitable)


@pytest.mark.parametrize("end", ["returns", "raises", "waits again", "is cancelled"])
def test_a_greenlet_of_the_program_returns_to_the_step_that_switched_to_it(end: str) -> None:
    """Its parent is the stack it was made on, where another step may be suspended by now."""

    async def main(host: Host) -> None:
        gate = host.create_future()
        seen: list[Any] = []

        def inside() -> str:
            try:
                seen.append(wait_for(gate))
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
            if end == "raises":
                raise LookupError("from inside")
            if end == "waits again":
                seen.append(wait_for(asyncio.sleep(0, "once more")))
            return "result"

        task = asyncio.create_task(spawn(inside))
        await asyncio.sleep(0)  # it waits at the gate; its stack is free again

        async def hog() -> None:
            if end == "is cancelled":
                host.call_soon(task.cancel)
            else:
                host.call_soon(gate.set_result, "opened")
            spin_until(task.done)
            seen.append("hog done")

        await asyncio.create_task(hog())
        assert host._scheduler.suspensions > 0
        if end == "raises":
            with pytest.raises(LookupError, match="from inside"):
                await task
        elif end == "is cancelled":
            assert task.cancelled()
        else:
            assert await task == "result"
        assert (
            seen
            == {
                "returns": ["opened", "hog done"],
                "raises": ["opened", "hog done"],
                "waits again": ["opened", "once more", "hog done"],
                "is cancelled": ["cancelled", "hog done"],
            }[end]
        )

    run(main)


def test_a_greenlet_that_was_made_before_the_loop_ran_returns_to_its_step() -> None:
    def echo(value: Any) -> str:
        while value != "end":
            value = caller.switch(("echo", value))
        return "ended"

    caller = greenlet.getcurrent()
    strand = greenlet.greenlet(echo)

    async def main(host: Host) -> None:
        assert strand.switch(1) == ("echo", 1)
        flags: list[bool] = []
        host.call_soon(lambda: flags.append(strand.switch(2) == ("echo", 2)))
        spin_until(lambda: flags)
        assert flags == [True]
        assert strand.switch("end") == "ended"

    run(main)


def test_a_greenlet_that_outlives_the_run_returns_to_whoever_switches_to_it() -> None:
    """Its parent, the stack of the loop, is parked by then."""
    host = Host(mode="on", quantum=0.001)
    kept: list[Any] = []

    def echo() -> str:
        while (value := greenlet.getcurrent().parent.switch("waits")) != "end":
            assert value == "again"
        return "ended"

    async def main() -> None:
        kept.append(greenlet.greenlet(echo))
        assert kept[0].switch() == "waits"

    host.run_until_complete(main())
    assert kept[0].switch("again") == "waits"
    assert kept[0].switch("end") == "ended"
    host.run_until_complete(asyncio.sleep(0))
    host.close()


@pytest.mark.parametrize("suspended", [False, True])
def test_a_loop_in_a_greenlet_that_its_callbacks_leave_and_others_return_to(
    suspended: bool,
) -> None:
    """How playwright offers plain calls: the loop runs in a greenlet, a callback of it wakes the caller."""
    host = Host(mode="on", quantum=0.001)
    strand = greenlet.greenlet(host.run_forever)
    caller = greenlet.getcurrent()

    async def hog(flags: list[bool]) -> None:
        spin_until(lambda: flags)

    def call(coroutine: Any) -> Any:
        task = host.create_task(coroutine)
        task.add_done_callback(lambda _: caller.switch())
        while not task.done():
            strand.switch()
        return task.result()

    flags: list[bool] = []
    if suspended:
        host.create_task(hog(flags))
    for number in range(5):
        assert call(asyncio.sleep(0.001, number)) == number
    flags.append(True)
    assert call(asyncio.sleep(0.001, "last")) == "last"
    host.call_soon_threadsafe(host.stop)
    while not strand.dead:
        strand.switch()
    assert (host._scheduler.suspensions > 0) is suspended
    host.close()
