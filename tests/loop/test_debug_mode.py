"""Debug mode finds blocking calls by their line, and coroutines that nobody awaited by where they were made."""

from __future__ import annotations

import asyncio
import gc
import linecache
import threading
import time
import warnings

import pytest

from clearway.scheduler.report import reporter

from ..support.loops import in_thread, run
from ..support.net import settle


@pytest.fixture
def reports():
    got = []
    reporter.forget_places()
    reporter.hooks.append(got.append)
    yield got
    reporter.hooks.remove(got.append)


def block_until(condition):
    """Block the loop's thread, in calls that let the reporting thread run, until it has been reported."""
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("mode", ["off", "report", "io"])
def test_a_blocking_call_is_reported_with_its_line(clearway_factory, reports, mode):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.005
        asyncio.current_task().set_name("the culprit")
        block_until(lambda: reports)
        loop.slow_callback_duration = 0.1

    run(clearway_factory, main, preempt=mode, debug=True)
    assert reports[0].task == "the culprit"
    assert "time.sleep" in reports[0].stack[-1] or "block_until" in reports[0].stack[-1]
    assert "test_debug_mode.py" in reports[0].stack[-1]


def test_debug_mode_can_be_switched_while_the_loop_runs(clearway_factory, reports):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.005
        time.sleep(0.02)
        await settle()
        assert not reports, "mode off reports nothing"
        loop.set_debug(True)
        await settle()
        block_until(lambda: reports)
        await in_thread(loop.set_debug, False)
        await settle()
        del reports[:]
        reporter.forget_places()
        await settle()
        time.sleep(0.02)
        await settle()
        assert not reports
        loop.slow_callback_duration = float("inf")
        loop.set_debug(True)
        loop.set_debug(False)

    run(clearway_factory, main, preempt="off")


def test_a_time_limit_holds_while_debug_mode_comes_and_goes(clearway_factory):
    import clearway

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with pytest.raises(TimeoutError), clearway.hard_timeout(0.01):
            loop.set_debug(False)
            while True:
                pass

    run(clearway_factory, main, preempt="off")


def test_a_suspended_step_is_not_called_slow(clearway_factory, caplog):
    async def main():
        asyncio.get_running_loop().slow_callback_duration = 0.01
        seen = threading.Event()

        async def tick():
            await asyncio.sleep(0.02)
            seen.set()

        task = asyncio.create_task(tick())
        seen.wait()
        await task

    run(clearway_factory, main, preempt="on", debug=True)
    assert "Executing" not in caplog.text


@pytest.mark.parametrize("mode", ["off", "report", "on"])
def test_a_coroutine_that_nobody_awaits_is_found_where_it_was_made(factory, mode):
    async def forgotten():
        pass

    async def main():
        asyncio.get_running_loop().set_debug(True)
        await settle()  # asyncio begins to track in a step of its own
        forgotten()  # where it was made
        gc.collect()

    options = {"preempt": mode} if factory.is_clearway else {}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run(factory, main, **options)
    (text,) = (str(w.message) for w in seen if "never awaited" in str(w.message))
    lines = [line for line in linecache.getlines(__file__) if "# where it was made" in line]
    assert lines[0].strip() in text, text
