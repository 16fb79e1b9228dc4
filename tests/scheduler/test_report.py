"""Reports of stalled steps and of critical sections that take too long."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator

import pytest

from clearway.scheduler.critical import critical
from clearway.scheduler.report import StallReport, reporter
from clearway.scheduler.statistics import Histogram

from .host import Host, run


@pytest.fixture
def reports() -> Iterator[list[StallReport]]:
    got: list[StallReport] = []
    reporter.forget_places()
    reporter.hooks.append(got.append)
    yield got
    reporter.hooks.remove(got.append)


def hold_up(reports: list[StallReport], count: int = 1) -> None:
    while len(reports) < count:
        pass


def test_a_computing_step_is_reported_with_its_stack(
    reports: list[StallReport], caplog: pytest.LogCaptureFixture
) -> None:
    async def main(host: Host) -> None:
        asyncio.current_task().set_name("the culprit")  # type: ignore[union-attr]
        hold_up(reports)

    run(main, mode="report", report_after=0.02)
    (report,) = reports
    assert report.task == "the culprit"
    assert report.seconds >= 0.02
    assert "hold_up" in report.stack[-1]
    assert "in main" in report.stack[-2]
    assert not any("run_forever" in line for line in report.stack)
    assert "the culprit" in caplog.text and "while len(reports)" in caplog.text


def test_a_blocking_call_is_reported(reports: list[StallReport]) -> None:
    async def main(host: Host) -> None:
        lock = threading.Lock()
        lock.acquire()
        reporter.hooks.append(lambda _: lock.release())
        try:
            lock.acquire()
        finally:
            reporter.hooks.pop()

    run(main, mode="report", report_after=0.02)
    assert "lock.acquire()" in reports[0].stack[-1]


def test_native_code_that_holds_the_gil_is_seen_on_return(reports: list[StallReport]) -> None:
    async def main(host: Host) -> None:
        # Usually the first try; on a busy machine the step may be over before its stack can be read.
        while not any("re.match" in str(report) for report in reports):
            re.match("(?:a|aa)+$", "a" * 29 + "b")
            await asyncio.sleep(0)

    run(main, mode="report", report_after=0.005)


def test_each_place_is_reported_once(reports: list[StallReport]) -> None:
    async def main(host: Host) -> None:
        one_place = threading.Lock()
        one_place.acquire()
        for number in range(1, 4):
            while host._scheduler.reports < number:
                one_place.acquire(timeout=0.05)
                await asyncio.sleep(0)

    run(main, mode="report", report_after=0.02)
    # The end of an earlier test's stall may still arrive.
    assert len([report for report in reports if "one_place" in str(report)]) == 1


def test_a_loop_in_another_thread_is_reported(reports: list[StallReport]) -> None:
    async def main(host: Host) -> None:
        hold_up(reports)

    thread = threading.Thread(target=lambda: run(main, mode="report", report_after=0.02))
    thread.start()
    thread.join()
    assert "hold_up" in reports[0].stack[-1]


def test_short_steps_are_not_reported(reports: list[StallReport]) -> None:
    async def main(host: Host) -> None:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            await asyncio.sleep(0)

    run(main, mode="report", report_after=10.0)
    assert not reports


def test_a_step_that_could_not_be_suspended_is_reported_with_the_rule(
    reports: list[StallReport],
) -> None:
    async def main(host: Host) -> None:
        host.call_soon(lambda: None)
        with critical():
            hold_up(reports)

    run(main, mode="on", report_after=0.02)
    assert reports[0].rule.startswith("U2")


def test_a_step_that_holds_up_nobody_is_not_reported(reports: list[StallReport]) -> None:
    async def main(host: Host) -> None:
        while host._scheduler.declined[0] < 200:
            pass

    run(main, mode="on", quantum=0.001, report_after=0.1)
    assert not reports


def test_a_long_critical_section_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    @critical(maximum=0.001)
    def section() -> str:
        time.sleep(0.005)
        return "result"

    assert section() == "result"
    assert "critical section" in caplog.text
    caplog.clear()

    class Owner:
        @critical
        def method(self) -> str:
            return f"method of {type(self).__name__}"

    assert Owner().method() == "method of Owner"
    assert caplog.text == ""


def test_histogram() -> None:
    histogram = Histogram()
    assert histogram.percentile(0.5) == 0.0
    for value in range(1, 1001):
        histogram.add(value * 1000)
    assert histogram.count == 1000
    assert histogram.percentile(0.5) == pytest.approx(500e-6, rel=0.125)
    assert histogram.percentile(0.99) == pytest.approx(990e-6, rel=0.125)
    assert histogram.percentile(1.0) == pytest.approx(1000e-6, rel=0.001)
