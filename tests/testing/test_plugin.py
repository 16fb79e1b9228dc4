"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clearway.scheduler.preemption import refusal

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

# Each starts an interpreter with all its plugins; the process has a time limit of its own.
pytestmark = pytest.mark.limit(180)

RACE = """
import asyncio
import pytest

class Counter:
    value = 0
    def add(self):
        value = self.value
        self.value = self.plus_one(value)
    def plus_one(self, value):
        return value + 1

@pytest.fixture
def counter():
    return Counter()

{marker}
async def test_race(counter):
    counter.value = 0
    async def worker():
        for _ in range(5):
            counter.add()
    await asyncio.gather(worker(), worker(), worker())
    assert counter.value == 15
"""


def run_pytest(directory: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(source)
    names = {point.value for point in importlib.metadata.entry_points(group="pytest11")}
    if "clearway.testing.plugin" not in names:
        options = ("-p", "clearway.testing.plugin", *options)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            *options,
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_marker_finds_the_race_and_the_option_replays_it(tmp_path: Path) -> None:
    source = RACE.format(marker="@pytest.mark.clearway_shuffle(runs=200)")
    done = run_pytest(tmp_path, source)
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.search(r"failed in run \d+ of 200, with seed=(\d+)", done.stdout)
    assert found, done.stdout
    again = run_pytest(tmp_path, source, "--clearway-shuffle=1", f"--clearway-seed={found[1]}")
    assert again.returncode == 1
    assert f"failed in run 1 of 1, with seed={found[1]}" in again.stdout


def test_the_option_shuffles_unmarked_async_tests(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, RACE.format(marker=""), "--clearway-shuffle")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"failed in run \d+ of 100", done.stdout), done.stdout


def test_a_marked_plain_test_is_an_error(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.clearway_shuffle\ndef test_plain(): pass\n"
    done = run_pytest(tmp_path, source)
    assert done.returncode == 1
    assert "is for async tests" in done.stdout
