"""Fixtures for all tests: the loops under test, and a time limit that makes a hang a failure."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from .support.loops import Factory

# How long an example takes is not what is tested: the machine may be busy.
settings.register_profile("clearway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clearway")

# Seconds for one test: a guard against hangs, not a bound on speed. The slowest ordinary test takes about one,
# on an idle machine.
LIMIT_S = 60.0
# When even the exception of the limit is not seen (native code that spins), the process ends with
# a dump of all stacks after this much more.
GRACE_S = 30.0


class Hang(SystemExit):
    """A test ran over its limit.

    A SystemExit because that is what passes through tasks and callbacks instead of being stored
    or reported by them, and what pytest counts as a failure of this one test.
    """


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background by a shell, which has it ignored: Ctrl-C is what some tests are about.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: takes more than a few seconds (builds, 10,000 peers)")
    config.addinivalue_line("markers", "limit(seconds): time limit of this test instead of 60 s")
    # pytest has already put a file in the place of descriptor 2; a dump must reach the terminal.
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        config.stash[_TERMINAL] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    faulthandler.cancel_dump_traceback_later()
    terminal = config.stash.get(_TERMINAL, None)
    if terminal is not None:
        os.close(terminal)


_TERMINAL = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("limit")
    limit = float(marker.args[0]) if marker else LIMIT_S

    def over(*_: Any) -> None:
        raise Hang(f"{item.nodeid} took more than {limit:g} s")

    before = signal.signal(signal.SIGALRM, over)
    faulthandler.dump_traceback_later(limit + GRACE_S, exit=True, file=item.config.stash[_TERMINAL])
    # Repeated, so that one limit swallowed by a bare `except` is not the last word.
    signal.setitimer(signal.ITIMER_REAL, limit, 5.0)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def _why_not(name: str) -> str | None:
    """Why this loop cannot be tested here, or None."""
    if name == "asyncio":
        return None
    import clearway
    from clearway import _compiled

    if name == "uring" and _compiled.uncompiled_modules():
        return "the uring engine exists only in compiled clearway"
    try:
        clearway.new_event_loop(engine=name).close()
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None) or 0
        return f"engine {name} refused with {errno.errorcode.get(number, number)}: {error}"
    return None


_FACTORIES = {name: Factory(name) for name in ("asyncio", "uring", "epoll")}
_REASONS: dict[str, str | None] = {}


def _usable(name: str) -> Factory:
    if name not in _REASONS:
        _REASONS[name] = _why_not(name)
    reason = _REASONS[name]
    if reason is not None:
        pytest.skip(reason)
    return _FACTORIES[name]


def usable_factories() -> list[Factory]:
    """The loops that can be tested here, asyncio first: for tests that compare them."""
    found = []
    for name, factory in _FACTORIES.items():
        if name not in _REASONS:
            _REASONS[name] = _why_not(name)
        if _REASONS[name] is None:
            found.append(factory)
    return found


@pytest.fixture(params=["asyncio", "uring", "epoll"])
def factory(request: pytest.FixtureRequest) -> Factory:
    """Makes loops of each kind in turn; asyncio is the control."""
    return _usable(request.param)


@pytest.fixture(params=["uring", "epoll"])
def clearway_factory(request: pytest.FixtureRequest) -> Factory:
    """For what only clearway promises."""
    return _usable(request.param)


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Any:
    """Makes (our socket, the peer's socket), connected."""
    from .support.net import PAIRS

    return PAIRS[request.param]
