"""Scenarios as tests: each runs on asyncio, uring and epoll in one test, and the traces are compared."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ...conftest import usable_factories
from ...support.loops import Factory


@pytest.fixture(scope="session")
def factories() -> list[Factory]:
    """asyncio first, then the engines that work here; skips where none does."""
    found = usable_factories()
    if len(found) < 2:
        pytest.skip("no engine of clearway works here")
    return found


@pytest.fixture(scope="module", autouse=True)
def old_objects_aside() -> Iterator[None]:
    """Every scenario ends with a collection; that of the whole of pytest would take longer than the scenario."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
