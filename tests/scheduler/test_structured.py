"""Structured concurrency while a member is suspended in the middle of a step: what asyncio documents holds.

A hog computes until something has happened elsewhere, which without suspensions could never happen. Groups, time-outs
and shields are asyncio's own; what is tested is that they see nothing they could not see without suspensions, but time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import clearway


@pytest.fixture(params=["epoll", "uring"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    def runner(main: Coroutine[Any, Any, Any]) -> Any:
        def factory() -> asyncio.AbstractEventLoop:
            return clearway.new_event_loop(engine=request.param, preempt="on", quantum=0.001)

        with asyncio.Runner(loop_factory=factory) as asyncio_runner:
            return asyncio_runner.run(main)

    try:
        clearway.new_event_loop(engine=request.param).close()
    except OSError as error:
        pytest.skip(f"engine {request.param} is refused here: {error}")
    yield runner


def spin_until(done: Callable[[], Any]) -> None:
    while not done():
        pass


async def turns(count: int = 3) -> None:
    """Wherever a cancellation is pending it arrives here."""
    for _ in range(count):
        await asyncio.sleep(0)


class Other:
    """A task beside the hog that says how far the loop has come since it began."""

    def __init__(self) -> None:
        self.count = 0
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1

    def passed(self, count: int = 5) -> Callable[[], bool]:
        """True once ``count`` more turns have gone by."""
        until = self.count + count
        return lambda: self.count >= until

    async def __aenter__(self) -> Other:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()


def test_a_suspended_member_is_cancelled_at_its_next_await(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            seen: list[str] = []
            failed: list[bool] = []

            async def hog() -> None:
                spin_until(lambda: failed)
                spin_until(other.passed())
                seen.append("went on")
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise

            async def fail() -> None:
                await asyncio.sleep(0)
                failed.append(True)
                raise ArithmeticError("sibling")

            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    member = group.create_task(hog())
                    group.create_task(fail())
            assert [type(exc) for exc in caught.value.exceptions] == [ArithmeticError]
            assert seen == ["went on", "cancelled"]
            assert member.cancelled() and member.cancelling() == 1
            await turns()

    run(main())


def test_a_suspended_member_that_fails_too(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            failed: list[bool] = []

            async def hog() -> None:
                spin_until(lambda: failed)
                spin_until(other.passed())
                raise KeyError("hog")

            async def fail() -> None:
                failed.append(True)
                raise ArithmeticError("sibling")

            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(hog())
                    group.create_task(fail())
            kinds = {type(exc) for exc in caught.value.exceptions}
            assert kinds == {ArithmeticError, KeyError}
            await turns()

    run(main())


def test_the_body_of_a_group_is_suspended_when_a_member_fails(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            failed: list[bool] = []

            async def fail() -> None:
                failed.append(True)
                raise ArithmeticError("member")

            me = asyncio.current_task()
            assert me is not None
            for has_await in (False, True):
                failed.clear()
                seen: list[str] = []
                with pytest.raises(ExceptionGroup) as caught:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fail())
                        spin_until(lambda: failed)
                        spin_until(other.passed())
                        seen.append("went on")
                        if has_await:
                            await asyncio.sleep(3600)
                            seen.append("never")
                assert seen == ["went on"]
                assert [type(exc) for exc in caught.value.exceptions] == [ArithmeticError]
                if sys.version_info >= (3, 13):
                    assert me.cancelling() == 0  # before 3.13 asyncio itself leaves it at one
                await turns()  # nothing of it is left for later

    run(main())


def test_the_parent_is_cancelled_while_a_member_is_suspended(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            seen: list[str] = []
            cancelled: list[bool] = []

            async def hog() -> None:
                spin_until(lambda: cancelled)
                spin_until(other.passed())
                try:
                    await asyncio.sleep(3600)
                finally:
                    seen.append("hog ended")

            async def parent() -> None:
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(hog())
                finally:
                    seen.append("parent ended")

            task = asyncio.create_task(parent())
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.002, task.cancel)
            asyncio.get_running_loop().call_later(0.002, cancelled.append, True)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert seen == ["hog ended", "parent ended"]
            assert task.cancelled()

    run(main())


def test_a_timeout_fires_while_its_task_is_suspended(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            loop = asyncio.get_running_loop()
            me = asyncio.current_task()
            assert me is not None
            # An await follows in the block: it raises.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001) as limit:
                    over = loop.time() + 0.002
                    spin_until(lambda: loop.time() > over)
                    spin_until(other.passed())
                    await asyncio.sleep(3600)
            assert limit.expired() and me.cancelling() == 0
            await turns()
            # None does: the block has ended, in time or not, and the limit with it.
            async with asyncio.timeout(0.001) as limit:
                over = loop.time() + 0.002
                spin_until(lambda: loop.time() > over)
                spin_until(other.passed())
            assert not limit.expired() and me.cancelling() == 0
            await turns()
            # One that is over at once neither.
            async with asyncio.timeout(0.001) as limit:
                over = loop.time() + 0.002
                spin_until(lambda: loop.time() > over)
                spin_until(other.passed())
                await _at_once()
            assert not limit.expired() and me.cancelling() == 0
            await turns()

    run(main())


async def _at_once() -> None:
    pass


def test_a_task_s_result_outlives_a_limit_that_came_too_late(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            loop = asyncio.get_running_loop()

            async def hog() -> str:
                async with asyncio.timeout(0.001):
                    over = loop.time() + 0.002
                    spin_until(lambda: loop.time() > over)
                    spin_until(other.passed())
                    return "result"

            assert await asyncio.create_task(hog()) == "result"

    run(main())


def test_nested_timeouts_around_a_suspended_step(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            loop = asyncio.get_running_loop()
            me = asyncio.current_task()
            assert me is not None
            # The outer one is over first: it is the one that raises, through the inner.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001) as outer:
                    async with asyncio.timeout(3600) as inner:
                        over = loop.time() + 0.002
                        spin_until(lambda: loop.time() > over)
                        spin_until(other.passed())
                        await asyncio.sleep(3600)
            assert outer.expired() and not inner.expired()
            # Both are over.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002) as outer:
                    try:
                        async with asyncio.timeout(0.001) as inner:
                            over = loop.time() + 0.004
                            spin_until(lambda: loop.time() > over)
                            spin_until(other.passed())
                            await asyncio.sleep(3600)
                    except TimeoutError:
                        await asyncio.sleep(3600)
            assert outer.expired() and me.cancelling() == 0
            await turns()

    run(main())


def test_wait_for_a_suspended_task(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            loop = asyncio.get_running_loop()
            seen: list[str] = []

            async def hog(await_after: bool) -> str:
                over = loop.time() + 0.003
                spin_until(lambda: loop.time() > over)
                spin_until(other.passed())
                if await_after:
                    try:
                        await asyncio.sleep(3600)
                    finally:
                        seen.append("cancelled")
                return "result"

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.create_task(hog(True)), 0.001)
            assert seen == ["cancelled"]
            me = asyncio.current_task()
            assert me is not None and me.cancelling() == 0
            await turns()

    run(main())


def test_a_shield_around_a_suspended_task(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            released: list[bool] = []

            async def hog() -> str:
                spin_until(lambda: released)
                await asyncio.sleep(0)
                return "result"

            task = asyncio.create_task(hog())

            async def wait() -> str:
                return await asyncio.shield(task)

            waiter = asyncio.create_task(wait())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert not task.done() and task.cancelling() == 0
            spin_until(other.passed())
            released.append(True)
            assert await task == "result"

    run(main())


def test_cancellations_of_a_suspended_task_are_counted(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            counts: list[int] = []
            task: asyncio.Task[str]
            cancelled: list[bool] = []

            async def hog() -> str:
                me = asyncio.current_task()
                assert me is task
                spin_until(lambda: cancelled)
                spin_until(other.passed())
                counts.append(me.cancelling())
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    counts.append(me.cancelling())
                counts.append(me.uncancel())
                counts.append(me.uncancel())
                await turns()
                return "result"

            async def cancel() -> None:
                await asyncio.sleep(0)
                counts.append(task.cancelling())
                assert task.cancel() and task.cancel()
                cancelled.append(True)

            task = asyncio.create_task(hog())
            canceller = asyncio.create_task(cancel())
            assert await task == "result"
            await canceller
            assert counts == [0, 2, 2, 1, 0]

    run(main())


def test_a_step_suspended_in_finally_is_cancelled(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            seen: list[str] = []
            in_finally: list[bool] = []
            cancelled: list[bool] = []

            async def hog() -> None:
                try:
                    await asyncio.sleep(0)
                    raise KeyError("first")
                finally:
                    in_finally.append(True)
                    spin_until(lambda: cancelled)
                    spin_until(other.passed())
                    seen.append("cleaned up")
                    try:
                        await asyncio.sleep(0)
                    finally:
                        seen.append("after the await")

            task = asyncio.create_task(hog())
            while not in_finally:
                await asyncio.sleep(0)
            task.cancel()
            cancelled.append(True)
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert isinstance(caught.value.__context__, KeyError)
            assert seen == ["cleaned up", "after the await"]

    run(main())


def test_gather_with_suspended_members(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            failed: list[bool] = []

            async def hog(number: int) -> int:
                spin_until(lambda: failed)
                spin_until(other.passed())
                return number

            async def fail() -> None:
                failed.append(True)
                raise ArithmeticError("member")

            results = await asyncio.gather(hog(1), fail(), hog(2), return_exceptions=True)
            assert results[0] == 1 and results[2] == 2
            assert isinstance(results[1], ArithmeticError)
            failed.clear()
            hogs = [asyncio.create_task(hog(number)) for number in (3, 4)]
            with pytest.raises(ArithmeticError):
                await asyncio.gather(*hogs, fail())
            assert await asyncio.gather(*hogs) == [3, 4]
            failed.clear()
            done, pending = await asyncio.wait(
                {asyncio.create_task(hog(5)), asyncio.create_task(fail())},
                return_when=asyncio.FIRST_EXCEPTION,
            )
            assert len(done) >= 1
            for task in pending:
                assert await task == 5
            for task in done:
                task.exception()

    run(main())


def test_groups_in_groups(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with Other() as other:
            failed: list[bool] = []
            ended: list[int] = []

            async def hog(number: int) -> None:
                spin_until(lambda: failed)
                spin_until(other.passed())
                try:
                    await asyncio.sleep(3600)
                finally:
                    ended.append(number)

            async def inner() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(hog(1))
                    group.create_task(hog(2))

            async def fail() -> None:
                await asyncio.sleep(0)
                failed.append(True)
                raise ArithmeticError("member")

            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(inner())
                    group.create_task(fail())
            assert [type(exc) for exc in caught.value.exceptions] == [ArithmeticError]
            assert sorted(ended) == [1, 2]
            await turns()

    run(main())


def test_introspection_of_suspended_tasks(run: Callable[..., Any]) -> None:
    async def main() -> None:
        released: list[bool] = []
        loop = asyncio.get_running_loop()

        async def hog() -> None:
            me = asyncio.current_task()
            spin_until(lambda: released)
            assert asyncio.current_task() is me
            assert asyncio.get_running_loop() is loop

        task = asyncio.create_task(hog(), name="hog")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert task in asyncio.all_tasks() and not task.done()
        assert asyncio.current_task() is not task
        assert task.get_name() == "hog"
        assert "running" in repr(task) or "pending" in repr(task)
        assert task.get_stack()[-1].f_code is hog.__code__
        with pytest.raises(asyncio.InvalidStateError):
            task.result()
        released.append(True)
        await task

    run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_hog(run: Callable[..., Any], number: int) -> None:
    ended: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        assert me is not None
        if number == signal.SIGTERM:
            loop.add_signal_handler(signal.SIGTERM, me.cancel)
        stop: list[bool] = []

        async def hog() -> None:
            try:
                spin_until(lambda: stop)
                await asyncio.sleep(3600)
            finally:
                ended.append("hog")

        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(hog())
                try:
                    await asyncio.sleep(3600)
                finally:
                    stop.append(True)
        finally:
            ended.append("main")

    expected = KeyboardInterrupt if number == signal.SIGINT else asyncio.CancelledError
    with pytest.raises(expected):
        run(main())
    assert ended == ["hog", "main"]
