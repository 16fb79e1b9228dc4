"""The services of the tests: none outlives who started it, and a missing one is a failure, not a skip."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import services
from tests.support.programs import ROOT, environment

STARTS_AND_WAITS = """
import json, sys, time
from tests.support.services import running
with running("redis") as address:
    print(json.dumps([address.port, address.unix]), flush=True)
    {then}
"""


def start(then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS.format(then=then)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def address(process: subprocess.Popen[str]) -> tuple[int, Path]:
    assert process.stdout is not None
    port, unix = json.loads(process.stdout.readline())
    with socket.create_connection((services.HOST, port)):
        pass  # it is there
    return port, Path(unix).parent


def wait_until_gone(port: int, directory: Path) -> None:
    """The test's time limit is the bound."""
    while directory.exists():
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((services.HOST, port))


@pytest.mark.skipif(not services.wanted("redis"), reason=f"{services.WITHOUT} leaves redis out")
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_service_ends_with_whoever_started_it(sig: signal.Signals) -> None:
    process = start("time.sleep(3600)")
    with contextlib.closing(process.stdout):
        port, directory = address(process)
        process.send_signal(sig)
        process.wait()
        wait_until_gone(port, directory)


@pytest.mark.skipif(not services.wanted("redis"), reason=f"{services.WITHOUT} leaves redis out")
def test_a_service_ends_when_the_tests_fail() -> None:
    process = start("raise AssertionError")
    with contextlib.closing(process.stdout):
        assert process.stdout is not None
        port, unix = json.loads(process.stdout.readline())
        assert process.wait() == 1
        wait_until_gone(port, Path(unix).parent)


@pytest.mark.parametrize("name", ["redis", "postgresql"])
def test_a_service_that_is_not_installed_is_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(services, "DEBIAN_POSTGRESQL", Path("/nowhere"))
    with pytest.raises(services.ServiceError, match=r"install Debian's .* CLEARWAY_TEST_WITHOUT="):
        services.START[name](Path("/nowhere"))


def test_what_the_environment_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(services.WITHOUT, "redis,other")
    assert not services.wanted("redis")
    assert services.wanted("postgresql")
    monkeypatch.delenv(services.WITHOUT)
    assert services.wanted("redis")
