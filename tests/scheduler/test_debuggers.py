"""Debuggers, tracers, profilers, coverage and asyncio's debug mode in a program whose steps are suspended.

What follows one stack (trace and profile functions, pdb, cProfile) is never given two: while it watches, no step
is suspended. What does not (coverage by sys.monitoring, debug mode) works while steps are.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import pathlib
import pstats
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from clearway.scheduler.preemption import refusal
from tests.support.loops import Factory
from tests.support.programs import environment

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

#: Rounds that take a few slices of 0.5 ms.
ROUNDS = 40_000


def run(factory: Factory, main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    loop = factory(preempt="on", quantum=0.0005)
    with asyncio.Runner(loop_factory=lambda: loop, **options) as runner:
        return runner.run(main)


def suspensions() -> int:
    loop: Any = asyncio.get_running_loop()
    return int(loop.statistics().scheduler.suspensions)


async def until_suspended() -> None:
    """Compute beside another that does until a step has been suspended."""
    before = suspensions()

    async def compute() -> None:
        while suspensions() == before:
            pass

    await asyncio.gather(compute(), compute())


def helper(number: int) -> int:
    return number + 1


def work(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += helper(number)
    return total


class Nesting:
    """A trace or profile function that insists on what its kind relies on: who returns was called last."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.wrong: list[str] = []
        self.seen = 0

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        self.seen += 1
        if event == "call":
            self.stack.append(frame)
        elif event == "return" and self.stack:
            if self.stack.pop() is not frame:
                self.wrong.append(frame.f_code.co_name)
        return self


@pytest.mark.parametrize("install", [sys.settrace, sys.setprofile], ids=["settrace", "setprofile"])
def test_calls_and_returns_nest_while_others_compute(
    clearway_factory: Factory, install: Callable[[Any], None]
) -> None:
    async def main() -> None:
        await until_suspended()
        watch = Nesting()

        async def watched() -> None:
            install(watch)
            try:
                work(ROUNDS // 4)
            finally:
                install(None)

        before = suspensions()

        async def beside() -> None:
            work(ROUNDS)

        await asyncio.gather(beside(), watched(), beside(), watched())
        assert suspensions() > before  # of those who were not watched
        assert watch.seen > ROUNDS // 4
        assert not watch.wrong

    run(clearway_factory, main())


def test_cprofile_attributes_calls_to_their_callers(clearway_factory: Factory) -> None:
    async def main() -> None:
        profile = cProfile.Profile()

        async def one() -> None:
            work(ROUNDS)

        async def other() -> None:
            for _ in range(ROUNDS):
                abs(helper(1))

        await until_suspended()
        profile.enable()
        before = suspensions()
        await asyncio.gather(one(), other(), one(), other())
        during = suspensions() - before
        profile.disable()
        await until_suspended()
        stats: Any = pstats.Stats(profile)
        found = {key[2]: value for key, value in stats.stats.items()}
        assert found["helper"][0] == 4 * ROUNDS
        callers = {key[2]: value[0] for key, value in found["helper"][4].items()}
        assert callers == {"work": 2 * ROUNDS, "other": 2 * ROUNDS}
        assert {key[2] for key in found["work"][4]} == {"one"}
        assert during == 0

    run(clearway_factory, main())


PROGRAM = """
import asyncio, sys
import clearway

def helper(number):
    return number + 1

def never():
    return "never called"

def compute(name, stops):
    total = 0
    for number in range(60_000):
        if stops and number == 30_000:
            breakpoint()
            first = number
            second = first + 1
        total = helper(total)
    return total

async def hog(name, stops=False):
    assert compute(name, stops) == 60_000

async def main():
    await asyncio.gather(hog("one"), hog("two", "stop" in sys.argv), hog("three"))
    print("suspended", asyncio.get_running_loop().statistics().scheduler.suspensions > 0)
    print("finished")

clearway.run(main(), preempt="on", quantum=0.0005, engine=sys.argv[1])
"""


@pytest.fixture
def program(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def child(
    cwd: pathlib.Path, *arguments: str, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(**variables),
        input=typed,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_pdb_stays_with_the_step_that_stopped(
    clearway_factory: Factory, program: pathlib.Path
) -> None:
    """`next` goes to the next line of the same step, and after `continue` steps are suspended again."""
    typed = "p name\nn\nn\nn\np 'values', first, second\nw\nc\n"
    done = child(program.parent, program.name, clearway_factory.name, "stop", typed=typed)
    assert done.returncode == 0, done.stderr
    assert "'two'" in done.stdout
    assert "('values', 30000, 30001)" in done.stdout
    assert "suspended True" in done.stdout
    assert done.stdout.endswith("finished\n")


def test_a_program_under_pdb(clearway_factory: Factory, program: pathlib.Path) -> None:
    arguments = ["-m", "pdb", "-c", "b never", "-c", "c", program.name, clearway_factory.name]
    done = child(program.parent, *arguments, typed="q\n")
    assert "finished" in done.stdout, done.stdout + done.stderr


CORES = ["ctrace", "sysmon"] if sys.version_info >= (3, 12) else ["ctrace"]


@pytest.mark.parametrize("core", CORES)
def test_coverage_sees_what_ran(
    clearway_factory: Factory, program: pathlib.Path, core: str
) -> None:
    pytest.importorskip("coverage")
    done = child(
        program.parent,
        *("-m", "coverage", "run", program.name, clearway_factory.name),
        COVERAGE_CORE=core,
    )
    assert done.returncode == 0, done.stderr
    # A trace function follows one stack; sys.monitoring does not.
    assert f"suspended {core == 'sysmon'}\nfinished\n" in done.stdout
    child(program.parent, "-m", "coverage", "json", "-q", "-o", "seen.json")
    seen = json.loads((program.parent / "seen.json").read_text())["files"][program.name]
    lines = PROGRAM.splitlines()
    missing = [lines[number - 1].strip() for number in seen["missing_lines"]]
    assert missing == [
        'return "never called"',
        *("breakpoint()", "first = number", "second = first + 1"),
    ]


def test_debug_mode(clearway_factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert loop.get_debug()
        loop.slow_callback_duration = 10.0  # how long a step takes is up to the machine
        handles: list[Any] = []

        async def forgotten() -> None:
            pass

        async def hog() -> None:
            work(ROUNDS)
            handles.append(loop.call_soon(int))
            forgotten()  # type: ignore[unused-coroutine]
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                await asyncio.to_thread(loop.call_soon, int)
            await asyncio.sleep(0.001)

        with pytest.warns(RuntimeWarning, match="forgotten' was never awaited") as warned:
            await asyncio.gather(*(hog() for _ in range(3)))
        assert len(warned) == 3
        assert "Coroutine created at" in str(warned[0].message)
        assert suspensions() > 0
        # Each knows where it was made, however often its maker had been suspended.
        assert [handle._source_traceback[-1].name for handle in handles] == ["hog"] * 3

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(clearway_factory, main(), debug=True)
    assert not caplog.records
