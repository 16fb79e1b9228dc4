"""call_soon, timers and calls from other threads: order, cancellation, memory."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..support.loops import caught_errors, in_thread, run
from ..support.net import settle


def test_call_soon_runs_in_the_order_of_the_calls(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        for number in range(1000):
            loop.call_soon(seen.append, number)
        assert not seen, "call_soon called at once"
        await asyncio.sleep(0)
        assert seen == list(range(1000))

    run(factory, main)


def test_a_call_made_by_a_callback_runs_in_the_next_turn(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        def first():
            seen.append("first")
            loop.call_soon(seen.append, "made by first")

        loop.call_soon(first)
        loop.call_soon(seen.append, "second")
        await asyncio.sleep(0)
        assert seen == ["first", "second"]
        await asyncio.sleep(0)
        assert seen == ["first", "second", "made by first"]

    run(factory, main)


def test_tasks_and_callbacks_share_one_order(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        async def task(number):
            seen.append(number)

        tasks = []
        for number in range(0, 20, 2):
            tasks.append(loop.create_task(task(number)))
            loop.call_soon(seen.append, number + 1)
        await asyncio.gather(*tasks)
        assert seen == list(range(20))

    run(factory, main)


def test_cancelled_call_soon_does_not_run(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        handles = [loop.call_soon(seen.append, number) for number in range(5)]
        handles[1].cancel()
        loop.call_soon(handles[3].cancel)  # too late: 3 has run by then
        assert handles[1].cancelled() and not handles[0].cancelled()
        await asyncio.sleep(0)
        assert seen == [0, 2, 3, 4]

    run(factory, main)


def test_a_callback_cancels_another_of_the_same_turn(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        handles = []
        loop.call_soon(lambda: handles[0].cancel())
        handles.append(loop.call_soon(seen.append, "never"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not seen

    run(factory, main)


def test_call_soon_keeps_the_context(factory):
    var = contextvars.ContextVar("var", default="outside")

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        other = contextvars.copy_context()
        other.run(var.set, "given")
        var.set("inherited")
        loop.call_soon(lambda: seen.append(var.get()))
        loop.call_soon(lambda: seen.append(var.get()), context=other)
        loop.call_later(0, lambda: seen.append(var.get()), context=other)
        loop.call_soon(lambda: var.set("a callback's own"))
        await settle()
        assert seen == ["inherited", "given", "given"]
        assert var.get() == "inherited"

    run(factory, main)


def test_timers_run_by_time_not_by_order_of_creation(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        now = loop.time()
        for delay in (0.03, 0.01, 0.02, 0.0, -1.0):
            loop.call_at(now + delay, seen.append, delay)
        done = loop.create_future()
        loop.call_at(now + 0.04, done.set_result, None)
        await done
        assert seen == [-1.0, 0.0, 0.01, 0.02, 0.03]

    run(factory, main)


def test_no_timer_runs_before_its_time(factory):
    async def main():
        loop = asyncio.get_running_loop()
        early = []

        def check(when):
            # The clock's resolution is what asyncio allows a timer to be early by.
            if loop.time() + time.get_clock_info("monotonic").resolution < when:
                early.append(when - loop.time())

        now = loop.time()
        done = loop.create_future()
        for step in range(50):
            loop.call_at(now + step * 0.0007, check, now + step * 0.0007)
        loop.call_at(now + 0.05, done.set_result, None)
        await done
        assert not early

    run(factory, main)


def test_timer_handle_tells_its_time_and_can_be_cancelled_twice(factory):
    async def main():
        loop = asyncio.get_running_loop()
        handle = loop.call_later(3600, print)
        assert 3590 < handle.when() - loop.time() <= 3600
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
        gone = loop.call_later(0, lambda: None)
        await settle()
        gone.cancel()  # after it ran: nothing happens

    run(factory, main)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 30)), min_size=1, max_size=40
    )
)
def test_timers_against_a_model(factory, plan):
    """Random delays; some cancelled at once, some by a timer that runs earlier."""

    async def main():
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        start = loop.time()
        handles = []
        whens = []
        for number, (tick, _, _) in enumerate(plan):
            whens.append(start + tick * 0.0005)
            handles.append(loop.call_at(whens[-1], seen.append, number))
        dropped = set()
        for number, (_, cancel, _) in enumerate(plan):
            if cancel:
                handles[number].cancel()
                dropped.add(number)
        done = loop.create_future()
        loop.call_at(start + 0.006, done.set_result, None)
        await done
        expected = sorted(set(range(len(plan))) - dropped, key=lambda number: whens[number])
        assert sorted(seen) == sorted(expected)
        assert [whens[number] for number in seen] == [whens[number] for number in expected]

    run(factory, main)


def test_cancelled_timers_are_forgotten(factory):
    """A time-out that is made and cancelled per request must not collect until it would be due."""

    async def main():
        loop = asyncio.get_running_loop()

        def some(count):
            for _ in range(count):
                loop.call_later(3600, print, bytes(1000)).cancel()

        some(2000)
        await settle()
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(20):
                some(1000)
                await asyncio.sleep(0)
            await settle()
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        # 20,000 timers of more than 1,000 bytes each: 20 MB if kept. asyncio keeps at most half
        # of the heap, and only up to 100 timers when few are live.
        assert grown < 400_000, f"{grown} bytes kept for cancelled timers"

    run(factory, main)


def test_a_chain_of_call_soon_starves_neither_timers_nor_io(factory):
    async def main():
        loop = asyncio.get_running_loop()
        chain: Any = None

        def again():
            nonlocal chain
            chain = loop.call_soon(again)

        again()
        await asyncio.sleep(0.001)
        await settle()
        chain.cancel()

    run(factory, main)


def test_call_soon_threadsafe_wakes_an_idle_loop(factory):
    async def main():
        loop = asyncio.get_running_loop()
        for number in range(200):
            answer = loop.create_future()
            # The thread calls at an arbitrary moment: before, while and after the loop goes to
            # sleep. A wake-up lost in that window is a hang, which the time limit turns red.
            thread = threading.Thread(
                target=loop.call_soon_threadsafe, args=(answer.set_result, number)
            )
            thread.start()
            assert await answer == number
            thread.join()

    run(factory, main)


def test_calls_of_many_threads_all_arrive_each_thread_in_order(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen: list[tuple[int, int]] = []

        def caller(who):
            for number in range(500):
                loop.call_soon_threadsafe(seen.append, (who, number))

        await asyncio.gather(*(in_thread(caller, who) for who in range(4)))
        await settle()
        assert len(seen) == 2000
        for who in range(4):
            assert [number for w, number in seen if w == who] == list(range(500))

    run(factory, main)


def test_run_coroutine_threadsafe(factory):
    async def main():
        loop = asyncio.get_running_loop()

        async def work(value):
            await asyncio.sleep(0)
            if value < 0:
                raise ValueError(value)
            return value + 1

        def outside():
            assert asyncio.run_coroutine_threadsafe(work(1), loop).result(20) == 2
            with pytest.raises(ValueError, match="-1"):
                asyncio.run_coroutine_threadsafe(work(-1), loop).result(20)

        await in_thread(outside)

    run(factory, main)


def test_an_exception_in_a_callback_is_reported_and_stops_nothing(factory):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        def broken(_):
            raise LookupError("boom")

        with caught_errors() as errors:
            loop.call_soon(broken, 1)
            loop.call_soon(seen.append, "next")
            loop.call_later(0, broken, 2)
            await settle()
        assert seen == ["next"]
        assert [type(context["exception"]) for context in errors] == [LookupError, LookupError]
        assert all("broken" in context["message"] for context in errors)
        assert not errors[0]["handle"].cancelled()
        assert errors[1]["handle"].when() <= loop.time()

    run(factory, main)


def test_handles_have_the_repr_people_know(factory):
    async def main():
        loop = asyncio.get_running_loop()
        soon = loop.call_soon(settle)
        later = loop.call_later(9, settle)
        assert "settle" in repr(soon) and "Handle" in repr(soon)
        assert "settle" in repr(later) and "when=" in repr(later)
        soon.cancel()
        later.cancel()
        assert "cancelled" in repr(soon) and "cancelled" in repr(later)

    run(factory, main)


def test_a_ready_callback_keeps_no_reference_after_it_ran(factory):
    async def main():
        import weakref

        class Thing:
            pass

        loop = asyncio.get_running_loop()
        thing = Thing()
        ref = weakref.ref(thing)
        loop.call_soon(id, thing)
        loop.call_later(0, id, thing)
        loop.call_later(3600, id, thing).cancel()
        del thing
        await settle()
        await settle()
        assert ref() is None

    run(factory, main)
