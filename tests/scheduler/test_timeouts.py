"""hard_timeout and interrupt: exceptions into code that never awaits."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from clearway.scheduler import timeouts
from clearway.scheduler.critical import critical
from clearway.scheduler.timeouts import hard_timeout, interrupt

from .host import Host, run

MODES = ("off", "report", "io", "on")


def spin_for_ever() -> None:
    while True:
        pass


@pytest.mark.parametrize("mode", MODES)
def test_computing_code_is_cut_short(mode: str) -> None:
    async def main(host: Host) -> None:
        timeout = hard_timeout(0.01)
        with pytest.raises(TimeoutError, match="longer than"):
            async with timeout:
                spin_for_ever()
        assert timeout.expired
        with pytest.raises(TimeoutError), hard_timeout(0.01):
            spin_for_ever()
        assert host._scheduler.clock.alarm_ns == 0

    run(main, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_blocking_code_is_cut_short(mode: str) -> None:
    async def main(host: Host) -> None:
        lock = threading.Lock()
        lock.acquire()
        with pytest.raises(TimeoutError), hard_timeout(0.01):
            lock.acquire()
        with pytest.raises(TimeoutError):
            async with hard_timeout(0.01):
                time.sleep(1000)

    run(main, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_await_is_cut_short(mode: str) -> None:
    async def main(host: Host) -> None:
        with pytest.raises(TimeoutError):
            async with hard_timeout(0.01):
                await host.create_future()
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    run(main, mode=mode)


def test_what_ends_in_time_is_left_alone() -> None:
    async def main(host: Host) -> None:
        async with hard_timeout(1000):
            await asyncio.sleep(0)
        with hard_timeout(None):
            pass
        assert host._scheduler.clock.alarm_ns == 0
        assert not host._scheduler._interrupts

    run(main)


def test_a_suspended_step_is_cut_short_while_others_compute() -> None:
    async def main(host: Host) -> None:
        out: list[str] = []

        async def limited() -> None:
            try:
                async with hard_timeout(0.02):
                    spin_for_ever()
            except TimeoutError:
                out.append("timeout")

        async def hog() -> None:
            while not out:
                pass

        await asyncio.gather(*(asyncio.create_task(each()) for each in (limited, hog, hog)))
        assert out == ["timeout"]

    run(main)


def test_finally_and_exit_are_finished_first() -> None:
    async def main(host: Host) -> None:
        steps: list[str] = []

        class Manager:
            def __enter__(self) -> None:
                pass

            def __exit__(self, *_: Any) -> None:
                late()
                steps.append("exit finished")

        timeout_ns = 5_000_000

        def late() -> None:
            # Well past the alarm: had it been let in, what follows would be missing.
            end = time.monotonic_ns() + 10 * timeout_ns
            while time.monotonic_ns() < end:
                pass

        with pytest.raises(TimeoutError), hard_timeout(timeout_ns / 1e9):
            try:
                pass
            finally:
                late()
                steps.append("finally finished")
            spin_for_ever()
        with pytest.raises(TimeoutError), hard_timeout(timeout_ns / 1e9):
            with Manager():
                pass
            spin_for_ever()
        assert steps == ["finally finished", "exit finished"]

    run(main)


def test_a_critical_section_is_finished_first() -> None:
    async def main(host: Host) -> None:
        done: list[bool] = []
        with pytest.raises(TimeoutError), hard_timeout(0.005):
            with critical():
                end = time.monotonic() + 0.05
                while time.monotonic() < end:
                    pass
                done.append(True)
            spin_for_ever()
        assert done

    run(main)


def test_nested_timeouts() -> None:
    async def main(host: Host) -> None:
        with pytest.raises(TimeoutError, match=r"0\.01 s"), hard_timeout(1000), hard_timeout(0.01):
            spin_for_ever()
        with pytest.raises(TimeoutError, match=r"0\.01 s"), hard_timeout(0.01), hard_timeout(1000):
            spin_for_ever()

    run(main)


def test_interrupt_a_suspended_task() -> None:
    class Stop(Exception):
        pass

    async def main(host: Host) -> None:
        async def hog() -> None:
            spin_for_ever()

        task = asyncio.create_task(hog())
        while not host._scheduler.is_suspended(task):
            await asyncio.sleep(0)
        interrupt(task, Stop("now"))
        with pytest.raises(Stop, match="now"):
            await task

    run(main)


def test_interrupt_a_waiting_task() -> None:
    async def main(host: Host) -> None:
        async def waiter() -> None:
            await host.create_future()

        task = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        interrupt(task, LookupError)
        with pytest.raises(LookupError):
            await task
        with pytest.raises(RuntimeError, match="done"):
            interrupt(task, LookupError)
        with pytest.raises(TypeError):
            interrupt(asyncio.current_task(), "text")  # type: ignore[arg-type]
        with pytest.raises(LookupError):
            interrupt(asyncio.current_task(), LookupError)

    run(main)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="negative"):
        hard_timeout(-1)

    async def on_asyncio() -> None:
        with pytest.raises(RuntimeError, match="clearway"), hard_timeout(1):
            pass

    asyncio.run(on_asyncio())

    async def twice(host: Host) -> None:
        timeout = hard_timeout(1)
        with timeout, pytest.raises(RuntimeError, match="twice"):
            timeout.__enter__()

    run(twice)


def test_outside_the_main_thread_it_says_why_it_cannot() -> None:
    out: list[str] = []

    async def main(host: Host) -> None:
        try:
            with hard_timeout(1):
                pass
        except RuntimeError as error:
            out.append(str(error))

    thread = threading.Thread(target=lambda: run(main, mode="report"))
    thread.start()
    thread.join()
    assert len(out) == 1 and "main thread" in out[0]


def test_cleaning_up_lines_are_found() -> None:
    source = "try:\n    a\nexcept E:\n    b\n    c\nelse:\n    d\nfinally:\n    e\n    if f:\n        g\nh\n"
    assert timeouts._find_cleanup_lines(source) == {4, 5, 9, 10, 11}
    assert timeouts._find_cleanup_lines("not python") == frozenset()
