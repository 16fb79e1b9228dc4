"""``clearway doctor``: which engine runs here and why, and what on this machine will hurt.

Every line is a check with a state: ``ok``; ``warn`` for what costs speed or will fail under load;
``fail`` for what is broken. Only ``fail`` makes the exit code 1, so that the command can guard a
deployment. Each check that is not ``ok`` says what to do about it.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from clearway import __version__, _compiled
from clearway.loop.options import ENGINES

State = Literal["ok", "warn", "fail"]

#: Oldest versions that work: see pyproject.toml.
_PYTHON_MIN = (3, 11)
_GREENLET_MIN = (3, 1)

#: Descriptors: 10,000 connections, what the project promises on one thread, and room for files.
_NOFILE_WANTED = 16_384

#: Bytes. The kernel's own default since Linux 5.16; it was 64 KiB before, and old images keep that.
_MEMLOCK_WANTED = 8 * 1024 * 1024

#: Connections. The kernel's default since Linux 5.4; asyncio's own backlog is 100.
_SOMAXCONN_WANTED = 1024

#: Seconds that one echo over loopback may take before it counts as never.
_SELF_TEST_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Check:
    """One finding.

    :param name: what was looked at.
    :param state: ``ok``, ``warn`` or ``fail``.
    :param found: what is the case.
    :param remedy: what to do about it; empty when ``state`` is ``ok``.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when nothing is broken, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="clearway doctor",
        description="Say which engine runs here and why, and what on this machine will hurt.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    arguments = parser.parse_args(argv)
    engine = describe_engine()
    checks = examine(engine)
    healthy = all(check.state != "fail" for check in checks)
    if arguments.json:
        report = {
            "healthy": healthy,
            "version": __version__,
            "python": platform.python_version(),
            "engine": engine,
            "checks": [asdict(check) for check in checks],
        }
        print(json.dumps(report, indent=2))
    else:
        _print(engine, checks)
    return 0 if healthy else 1


def describe_engine() -> dict[str, Any]:
    """The engine that a loop takes here when the program does not choose, and why.

    :returns: ``engine``, ``reason``, ``errno`` (the name of the error with which io_uring was
    refused, or
        None), ``features`` (pairs of a name and whether the kernel has it) and ``kernel``;
        ``engine`` is ``"none"`` when it cannot even be asked.
    """
    try:
        from clearway import engine

        described = dict(engine.describe())
    except Exception as error:
        return {
            "engine": "none",
            "reason": f"{type(error).__name__}: {error}",
            "errno": errno.errorcode.get(getattr(error, "errno", None) or 0),
            "features": [],
            "kernel": platform.release(),
        }
    forced = os.environ.get("CLEARWAY_ENGINE", "auto")
    if forced in ENGINES and forced not in ("auto", described["engine"]):
        best = described["engine"]
        described |= {"engine": forced, "reason": f"CLEARWAY_ENGINE asks for it, not for {best}"}
    return described


def examine(engine: dict[str, Any]) -> list[Check]:
    """All checks, in the order in which they are best read.

    :param engine: what :func:`describe_engine` found.
    """
    examinations: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _greenlet,
        _build,
        lambda: _engine(engine),
        _loop,
        _descriptors,
        _locked_memory,
        _backlog,
    )
    return [check for examination in examinations for check in examination()]


def _python() -> Iterator[Check]:
    found = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    if sys.version_info < _PYTHON_MIN:
        wanted = ".".join(map(str, _PYTHON_MIN))
        yield Check("python", "fail", found, f"install Python {wanted} or newer")
    elif platform.python_implementation() != "CPython":
        yield Check("python", "fail", found, "run clearway on CPython: it relies on its C API")
    elif getattr(sys, "_is_gil_enabled", lambda: True)():
        yield Check("python", "ok", found)
    else:
        yield Check(
            "python",
            "warn",
            f"{found}, without the GIL",
            "untried without the GIL; run with PYTHON_GIL=1",
        )


def _greenlet() -> Iterator[Check]:
    remedy = "pip install 'greenlet>=3.1'"
    try:
        found = metadata.version("greenlet")
    except metadata.PackageNotFoundError:
        yield Check("greenlet", "fail", "not installed", remedy)
        return
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if numbers < _GREENLET_MIN:
        yield Check("greenlet", "fail", found, remedy)
    else:
        yield Check("greenlet", "ok", found)


def _build() -> Iterator[Check]:
    missing = _compiled.uncompiled_modules()
    total = len(_compiled.COMPILED_MODULES)
    if not missing:
        yield Check("compiled", "ok", f"all {total} modules that should be are compiled")
    elif len(missing) == total:
        yield Check(
            "compiled",
            "warn",
            "nothing is compiled: slow, no io_uring, no preemption",
            "install gcc and the Python headers, unset CLEARWAY_SKIP_CYTHON and reinstall clearway",
        )
    else:
        yield Check(
            "compiled",
            "fail",
            f"{total - len(missing)} of {total} modules are; not {', '.join(missing)}",
            "the build is incomplete: reinstall with "
            "pip install --force-reinstall --no-cache-dir clearway",
        )


