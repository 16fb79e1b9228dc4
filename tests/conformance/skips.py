"""The one table of upstream tests that are not run, and of the skips upstream decides itself.

A row of ``SKIPS`` needs a reason that a CPython core developer would accept: the test looks at
something private to the standard library's own loop, so that no other loop can pass it whatever it
does. "Fails here" is not a reason. A row that matches no test is an error of the run.

The rows do not apply to the standard library's own loop (the control), which has to pass them.

``UPSTREAM`` lists the reasons for which upstream may skip a test of its own accord. A reason that
is not listed counts as a failure: otherwise a loop could pass by being skipped.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Skip:
    """Tests that cannot be asked of a loop other than the standard library's.

    Parameters: ``pattern`` is a glob over ``module.Class.test``; ``reason`` says which private
    detail it looks at; ``versions`` are the Pythons ("3.11") the row is for, none meaning all;
    ``control_too`` is for tests that are broken or flaky upstream in that version.
    """

    pattern: str
    reason: str
    versions: tuple[str, ...] = ()
    control_too: bool = False

    def applies_to(self, version: str) -> bool:
        return not self.versions or version in self.versions

    def matches(self, test: str) -> bool:
        return fnmatch.fnmatchcase(test, self.pattern)


_MOCK_SOCKET = (
    "puts a mock in the place of asyncio.base_events.socket and gives the mock sockets it makes to "
    "loop._add_reader, which it mocks as well: no descriptor is there that a kernel could be told"
)
_BASE = "test_base_events.BaseEventLoopWithSelectorTests."

SKIPS: tuple[Skip, ...] = (
    Skip(_BASE + "test_create_connection_ip_addr", _MOCK_SOCKET),
    Skip(_BASE + "test_create_connection_ipv6_scope", _MOCK_SOCKET),
    Skip(_BASE + "test_create_connection_no_inet_pton", _MOCK_SOCKET),
    Skip(_BASE + "test_create_connection_service_name", _MOCK_SOCKET),
    Skip(_BASE + "test_create_connection_bluetooth", _MOCK_SOCKET),
    Skip(_BASE + "test_create_server_soreuseport_only_defined", _MOCK_SOCKET),
    Skip(
        "test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_not_available",
        "takes sendfile away by replacing `os` inside asyncio.unix_events",
    ),
    Skip(
        "test_events.EPollEventLoopTests.test_internal_fds",
        "counts loop._internal_fds and looks at loop._csock and loop._ssock",
    ),
    *(
        Skip(
            f"test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_{name}",
            "calls loop._sock_sendfile_native_impl() with a registration it looks up in "
            "loop._selector",
        )
        for name in (
            "blocking_error",
            "cancel1",
            "cancel2",
            "exception",
            "os_error_first_call",
            "os_error_next_call",
        )
    ),
    Skip(
        "test_runners.RunTests.test_loop_factory_default_event_loop",
        "asserts that the name asyncio.EventLoop is the standard library's own class",
        versions=("3.13", "3.14"),
    ),
    Skip(
        "test_unix_events.SelectorEventLoopSignalTests.test_close_on_finalizing",
        "replaces `sys` inside asyncio.unix_events so that the standard library's close() believes "
        "that the interpreter is shutting down",
    ),
)

# (regular expression over upstream's reason, why it is all right here)
UPSTREAM: tuple[tuple[str, str], ...] = (
    (r"(?i)windows|proactor|iocp", "another platform"),
    (r"(?i)kqueue|macos|mac os|openbsd|freebsd|aix", "another platform"),
    (r"gettotalrefcount", "needs a debug build of Python"),
    (r"IPv6 (not supported|is not|required)|no IPv6", "the machine has no IPv6"),
)


def upstream_reason_known(reason: str) -> bool:
    return any(re.search(pattern, reason) for pattern, _ in UPSTREAM)


def select(
    tests: list[str], version: str, *, control: bool, table: tuple[Skip, ...] = SKIPS
) -> tuple[dict[str, str], list[str]]:
    """Apply the table to the complete list of tests of one interpreter.

    Parameters: ``tests`` are ids; ``version`` is "3.11"; ``control`` is true for the standard
    library's own loop.
    Returns the reason for each skipped id, and one sentence for each row that matched nothing.
    """
    skipped: dict[str, str] = {}
    stale = []
    for row in table:
        if not row.applies_to(version):
            continue
        matched = [test for test in tests if row.matches(test)]
        if not matched:
            stale.append(f"skips.py: {row.pattern!r} matches no test of Python {version}")
        if not control or row.control_too:
            skipped.update(dict.fromkeys(matched, row.reason))
    return skipped, stale
