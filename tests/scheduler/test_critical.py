"""Critical sections: nested, by exception, across an ``await``, and as a decorator."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import clearway
from clearway.scheduler import rules
from clearway.scheduler._native import section_depth


@pytest.fixture(params=["epoll", "uring"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    try:
        clearway.new_event_loop(engine=request.param).close()
    except OSError as error:
        pytest.skip(f"engine {request.param} is refused here: {error}")

    def runner(main: Any, **options: Any) -> Any:
        options = {"preempt": "on", "quantum": 0.001, "engine": request.param, **options}
        return clearway.run(main, **options)

    return runner


def declined() -> int:
    """Suspensions of this loop's steps that a critical section has prevented so far."""
    scheduler: Any = asyncio.get_running_loop()._scheduler  # type: ignore[attr-defined]
    return int(scheduler.declined[rules.U2])


def spin_until(done: Callable[[], Any]) -> None:
    while not done():
        pass


def is_suspended_when_it_spins() -> bool:
    """Compute until this step has either been suspended for another or kept from it by a section."""
    loop = asyncio.get_running_loop()
    others: list[bool] = []
    loop.call_soon(others.append, True)
    before = declined()
    spin_until(lambda: others or declined() > before)
    return bool(others)


def test_nested_sections_end_with_the_outermost(run: Callable[..., Any]) -> None:
    async def main() -> None:
        section = clearway.critical()
        with section:
            with section, clearway.critical():
                assert not is_suspended_when_it_spins()
            assert not is_suspended_when_it_spins()
        assert is_suspended_when_it_spins()

    run(main())


def test_an_exception_ends_a_section(run: Callable[..., Any]) -> None:
    async def main() -> None:
        for _ in range(2):
            with pytest.raises(LookupError), clearway.critical(), clearway.critical():
                raise LookupError
        assert section_depth() == 0
        assert is_suspended_when_it_spins()

    run(main())


def test_across_an_await_a_section_is_its_tasks_alone(run: Callable[..., Any]) -> None:
    async def holder(entered: asyncio.Event, leave: asyncio.Event) -> None:
        with clearway.critical():
            entered.set()
            await leave.wait()
            assert section_depth() == 1
            assert not is_suspended_when_it_spins()
        assert is_suspended_when_it_spins()

    async def main() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(holder(entered, leave))
        await entered.wait()
        # The holder is in its section, and we are not.
        assert section_depth() == 0
        assert is_suspended_when_it_spins()
        with clearway.critical():
            assert not is_suspended_when_it_spins()
        leave.set()
        await task
        assert section_depth() == 0
        assert is_suspended_when_it_spins()

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_a_task_cancelled_in_its_section_leaves_nothing_behind(
    run: Callable[..., Any], debug: bool
) -> None:
    async def holder(entered: asyncio.Event) -> None:
        with clearway.critical():
            entered.set()
            await asyncio.Event().wait()

    async def main() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(holder(entered))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert section_depth() == 0
        assert not asyncio.get_running_loop()._scheduler.looks_at_steps  # type: ignore[attr-defined]

    run(main(), debug=debug)


def test_a_callback_that_leaves_a_section_open_does_not_stop_preemption(
    run: Callable[..., Any],
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(clearway.critical().__enter__)
        await asyncio.sleep(0)
        assert section_depth() == 0

    run(main())


@pytest.mark.parametrize("mode", ["off", "report"])
def test_sections_mean_no_harm_where_nothing_is_suspended(
    run: Callable[..., Any], mode: str
) -> None:
    async def main() -> int:
        with clearway.critical():
            await asyncio.sleep(0)
            return section_depth()

    assert run(main(), preempt=mode) == 1
    assert section_depth() == 0


def test_decorated_functions(run: Callable[..., Any]) -> None:
    @clearway.critical
    def plain(value: int) -> int:
        assert not is_suspended_when_it_spins()
        return value + 1

    @clearway.critical(maximum=10.0)
    async def waiting(value: int) -> int:
        await asyncio.sleep(0)
        return plain(value)

    class Account:
        @clearway.critical
        def name(self) -> str:
            assert section_depth() == 1
            return type(self).__name__

    async def main() -> None:
        assert plain(1) == 2
        assert await asyncio.gather(waiting(2), waiting(3)) == [3, 4]
        assert Account().name() == "Account"
        assert section_depth() == 0
        assert is_suspended_when_it_spins()

    run(main())
    assert plain.__name__ == "plain"
    assert inspect.iscoroutinefunction(waiting)
    assert not inspect.iscoroutinefunction(plain)


def test_what_cannot_be_decorated_is_refused() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def asynchronous() -> AsyncIterator[int]:
        yield 1

    for function in (generator, asynchronous):
        with pytest.raises(TypeError, match="generator function"):
            clearway.critical(function)
    with pytest.raises(TypeError, match="decorates functions"):
        clearway.critical(5)


def test_sections_of_another_thread_are_its_own(run: Callable[..., Any]) -> None:
    async def main() -> None:
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with clearway.critical():
                entered.set()
                leave.wait()

        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        try:
            assert section_depth() == 0
            assert is_suspended_when_it_spins()
        finally:
            leave.set()
            thread.join()

    run(main())


def test_time_spent_at_an_await_is_not_held_against_a_section(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with clearway.critical(maximum=0.02):
            await asyncio.sleep(0.05)

    run(main())
    assert caplog.text == ""