def _engine(engine: dict[str, Any]) -> Iterator[Check]:
    name, reason, refusal = engine["engine"], engine["reason"], engine["errno"]
    if name == "none":
        remedy = "reinstall clearway; if it stays, report it as a bug"
        yield Check("engine", "fail", reason, remedy)
    elif name == "uring":
        yield Check("engine", "ok", f"{name}: {reason}")
    elif os.environ.get("CLEARWAY_ENGINE") == name:
        yield Check("engine", "warn", f"{name}: {reason}", "unset CLEARWAY_ENGINE to use the best")
    else:
        yield Check(
            "engine", "warn", f"{name}: io_uring was refused ({refusal})", _obstacle() or reason
        )


def _obstacle() -> str:
    """What on this machine stands in the way of io_uring, as far as it can be seen from here."""
    if not sys.platform.startswith("linux"):
        return "io_uring exists on Linux only; everything works without it"
    if _compiled.uncompiled_modules():
        return "io_uring needs the compiled modules (see compiled)"
    disabled = _read_number("/proc/sys/kernel/io_uring_disabled")
    if disabled:
        return f"the sysctl kernel.io_uring_disabled is {disabled}: set it to 0 to allow io_uring"
    if "Seccomp:\t2" in _read("/proc/self/status"):
        return (
            "a seccomp filter is in force, as Docker and Kubernetes set by default: allow "
            "io_uring_setup, io_uring_enter and io_uring_register in the container's profile, "
            "or stay on epoll"
        )
    return ""


def _loop() -> Iterator[Check]:
    """Make a loop and send 1 KiB through it and back: what is installed must also run."""
    try:
        import clearway

        loop = clearway.new_event_loop()
        try:
            loop.run_until_complete(asyncio.wait_for(_echo_once(), _SELF_TEST_TIMEOUT_S))
        finally:
            loop.close()
    except Exception as error:
        found = f"{type(error).__name__}: {error}".rstrip(": ")
        remedy = "if CLEARWAY_ENGINE=epoll makes this pass, use that and report it as a bug"
        yield Check("self-test", "fail", found, remedy)
    else:
        yield Check("self-test", "ok", "1 KiB went over loopback TCP and came back")


async def _echo_once() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1024))
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    payload = os.urandom(1024)
    writer.write(payload)
    echoed = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    if echoed != payload:
        raise RuntimeError(f"sent 1024 bytes, {len(echoed)} came back, and not the same ones")


def _descriptors() -> Iterator[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_count(soft)} open files, at most {_count(hard)}"
    if soft == resource.RLIM_INFINITY or soft >= _NOFILE_WANTED:
        yield Check("nofile", "ok", found)
    elif hard == resource.RLIM_INFINITY or hard > soft:
        wanted = _NOFILE_WANTED if hard == resource.RLIM_INFINITY else min(hard, _NOFILE_WANTED)
        yield Check(
            "nofile",
            "warn",
            f"{found}; each connection takes one",
            f"ulimit -n {wanted} before starting (systemd: LimitNOFILE={wanted})",
        )
    else:
        yield Check(
            "nofile",
            "warn",
            f"{found}; each connection takes one",
            f"raise the hard limit: systemd LimitNOFILE={_NOFILE_WANTED}, docker "
            f"--ulimit nofile={_NOFILE_WANTED}, or /etc/security/limits.conf",
        )


def _locked_memory() -> Iterator[Check]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or soft >= _MEMLOCK_WANTED:
        yield Check("memlock", "ok", _size(soft))
    elif _has_ipc_lock():
        yield Check("memlock", "ok", f"{_size(soft)}, but CAP_IPC_LOCK lifts it")
    else:
        yield Check(
            "memlock",
            "warn",
            f"{_size(soft)}; buffers registered with io_uring and zero-copy sends count against it",
            f"ulimit -l {_MEMLOCK_WANTED // 1024} before starting (systemd: "
            f"LimitMEMLOCK={_MEMLOCK_WANTED}, docker: --ulimit memlock={_MEMLOCK_WANTED})",
        )


#: Bit of the capability sets in /proc/self/status: linux/capability.h.
_CAP_IPC_LOCK = 14


def _has_ipc_lock() -> bool:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _backlog() -> Iterator[Check]:
    limit = _read_number("/proc/sys/net/core/somaxconn")
    if limit is None:
        return
    found = f"{limit} connections may wait to be accepted"
    if limit >= _SOMAXCONN_WANTED:
        yield Check("somaxconn", "ok", found)
    else:
        yield Check(
            "somaxconn",
            "warn",
            f"{found}; a burst of new clients beyond that is refused or delayed",
            "sysctl -w net.core.somaxconn=4096",
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _read_number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _count(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _size(limit: int) -> str:
    if limit == resource.RLIM_INFINITY:
        return "unlimited"
    return f"{limit // 1024:,} KiB"


_MARKS: dict[State, str] = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def _print(engine: dict[str, Any], checks: list[Check]) -> None:
    print(f"clearway {__version__} on Linux {engine['kernel']}, {platform.machine()}\n")
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"  {_MARKS[check.state]}  {check.name:<{width}}  {check.found}")
        if check.remedy:
            print(f"        {'':<{width}}  -> {check.remedy}")
    if engine["features"]:
        print("\n  kernel features:")
        for name, present in engine["features"]:
            print(f"    {'yes' if present else 'no ':<3}  {name}")
    counts = {state: sum(check.state == state for check in checks) for state in _MARKS}
    print(f"\n{counts['ok']} ok, {counts['warn']} to improve, {counts['fail']} broken")
