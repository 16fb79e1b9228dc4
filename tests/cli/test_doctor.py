"""``clearway doctor``: what it finds, and that it says what to do."""

from __future__ import annotations

import errno
import json
import resource
from importlib import metadata
from typing import Any

import pytest

from clearway import _compiled
from clearway.cli import doctor

from .command import clearway

URING = {"engine": "uring", "reason": "", "errno": None, "features": [("x", True)], "kernel": "6"}


def refused(number: int) -> dict[str, Any]:
    name = errno.errorcode.get(number)
    return URING | {"engine": "epoll", "reason": f"because of {name}", "errno": name}


def only(checks: Any) -> doctor.Check:
    (check,) = checks
    assert isinstance(check, doctor.Check)
    assert bool(check.remedy) == (check.state != "ok"), "what is wrong has a remedy, the rest none"
    return check


@pytest.fixture
def nothing_in_proc(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files the doctor reads are those of this dict."""
    files: dict[str, str] = {}
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
    return files


def test_the_text_names_engine_build_and_limits() -> None:
    done = clearway("doctor")
    assert done.returncode == 0, done.stdout
    for word in ("python", "greenlet", "compiled", "engine", "self-test", "nofile", "memlock"):
        assert word in done.stdout
    assert done.stdout.rstrip().endswith("0 broken")


def test_json_says_the_same() -> None:
    done = clearway("doctor", "--json")
    report = json.loads(done.stdout)
    assert report["healthy"] is True
    assert done.returncode == 0
    assert report["engine"]["engine"] in ("uring", "epoll")
    assert {check["name"] for check in report["checks"]} >= {"engine", "compiled", "nofile"}


def test_a_forced_engine_is_what_it_reports() -> None:
    done = clearway("doctor", "--json", CLEARWAY_ENGINE="epoll")
    report = json.loads(done.stdout)
    assert report["engine"]["engine"] == "epoll"
    (check,) = [check for check in report["checks"] if check["name"] == "engine"]
    assert check["state"] == "warn"
    assert "unset CLEARWAY_ENGINE" in check["remedy"]


def test_what_is_broken_makes_the_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert doctor.main([]) == 1
    assert "FAIL  greenlet" in capsys.readouterr().out


def test_an_engine_that_cannot_be_asked_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from clearway import engine

    def broken() -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(engine, "describe", broken, raising=False)
    described = doctor.describe_engine()
    assert (described["engine"], described["errno"]) == ("none", "ENOMEM")
    assert only(doctor._engine(described)).state == "fail"


def test_uring_is_fine() -> None:
    assert only(doctor._engine(URING)).state == "ok"


@pytest.mark.parametrize(
    ("files", "environment", "remedy"),
    [
        ({}, {"CLEARWAY_ENGINE": "epoll"}, "unset CLEARWAY_ENGINE"),
        ({"/proc/sys/kernel/io_uring_disabled": "2\n"}, {}, "io_uring_disabled is 2"),
        ({"/proc/self/status": "Seccomp:\t2\n"}, {}, "seccomp"),
        ({"/proc/self/status": "Seccomp:\t0\n"}, {}, "because of EPERM"),
    ],
)
def test_a_refusal_names_the_obstacle(
    nothing_in_proc: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    environment: dict[str, str],
    remedy: str,
) -> None:
    monkeypatch.setattr(_compiled, "uncompiled_modules", list)
    monkeypatch.delenv("CLEARWAY_ENGINE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    nothing_in_proc.update(files)
    check = only(doctor._engine(refused(errno.EPERM)))
    assert check.state == "warn"
    assert remedy in check.remedy


def test_an_uncompiled_install_is_named_as_the_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEARWAY_ENGINE", raising=False)
    monkeypatch.setattr(_compiled, "uncompiled_modules", lambda: ["clearway.steps"])
    assert "compiled" in only(doctor._engine(refused(0))).remedy


@pytest.mark.parametrize(
    ("missing", "state"), [(0, "ok"), (1, "fail"), (len(_compiled.COMPILED_MODULES), "warn")]
)
def test_half_a_build_is_broken_and_none_is_slow(
    monkeypatch: pytest.MonkeyPatch, missing: int, state: str
) -> None:
    names = list(_compiled.COMPILED_MODULES)[:missing]
    monkeypatch.setattr(_compiled, "uncompiled_modules", lambda: names)
    check = only(doctor._build())
    assert check.state == state
    if state == "fail":
        assert names[0] in check.found


INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "state", "remedy"),
    [
        ((1024, 1024), "warn", "hard limit"),
        ((1024, 4096), "warn", "ulimit -n 4096"),
        ((1024, 1_000_000), "warn", "ulimit -n 16384"),
        ((1024, INFINITY), "warn", "ulimit -n 16384"),
        ((16_384, 16_384), "ok", ""),
        ((INFINITY, INFINITY), "ok", ""),
    ],
)
def test_open_files(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], state: str, remedy: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    check = only(doctor._descriptors())
    assert check.state == state
    assert remedy in check.remedy


@pytest.mark.parametrize(
    ("soft", "capabilities", "state"),
    [
        (65_536, "0000000000000000", "warn"),
        (65_536, "000001ffffffffff", "ok"),
        (8 << 20, "0000000000000000", "ok"),
        (INFINITY, "0000000000000000", "ok"),
    ],
)
def test_locked_memory(
    nothing_in_proc: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    soft: int,
    capabilities: str,
    state: str,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, INFINITY))
    nothing_in_proc["/proc/self/status"] = f"CapEff:\t{capabilities}\n"
    assert only(doctor._locked_memory()).state == state


@pytest.mark.parametrize(("limit", "state"), [("128\n", "warn"), ("4096\n", "ok")])
def test_backlog(nothing_in_proc: dict[str, str], limit: str, state: str) -> None:
    nothing_in_proc["/proc/sys/net/core/somaxconn"] = limit
    assert only(doctor._backlog()).state == state


def test_a_loop_that_does_not_run_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> None:
        raise ConnectionRefusedError("nobody")

    monkeypatch.setattr(doctor, "_echo_once", never)
    check = only(doctor._loop())
    assert (check.state, check.found) == ("fail", "ConnectionRefusedError: nobody")


@pytest.mark.parametrize(("version", "state"), [("3.0.3", "fail"), ("3.1.0", "ok"), ("4.0", "ok")])
def test_greenlet(monkeypatch: pytest.MonkeyPatch, version: str, state: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    assert only(doctor._greenlet()).state == state
