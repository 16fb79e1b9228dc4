"""Who ran when: spans on any loop, slices on one that preempts."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest

import clearway
from clearway.observe.timeline import Timeline
from clearway.scheduler.preemption import refusal


def test_a_span_is_one_slice_where_nothing_is_suspended() -> None:
    timeline = Timeline()

    async def main() -> None:
        assert not timeline.attach(asyncio.get_running_loop())
        with timeline.span("outer"), timeline.span("inner"):
            pass

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
    inner, outer = timeline.slices
    assert (inner.name, inner.number, outer.name, outer.number) == ("inner", 2, "outer", 1)
    assert outer.began_ns <= inner.began_ns <= inner.ended_ns <= outer.ended_ns


def test_switches_cut_a_span_into_slices() -> None:
    """With a scheduler that is played by hand."""
    timeline = Timeline()
    heard: list[str] = []
    scheduler = SimpleNamespace(on_switch=lambda kind, entry, now_ns: heard.append(kind))
    loop: Any = SimpleNamespace(_scheduler=scheduler)
    assert timeline.attach(loop)
    with pytest.raises(RuntimeError, match="detach"):
        timeline.attach(loop)
    other = SimpleNamespace(task="other", waits=True, used_ns=5, name=lambda: "a callback")
    own = SimpleNamespace(task=None, waits=False, used_ns=0, name=lambda: "unused")
    before = time.monotonic_ns()
    with timeline.span("mine"):
        now = time.monotonic_ns()
        scheduler.on_switch("suspend", own, now)
        scheduler.on_switch("suspend", other, now + 7)
        scheduler.on_switch("resume", other, now + 8)
        scheduler.on_switch("finish", other, now + 9)
        scheduler.on_switch("resume", own, now + 10)
    first, stray, stray_end, last = timeline.slices
    assert before <= first.began_ns <= first.ended_ns == now
    assert (stray.name, stray.number, stray.waits) == ("a callback", 0, True)
    assert (stray.began_ns, stray.ended_ns) == (now + 2, now + 7)
    assert (stray_end.began_ns, stray_end.ended_ns) == (now + 8, now + 9)
    assert (last.name, last.number, last.began_ns) == ("mine", 1, now + 10)
    assert heard == ["suspend", "suspend", "resume", "finish", "resume"]
    mine = scheduler.on_switch
    timeline.detach()
    assert scheduler.on_switch is not mine


def test_over_the_limit_slices_are_counted() -> None:
    timeline = Timeline(limit=1)
    for _ in range(3):
        with timeline.span("x"):
            pass
    assert (len(timeline.slices), timeline.lost) == (1, 2)
    with pytest.raises(ValueError, match="at least 1"):
        Timeline(limit=0)


@pytest.mark.skipif(refusal("on") is not None, reason=str(refusal("on")))
def test_two_hogs_take_turns() -> None:
    timeline = Timeline()
    turns: list[str] = []

    async def hog(name: str) -> None:
        with timeline.span(name):
            # Until the other has had the thread as well: no figure of the clock decides.
            while len(set(turns[:-1])) < 2:
                turns.append(name)
                del turns[:-1000]
                sum(range(1000))

    async def main() -> None:
        timeline.attach(asyncio.get_running_loop())
        async with asyncio.TaskGroup() as group:
            group.create_task(hog("a"))
            group.create_task(hog("b"))

    clearway.run(main(), preempt="on", quantum=0.001, engine="epoll")
    assert {item.name for item in timeline.slices if item.number} == {"a", "b"}
    ordered = sorted(timeline.slices, key=lambda item: item.began_ns)
    for earlier, later in itertools.pairwise(ordered):
        assert earlier.ended_ns <= later.began_ns
