"""Tests of pytest-asyncio and anyio on clearway: what ``pytest --clearway-loop`` adds.

Each of the two has a way to be told its loops: pytest-asyncio a hook (since 1.4), anyio the fixture
``anyio_backend``. A test suite that defines that fixture itself keeps its own.

The module is a plugin of pytest, registered only when the option is given.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import clearway
from clearway.loop.options import ENGINES

Factories = Mapping[str, Callable[[], clearway.EventLoop]]

_FACTORIES = pytest.StashKey[Factories]()


def install(config: pytest.Config, engines: str) -> None:
    """Have async tests run on clearway in this session.

    :param engines: names as for ``clearway.new_event_loop``, separated by commas; with several, every test
        runs once on each.
    :raises pytest.UsageError: an unknown engine.
    """
    factories: dict[str, Callable[[], clearway.EventLoop]] = {}
    for engine in engines.split(","):
        if engine not in ENGINES:
            raise pytest.UsageError(
                f"--clearway-loop: unknown engine {engine!r}; there are: {', '.join(ENGINES)}"
            )
        name = "clearway" if engine == "auto" else f"clearway-{engine}"
        factories[name] = functools.partial(clearway.new_event_loop, engine=engine)
    config.stash[_FACTORIES] = factories
    config.pluginmanager.register(sys.modules[__name__], "clearway-loops")


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    # Ours alone makes it a hook; it has a specification when pytest-asyncio knows it.
    known = plugins.hook.pytest_asyncio_loop_factories.has_spec()
    if plugins.hasplugin("asyncio") and not known:
        raise pytest.UsageError(
            "--clearway-loop needs pytest-asyncio 1.4 or newer, which can be told its loop; "
            "or leave it out: -p no:asyncio"
        )


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: pytest.Config) -> Factories:
    return config.stash[_FACTORIES]


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that asks for our `anyio_backend` once on each loop."""
    # The last definition is the one that counts, and a test suite's own comes after ours.
    definitions = metafunc._arg2fixturedefs.get("anyio_backend")
    if definitions and definitions[-1].func.__module__ == __name__:
        factories = metafunc.config.stash[_FACTORIES]
        metafunc.parametrize(
            "anyio_backend",
            [("asyncio", {"loop_factory": factory}) for factory in factories.values()],
            ids=list(factories),
            scope="module",
            indirect=True,
        )


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """anyio's backend and its options."""
    return request.param
