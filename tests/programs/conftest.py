"""The services that the programs talk to: started once, on first use, and gone at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import services


def _service(name: str) -> Iterator[services.Address]:
    if not services.wanted(name):
        pytest.skip(f"{services.WITHOUT} leaves {name} out")
    with services.running(name) as address:
        yield address


@pytest.fixture(scope="session")
def postgresql() -> Iterator[services.Address]:
    """A PostgreSQL server; user and database are both called postgres, without a password."""
    yield from _service("postgresql")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.Address]:
    """A Redis server, empty at first. Tests take keys of their own."""
    yield from _service("redis")
