"""Mixed real work gives the same results when it is suspended at thousands of arbitrary instructions.

What work: ``tests/scheduler/work``. ``CLEARWAY_SUSPENSIONS`` sets how many suspensions are made (default 20,000; a
million takes minutes), ``CLEARWAY_WORK`` restricts the work to the names in it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from clearway.scheduler.preemption import refusal

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

from clearway.testing import shuffle

from .work import ALL

SUSPENSIONS = int(os.environ.get("CLEARWAY_SUSPENSIONS", "20000"))
NAMES = os.environ.get("CLEARWAY_WORK", "").split() or sorted(ALL)

#: Runs that must do it, at the most: fewer suspensions than expected are a finding, not a reason to go on.
RUNS_MAX = max(SUSPENSIONS // 100, 10)
WORKERS = 4


async def everything(expected: dict[tuple[str, int], Any] | None) -> dict[tuple[str, int], Any]:
    """All kinds of work, by several workers that each begin elsewhere."""
    results: dict[tuple[str, int], Any] = {}

    async def worker(number: int) -> None:
        task = asyncio.current_task()
        for offset in range(len(NAMES)):
            name = NAMES[(number * len(NAMES) // WORKERS + offset) % len(NAMES)]
            result = await ALL[name](number + 1)
            assert asyncio.current_task() is task, name
            if expected is not None:
                assert result == expected[name, number], name
            results[name, number] = result

    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(worker(number))
    return results


@pytest.mark.limit(60 + SUSPENSIONS / 200)
def test_results_do_not_depend_on_suspensions() -> None:
    expected = asyncio.run(everything(None))
    assert len(expected) == WORKERS * len(NAMES)
    made = runs = 0
    while made < SUSPENSIONS:
        assert runs < RUNS_MAX, f"{made} suspensions in {runs} runs"
        report = shuffle(lambda: everything(expected), runs=1, seed=runs, gap=12, record=False)
        made += report.suspensions
        runs += 1
