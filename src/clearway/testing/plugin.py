"""The pytest plugin: ``--clearway-shuffle[=RUNS]``, ``--clearway-seed=N``, a marker, and ``--clearway-loop[=ENGINES]``.

With the option every ``async def`` test that no other plugin has taken is run by ``shuffle``; with the marker
``@pytest.mark.clearway_shuffle(runs=..., seed=..., gap=...)`` one is, always. The option's number of runs and
seed win over the marker's, so that a failure can be replayed from the command line.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

MARKER = "clearway_shuffle"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clearway", "clearway: preemption shuffler")
    group.addoption(
        "--clearway-shuffle",
        nargs="?",
        type=int,
        const=0,
        default=None,
        metavar="RUNS",
        help="run each async test RUNS times (default 100), suspending its tasks at random points",
    )
    group.addoption(
        "--clearway-seed",
        type=int,
        default=None,
        metavar="N",
        help="seed of the first run, to replay a failure",
    )

    group.addoption(
        "--clearway-loop",
        nargs="?",
        const="auto",
        default=None,
        metavar="ENGINES",
        help="run the async tests of pytest-asyncio and anyio on clearway; with several engines "
        "(uring,epoll) once on each",
    )


def pytest_configure(config: pytest.Config) -> None:
    engines = config.getoption("--clearway-loop")
    if engines is not None:
        # Only then: pytest-asyncio asks for factories when anybody has some.
        from clearway.integrations import pytest_loops

        pytest_loops.install(config, engines)
    config.addinivalue_line(
        "markers",
        f"{MARKER}(runs=100, seed=None, gap=None, timeout=60): run this async test many times, "
        "suspending its tasks at random points (clearway.testing.shuffle)",
    )


def shuffle_options(item: Any) -> dict[str, Any] | None:
    """The parameters of ``shuffle`` for this test; None when it is not to be shuffled."""
    marker = item.get_closest_marker(MARKER)
    runs = item.config.getoption("--clearway-shuffle")
    seed = item.config.getoption("--clearway-seed")
    if marker is None and runs is None:
        return None
    options: dict[str, Any] = dict(marker.kwargs) if marker is not None else {}
    if marker is not None and marker.args:
        pytest.fail(f"{MARKER} takes keyword arguments only, not {marker.args!r}", pytrace=False)
    if runs:
        options["runs"] = runs
    if seed is not None:
        options["seed"] = seed
    return options


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    options = shuffle_options(pyfuncitem)
    if options is None:
        return None
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        if pyfuncitem.get_closest_marker(MARKER) is not None:
            pytest.fail(f"{MARKER} is for async tests; another plugin runs this one, or it is none")
        return None
    # Here and not above: pytest loads every plugin, also for those who never shuffle.
    from clearway.testing.shuffler import shuffle

    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    shuffle(lambda: function(**arguments), **options)
    return True
