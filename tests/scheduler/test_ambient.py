"""``with`` blocks that change something for everybody are not suspended, and stay what they are otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from clearway.scheduler import ambient
from clearway.scheduler._native import section_depth

from .test_critical import is_suspended_when_it_spins, run

__all__ = ["run"]

BLOCKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "catch_warnings": warnings.catch_warnings,
    "recorded": lambda: warnings.catch_warnings(record=True),
    "pytest.warns": lambda: pytest.warns(Warning),
    "redirect_stdout": lambda: contextlib.redirect_stdout(io.StringIO()),
    "redirect_stderr": lambda: contextlib.redirect_stderr(io.StringIO()),
    "chdir": lambda: contextlib.chdir("/"),
    "patch": lambda: unittest.mock.patch("sys.maxsize", 1),
    "patch.object": lambda: unittest.mock.patch.object(os, "sep", "!"),
    "patch.dict": lambda: unittest.mock.patch.dict(os.environ, {"A": "b"}),
}


def ambience() -> tuple[Any, ...]:
    return (
        *(list(warnings.filters), warnings.showwarning, sys.stdout, sys.stderr),
        *(os.getcwd(), sys.maxsize, os.sep, dict(os.environ)),
    )


@pytest.mark.parametrize("name", BLOCKS)
def test_the_block_is_not_suspended(name: str, run: Callable[..., Any]) -> None:
    async def main() -> None:
        before = ambience()
        block = BLOCKS[name]()
        with block:
            assert not is_suspended_when_it_spins()
            warnings.warn("for pytest.warns", stacklevel=1)
        assert section_depth() == 0
        assert is_suspended_when_it_spins()
        assert ambience() == before

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(main())


def test_nobody_prints_into_the_buffer_of_another(run: Callable[..., Any]) -> None:
    async def show(number: int) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as buffer:
            for _ in range(20):
                print(number)
                asyncio.get_running_loop()._scheduler.trip()  # type: ignore[attr-defined]
        return buffer.getvalue()

    async def main() -> None:
        shown = await asyncio.gather(*map(show, range(5)))
        assert shown == [f"{number}\n" * 20 for number in range(5)]

    run(main())


def test_a_block_that_is_used_again_and_nested(run: Callable[..., Any]) -> None:
    async def main() -> None:
        block = contextlib.redirect_stdout(io.StringIO())
        for _ in range(2):
            with block:
                with block:
                    assert section_depth() == 2
                assert section_depth() == 1
            assert section_depth() == 0

    run(main())


def test_a_block_that_cannot_be_entered_or_left(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError), contextlib.chdir("/absent"):
            pass
        with pytest.raises(AttributeError), unittest.mock.patch("sys.absent"):
            pass
        block = warnings.catch_warnings()
        with pytest.raises(RuntimeError, match="without entering"):
            block.__exit__(None, None, None)
        assert section_depth() == 0
        assert is_suspended_when_it_spins()

    run(main())


def test_an_await_in_the_block_lets_others_be_suspended(run: Callable[..., Any]) -> None:
    async def main() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            task = asyncio.create_task(asyncio.to_thread(int))
            other = asyncio.create_task(spinning())
            assert await other
            await task
            assert not is_suspended_when_it_spins()

    async def spinning() -> bool:
        return is_suspended_when_it_spins()

    run(main())


def test_a_block_that_another_task_leaves(run: Callable[..., Any]) -> None:
    """A fixture is entered in one task and left in another, which may be in a section of its own."""

    async def main() -> None:
        block = contextlib.redirect_stdout(io.StringIO())

        async def enter() -> None:
            block.__enter__()

        await asyncio.create_task(enter())
        assert is_suspended_when_it_spins()
        with warnings.catch_warnings():
            block.__exit__(None, None, None)
            assert section_depth() == 1
        assert section_depth() == 0

    run(main())


def test_blocks_around_the_run_count_for_nobody(run: Callable[..., Any]) -> None:
    out = io.StringIO()

    async def main() -> None:
        assert is_suspended_when_it_spins()
        print("into the buffer")

    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        run(main())
    assert out.getvalue() == "into the buffer\n"
    assert section_depth() == 0


@pytest.fixture(autouse=True)
def methods_are_put_back() -> Iterator[None]:
    before = [
        (cls, cls.__dict__["__enter__"], cls.__dict__["__exit__"]) for cls in ambient.blocks()
    ]
    yield
    for cls, enter, leave in before:
        assert (cls.__dict__["__enter__"], cls.__dict__["__exit__"]) == (enter, leave)


def test_modes_that_never_suspend_replace_nothing(run: Callable[..., Any]) -> None:
    async def main() -> None:
        assert not hasattr(warnings.catch_warnings.__enter__, "__wrapped__")
        with warnings.catch_warnings():
            assert section_depth() == 0

    for mode in ("off", "report", "io"):
        run(main(), preempt=mode)
