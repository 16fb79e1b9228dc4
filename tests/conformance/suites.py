"""Which parts of ``test.test_asyncio`` are run, and how each gets its loop.

Everything upstream has runs unless a row below leaves it out: a module or class that a new Python
brings is therefore run without anybody remembering to add it. A row that gives a loop to something
which no longer exists is caught by ``check_tables``.

Upstream makes loops in four ways:

1. through the default policy (``asyncio.new_event_loop``, ``asyncio.run``, ``asyncio.Runner``,
   ``IsolatedAsyncioTestCase``): ``install`` replaces what that policy constructs;
2. in an overridable method (``create_event_loop``, ``new_loop``): ``LOOP_METHODS``;
3. by naming ``asyncio.SelectorEventLoop`` in a test: ``NAMES_THE_CLASS``;
4. as ``test_utils.TestLoop``, a ``BaseEventLoop`` whose fake clock a generator drives: replaced by
   the loop under test when a test asks for one without a generator, which most do out of habit.
"""

from __future__ import annotations

import os

UPSTREAM_PACKAGE = "test.test_asyncio"
# The tests of the harness itself put another package here.
PACKAGE = os.environ.get("CONFORMANCE_PACKAGE", UPSTREAM_PACKAGE)
PREFIX = PACKAGE + "."

# (module, class) -> the method that upstream overrides to make the loop under test.
LOOP_METHODS: dict[tuple[str, str], str] = {
    ("test_buffered_proto", "BufferedProtocolSelectorTests"): "new_loop",
    ("test_events", "EPollEventLoopTests"): "create_event_loop",
    ("test_sendfile", "EPollEventLoopTests"): "create_event_loop",
    ("test_server", "SelectorStartServerTests"): "new_loop",
    ("test_sock_lowlevel", "EPollEventLoopTests"): "create_event_loop",
    ("test_sslproto", "SelectorStartTLSTests"): "new_loop",
}

# Modules whose tests say `asyncio.SelectorEventLoop()` themselves; the name is rebound there.
NAMES_THE_CLASS = frozenset({"test_base_events", "test_unix_events"})

# Classes whose loops come from a policy of their own, made of mocks: a real loop, with the one
# attribute that their tear-down looks at.
RUNNER_CLASSES = frozenset({("test_runners", "RunTests"), ("test_runners", "RunnerTests")})

# Classes that turn the loop "until loop._ready is empty", which only the standard library's loop
# has. They turn it a fixed number of times instead; a gather is done after three turns.
DRAINED = frozenset({("test_tasks", "CoroutineGatherTests"), ("test_tasks", "FutureGatherTests")})
DRAIN_TURNS = 12

_WINDOWS = "Windows only: the IOCP loop or its helpers"
_OTHER_SELECTOR = "the tests of EPollEventLoopTests once more, over another standard selector"
_NO_LOOP = "tests objects of asyncio by themselves; no event loop is created"
_MOCK = "drives the standard library's own class with a mocked selector; no loop under test"

LEFT_OUT_MODULES: dict[str, str] = {
    "test_pep492": _MOCK,
    "test_proactor_events": _WINDOWS,
    "test_protocols": _NO_LOOP,
    "test_selector_events": _MOCK,
    "test_transports": _NO_LOOP,
    "test_windows_events": _WINDOWS,
    "test_windows_utils": _WINDOWS,
}

LEFT_OUT_CLASSES: dict[tuple[str, str], str] = {
    ("test_base_events", "BaseEventTests"): _NO_LOOP,
    ("test_base_events", "BaseEventLoopTests"): "instantiates asyncio.BaseEventLoop itself",
    ("test_base_events", "BaseLoopSockSendfileTests"): (
        "instantiates asyncio.selector_events.BaseSelectorEventLoop itself"
    ),
    ("test_base_events", "TestSelectorUtils"): _NO_LOOP,
    ("test_buffered_proto", "BufferedProtocolProactorTests"): _WINDOWS,
    ("test_events", "AbstractEventLoopTests"): _NO_LOOP,
    ("test_events", "PollEventLoopTests"): _OTHER_SELECTOR,
    ("test_events", "SelectEventLoopTests"): _OTHER_SELECTOR,
    ("test_events", "TimerTests"): _NO_LOOP,
    ("test_futures", "CFutureInheritanceTests"): _NO_LOOP,
    ("test_futures", "PyFutureInheritanceTests"): _NO_LOOP,
    ("test_sendfile", "PollEventLoopTests"): _OTHER_SELECTOR,
    ("test_sendfile", "SelectEventLoopTests"): _OTHER_SELECTOR,
    ("test_server", "ProactorStartServerTests"): _WINDOWS,
    ("test_sock_lowlevel", "PollEventLoopTests"): _OTHER_SELECTOR,
    ("test_sock_lowlevel", "SelectEventLoopTests"): _OTHER_SELECTOR,
    ("test_sslproto", "ProactorStartTLSTests"): _WINDOWS,
    ("test_subprocess", "MultiLoopChildWatcherTests"): _NO_LOOP,
    ("test_subprocess", "SubprocessMultiLoopWatcherTests"): (
        "upstream skips all of it: MultiLoopChildWatcher has a race (bpo-38323)"
    ),
    ("test_subprocess", "SubprocessTransportTests"): (
        "drives asyncio.base_subprocess on the fake-clock TestLoop"
    ),
    ("test_tasks", "CIntrospectionTests"): _NO_LOOP,
    ("test_tasks", "GenericTaskTests"): _NO_LOOP,
    ("test_tasks", "PyIntrospectionTests"): _NO_LOOP,
    ("test_unix_events", "AbstractChildWatcherTests"): _NO_LOOP,
    ("test_unix_events", "BaseChildWatcherTests"): _NO_LOOP,
    ("test_unix_events", "FastChildWatcherTests"): (
        "drives the child watcher on the fake-clock TestLoop with a mocked waitpid"
    ),
    ("test_unix_events", "SafeChildWatcherTests"): (
        "drives the child watcher on the fake-clock TestLoop with a mocked waitpid"
    ),
    ("test_unix_events", "UnixReadPipeTransportTests"): _MOCK,
    ("test_unix_events", "UnixWritePipeTransportTests"): _MOCK,
}


def check_tables(found: dict[str, list[str]]) -> list[str]:
    """Compare the tables with what this interpreter ships.

    Parameters: ``found`` maps each upstream module to the names of its test classes.
    Returns one sentence per hook whose class is gone: without it the class would silently run on
    the standard library's loop. (A left-out row may name what only other versions have.)
    """
    problems: list[str] = []
    if PACKAGE != UPSTREAM_PACKAGE:
        return problems
    for module, cls in sorted(set(LOOP_METHODS) | RUNNER_CLASSES | DRAINED):
        if cls not in found.get(module, ()):
            problems.append(f"suites.py gives a loop to {module}.{cls}, which does not exist here")
    for module in sorted(NAMES_THE_CLASS):
        if module not in found:
            problems.append(f"suites.py names the module {module}, which does not exist here")
    return problems
