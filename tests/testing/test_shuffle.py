"""The shuffler finds what it promises to find, and the same again."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import Any

import pytest

import clearway
from clearway.scheduler.preemption import refusal

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

from clearway.testing import ShuffleFailure, shuffle, shuffled, shuffler


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        value = self.value
        self.value = self.plus_one(value)

    def plus_one(self, value: int) -> int:
        return value + 1


async def count(counter: Any, tasks: int = 3, rounds: int = 5) -> None:
    async def worker() -> None:
        for _ in range(rounds):
            counter.add()

    await asyncio.gather(*(worker() for _ in range(tasks)))
    if counter.value != tasks * rounds:  # not an assert: pytest would explain it, under suspensions
        raise AssertionError(f"{counter.value} instead of {tasks * rounds}")


def places(error: BaseException) -> list[tuple[int, int, str]]:
    report = error.clearway_shuffle  # type: ignore[attr-defined]
    return [(point.event, point.line, point.function) for point in report.points]


def find(**options: Any) -> AssertionError:
    with pytest.raises(AssertionError) as caught:
        shuffle(lambda: count(Counter()), **options)
    return caught.value


def test_a_lost_update_is_found() -> None:
    error = find(runs=200, seed=1)
    assert any("seed=" in note for note in error.__notes__)


def test_the_note_counts_suspensions_that_were_not_recorded() -> None:
    error = find(runs=200, seed=1, record=False)
    report: shuffler.ShuffleReport = error.clearway_shuffle  # type: ignore[attr-defined]
    assert not report.points
    assert 0 < report.suspensions_in_run <= report.suspensions
    assert f"after {report.suspensions_in_run} suspensions" in error.__notes__[-1]


def test_a_long_run_keeps_its_last_points(monkeypatch: pytest.MonkeyPatch) -> None:
    async def three() -> None:
        await asyncio.gather(*(count(Counter(), tasks=1) for _ in range(3)))

    def run() -> shuffler.ShuffleReport:
        return shuffle(three, runs=1, seed=5, gap=5)

    every = run()
    monkeypatch.setattr(shuffler, "POINTS_MAX", 7)
    assert len(every.points) == every.suspensions_in_run > 7
    assert [(p.event, p.line) for p in run().points] == [
        (p.event, p.line) for p in every.points[-7:]
    ]


@pytest.mark.parametrize("start", [0, 1000, 2000, 3000])
def test_the_seed_replays_the_very_failure(start: int) -> None:
    first = find(runs=200, seed=start)
    seed = first.clearway_shuffle.seed  # type: ignore[attr-defined]
    second = find(runs=1, seed=seed)
    assert places(second) == places(first)
    assert str(second) == str(first)


def test_another_seed_suspends_elsewhere() -> None:
    async def three() -> None:
        async def worker() -> None:
            counter = Counter()
            for _ in range(20):
                counter.add()

        await asyncio.gather(worker(), worker(), worker())

    points = []
    for seed in (1, 2):
        report = shuffle(three, runs=1, seed=seed, gap=20)
        assert report.points
        points.append([(point.event, point.line) for point in report.points])
    assert points[0] != points[1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_equal_seeds_give_equal_interleavings(seed: int) -> None:
    orders = []

    async def three() -> None:
        order: list[int] = []

        async def worker(number: int) -> None:
            for _ in range(30):
                order.append(number)
                Counter().add()

        await asyncio.gather(worker(0), worker(1), worker(2))
        orders.append(order)

    for _ in range(2):
        shuffle(three, runs=1, seed=seed, gap=15)
    # Each shuffle begins with a run without suspensions.
    plain, first, plain_again, second = orders
    assert plain == plain_again == sorted(plain)
    assert first == second != plain


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_clock_has_no_say(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def long_steps() -> list[int]:
        order: list[int] = []
        lock = threading.Lock()

        async def worker(number: int) -> None:
            for _ in range(3):
                for i in range(300):
                    if not i % 10:
                        order.append(number)
                with lock:
                    for _ in range(50):
                        pass
                await asyncio.sleep(0)

        await asyncio.gather(*(worker(number) for number in range(4)))
        return order

    outcomes = []
    # With the shortest slice there is, each step is over it several times; with the longest, none ever is.
    for slice_s in (0.0005, 1.0):
        monkeypatch.setattr(shuffler, "SLICE_S", slice_s)
        orders: list[list[int]] = []

        async def main(orders: list[list[int]] = orders) -> None:
            orders.append(await long_steps())

        report = shuffle(main, runs=1, seed=seed, gap=200)
        outcomes.append(([(point.event, point.line) for point in report.points], orders[-1]))
    assert outcomes[0] == outcomes[1]


def test_a_lock_cures_it() -> None:
    class Locked(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.lock = clearway.Lock()

        def add(self) -> None:
            with self.lock:
                super().add()

    report = shuffle(lambda: count(Locked()), runs=20, seed=1)
    assert report.suspensions > 20


def test_a_thread_lock_cures_it() -> None:
    class Locked(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def add(self) -> None:
            with self.lock:
                super().add()

    report = shuffle(lambda: count(Locked()), runs=20, seed=1)
    assert report.suspensions > 20


def test_a_critical_section_cures_it_and_is_never_entered_by_two() -> None:
    class Critical(Counter):
        def add(self) -> None:
            with clearway.critical():
                super().add()

    report = shuffle(lambda: count(Critical()), runs=20, seed=1)
    assert report.declined.get("U2", 0) > 0


def test_a_domain_cures_it() -> None:
    async def one_domain() -> None:
        with clearway.domain("counter"):
            await count(Counter())

    report = shuffle(one_domain, runs=20, seed=1)
    assert report.runs == 20


def test_what_fails_anyway_is_not_blamed_on_suspensions() -> None:
    async def wrong() -> None:
        raise LookupError("always")

    with pytest.raises(LookupError) as caught:
        shuffle(wrong, runs=5)
    assert caught.value.__notes__ == ["clearway.testing: it fails without any suspension as well"]


def test_a_standstill_is_a_failure_with_a_seed() -> None:
    stuck = False

    async def main() -> None:
        nonlocal stuck
        if stuck:
            await asyncio.get_running_loop().create_future()
        stuck = True

    with pytest.raises(TimeoutError) as caught:
        shuffle(main, runs=1, seed=77, timeout=0.01)
    assert "seed=77" in caught.value.__notes__[-1]


def test_refused_under_a_tracer() -> None:
    async def main() -> None:
        pass

    sys.settrace(lambda *_: None)
    try:
        with pytest.raises(ShuffleFailure, match="trace or profile"):
            shuffle(main, runs=1)
    finally:
        sys.settrace(None)


def test_refused_in_another_thread() -> None:
    caught: list[BaseException] = []

    async def main() -> None:
        pass

    def run() -> None:
        try:
            shuffle(main, runs=1)
        except ShuffleFailure as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


@pytest.mark.parametrize("options", [{"runs": 0}, {"gap": 0}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        shuffle(lambda: count(Counter()), **options)


def test_the_decorator_shuffles_and_passes_arguments() -> None:
    seen = []

    @shuffled(runs=3, seed=1)
    async def example(first: int, *, second: int) -> None:
        seen.append((first, second))

    example(1, second=2)
    assert seen == [(1, 2)] * 4
    with pytest.raises(TypeError, match="async function"):
        shuffled(len)


def test_nothing_is_left_behind() -> None:
    async def apart() -> None:
        await asyncio.gather(*(count(Counter(), tasks=1) for _ in range(3)))

    shuffle(apart, runs=1, seed=3)
    assert gc.isenabled()
    assert sys.gettrace() is None
    if sys.version_info >= (3, 12):
        assert [sys.monitoring.get_tool(tool) for tool in (3, 4)] == [None, None]
