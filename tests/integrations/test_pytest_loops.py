"""`pytest --clearway-loop`, in a pytest of its own, with pytest-asyncio and anyio as its users have them."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loops import Factory
from tests.support.programs import environment

BOTH = """
import asyncio
import pytest
import pytest_asyncio

def name():
    return getattr(asyncio.get_running_loop(), "engine_name", "asyncio")

@pytest_asyncio.fixture
async def loop_of_fixture():
    yield asyncio.get_running_loop()

@pytest.mark.asyncio
async def test_of_pytest_asyncio(loop_of_fixture):
    assert loop_of_fixture is asyncio.get_running_loop()
    print("pytest-asyncio", name())

@pytest.fixture
async def anyio_fixture(anyio_backend):
    yield asyncio.get_running_loop()

@pytest.mark.anyio
async def test_of_anyio(anyio_fixture):
    assert anyio_fixture is asyncio.get_running_loop()
    print("anyio", name())

def test_without_a_loop():
    pass
"""


def run_pytest(directory: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(source)
    names = {point.value for point in importlib.metadata.entry_points(group="pytest11")}
    if "clearway.testing.plugin" not in names:
        options = ("-p", "clearway.testing.plugin", *options)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *options],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def loops(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Which plugin's tests ran on which loop."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.lstrip(".") for line in done.stdout.splitlines()]
    return sorted(line for line in lines if line.startswith(("pytest-asyncio ", "anyio ")))


def test_both_plugins_run_on_an_engine(clearway_factory: Factory, tmp_path: Path) -> None:
    engine = clearway_factory.name
    done = run_pytest(tmp_path, BOTH, f"--clearway-loop={engine}")
    assert loops(done) == [f"anyio {engine}", f"pytest-asyncio {engine}"]
    assert "3 passed" in done.stdout


def test_with_several_engines_every_async_test_runs_on_each(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, BOTH, "--clearway-loop=epoll,selector")
    assert loops(done) == [
        *("anyio epoll", "anyio selector", "pytest-asyncio epoll", "pytest-asyncio selector"),
    ]
    assert "5 passed" in done.stdout


def test_without_the_option_nothing_changes(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, BOTH, "-k", "not trio")
    assert loops(done) == ["anyio asyncio", "pytest-asyncio asyncio"]


def test_a_suite_that_chooses_its_own_backend_keeps_it(tmp_path: Path) -> None:
    own = '@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'
    done = run_pytest(tmp_path, f"{BOTH}\n{own}", "--clearway-loop=epoll")
    assert loops(done) == ["anyio asyncio", "pytest-asyncio epoll"]


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, BOTH, "--clearway-loop=kqueue")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "unknown engine 'kqueue'" in done.stderr


def test_a_pytest_asyncio_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    # In its place a plugin of that name without the hook.
    options = ("-p", "no:asyncio", "--clearway-loop=epoll")
    (tmp_path / "conftest.py").write_text(
        "import types\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.unblock('asyncio')\n"
        "    config.pluginmanager.register(types.ModuleType('older'), 'asyncio')\n"
    )
    done = run_pytest(tmp_path, "def test_it(): pass", *options)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "needs pytest-asyncio 1.4" in done.stdout + done.stderr
