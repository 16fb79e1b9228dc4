"""A small HTTP load generator for machines without ``wrk``: compiled on first use, run as a child.

``_httpload.c`` does the work and says what is counted how; this module compiles it into the user's
cache and turns its report into objects::

    result = run(port=8000, connections=64, seconds=2, core=1, pid=server_pid)
    print(result.fast.requests_per_s, result.fast.latency_us.p99, result.server.cpu_us_per_request)
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("_httpload.c")
SHARED = Path(__file__).with_name("_loadgen.h")
CFLAGS = ["-O2", "-std=gnu11"]
#: Connecting and printing; a child that takes longer than its own times plus this is stuck.
GRACE_S = 20.0


class HttpLoadError(RuntimeError):
    """The load generator could not be built or could not run; the text says why."""


@dataclass(frozen=True)
class Latency:
    """Latencies of one class of requests, in microseconds, to within 0.8 %."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True)
class RequestClass:
    """What happened to one class of requests."""

    requests: int
    requests_per_s: float
    latency_us: Latency
    #: Answers whose status was not 2xx.
    not_2xx: int
    #: Connections that could not be opened, and requests whose connection broke.
    connect_errors: int
    broken: int
    #: Still unanswered after the drain; in the latencies with their age.
    unfinished: int
    bytes: int
    #: (answers, longest latency in µs) per slot of ``timeline_ms``; empty unless asked for.
    timeline: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class ServerUse:
    """What the server process used during the window, all its threads together."""

    cpu_s: float
    user_s: float
    system_s: float
    #: Share of one core.
    busy: float
    switches: int
    minor_faults: int
    rss_kib: int
    rss_peak_kib: int
    #: Per answered request of both classes; None when there was none.
    cpu_us_per_request: float | None
    switches_per_request: float | None
    #: User and kernel instructions per request; None without hardware counters.
    instructions_per_request: float | None


@dataclass(frozen=True)
class HttpLoadResult:
    """One run. ``raw`` is the generator's own report."""

    seconds: float
    fast: RequestClass
    #: None when no slow connections were asked for.
    slow: RequestClass | None
    #: None when no ``pid`` was given or the process could not be read.
    server: ServerUse | None
    #: Share of its core that the generator used: near 1.0 it may be the bottleneck.
    load_busy: float
    raw: dict[str, Any]


def cache_directory() -> Path:
    """Where the compiled generator is kept: ``$XDG_CACHE_HOME/clearway``, else in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is invalid and to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "clearway"


def build(directory: Path | None = None) -> Path:
    """Compile the load generator unless that was done before, and return the program's path.

    Args:
        directory: where to put it; default ``cache_directory()``, or a directory of this process'
            own under the temporary directory when that cannot be written.

    Raises:
        HttpLoadError: there is no C compiler (``CC``, else ``cc``), or it refused.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    digest = hashlib.sha256(" ".join([*compiler, *CFLAGS]).encode())
    try:
        digest.update(SOURCE.read_bytes())
        digest.update(SHARED.read_bytes())
    except OSError as error:
        raise HttpLoadError(f"the source of the load generator is missing: {error}") from error
    cache = cache_directory() if directory is None else directory
    program = cache / f"httpload-{digest.hexdigest()[:12]}"
    if os.access(program, os.X_OK):
        return program
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache)
    except OSError:
        if directory is not None:
            raise
        return build(Path(tempfile.mkdtemp(prefix="clearway-")))
    os.close(handle)
    try:
        command = [*compiler, *CFLAGS, f"-I{SHARED.parent}", "-o", temporary, str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise HttpLoadError(f"the load generator does not compile:\n{done.stderr.strip()}")
        os.chmod(temporary, 0o700)
        # Renamed into place: another process never runs half a program.
        os.replace(temporary, program)
    except FileNotFoundError as error:
        raise HttpLoadError(
            f"no C compiler: {compiler[0]!r} was not found; install gcc, set CC, or install wrk"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return program


def run(
    *,
    port: int,
    host: str = "127.0.0.1",
    path: str = "/",
    connections: int = 64,
    slow_connections: int = 0,
    slow_path: str = "/slow",
    slow_rate: float = 10.0,
    seconds: float = 2.0,
    warmup: float = 0.3,
    drain: float = 2.0,
    timeline_ms: float = 0.0,
    core: int = -1,
    pid: int | None = None,
    discard: bool = False,
    program: Path | None = None,
) -> HttpLoadResult:
    """Load a server on loopback and wait for the report.

    Args:
        port: of the server, at the IPv4 address ``host``.
        path: what the ``connections`` of the fast class ask for, each in a closed loop.
        slow_connections: how many connections ask for ``slow_path``; 0 for none.
        slow_rate: requests per second of the slow class in all. A slot that comes due while its
            connection still waits for an answer is skipped.
        seconds: length of the measuring window, after ``warmup`` seconds of load.
        drain: how long, in seconds, the last answers are waited for.
        timeline_ms: when positive, also report answers and longest latency per slot of so many ms.
        core: pin the generator to this core; -1 for any.
        pid: the server's process, whose CPU time and context switches are then reported.
        discard: have the kernel drop the bytes of bodies: for large ones, which the generator would be busier
            to receive than the server to send.
        program: the compiled generator; default ``build()``.

    Raises:
        HttpLoadError: it could not be built or run; also when nothing listens at ``port``.
    """
    command = [
        str(build() if program is None else program),
        f"--host={host}",
        f"--port={port}",
        f"--path={path}",
        f"--connections={connections}",
        f"--seconds={seconds}",
        f"--warmup={warmup}",
        f"--drain={drain}",
        f"--core={core}",
    ]
    if slow_connections:
        command += [
            f"--slow-connections={slow_connections}",
            f"--slow-path={slow_path}",
            f"--slow-rate={slow_rate}",
        ]
    if timeline_ms:
        command.append(f"--timeline-ms={timeline_ms}")
    if discard:
        command.append("--discard")
    if pid is not None:
        command.append(f"--pid={pid}")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=warmup + seconds + drain + GRACE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise HttpLoadError(f"the load generator did not end within {error.timeout:g} s") from None
    if done.returncode:
        raise HttpLoadError(f"load generator: {done.stderr.strip() or done.returncode}")
    result = parse(json.loads(done.stdout))
    if not result.fast.requests and result.fast.connect_errors:
        raise HttpLoadError(f"nothing accepts connections at {host} port {port}")
    return result


def parse(raw: dict[str, Any]) -> HttpLoadResult:
    """Turn the generator's report into objects."""
    classes = {name: _request_class(raw[name]) for name in ("fast", "slow") if name in raw}
    slow = classes.get("slow")
    fast = classes.get("fast") or _nothing()
    requests = fast.requests + (slow.requests if slow else 0)
    return HttpLoadResult(
        seconds=raw["seconds"],
        fast=fast,
        slow=slow,
        server=_server_use(raw["server"], requests) if raw["server"] else None,
        load_busy=raw["load"]["busy"],
        raw=raw,
    )


def _request_class(raw: dict[str, Any]) -> RequestClass:
    return RequestClass(
        requests=raw["requests"],
        requests_per_s=raw["requests_per_s"],
        latency_us=Latency(**raw["latency_us"]),
        not_2xx=raw["not_2xx"],
        connect_errors=raw["connect_errors"],
        broken=raw["broken"],
        unfinished=raw["unfinished"],
        bytes=raw["bytes"],
        timeline=tuple((count, longest) for count, longest in raw.get("timeline", ())),
    )


def _nothing() -> RequestClass:
    return RequestClass(0, 0.0, Latency(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), 0, 0, 0, 0, 0)


def _server_use(raw: dict[str, Any], requests: int) -> ServerUse:
    switches = raw["switches_voluntary"] + raw["switches_involuntary"]
    user, kernel = raw["instructions_user"], raw["instructions_kernel"]
    counted = user is not None and kernel is not None
    return ServerUse(
        cpu_s=raw["cpu_s"],
        user_s=raw["user_s"],
        system_s=raw["system_s"],
        busy=raw["busy"],
        switches=switches,
        minor_faults=raw["minor_faults"],
        rss_kib=raw["rss_kib"],
        rss_peak_kib=raw["rss_peak_kib"],
        cpu_us_per_request=raw["cpu_s"] * 1e6 / requests if requests else None,
        switches_per_request=switches / requests if requests else None,
        instructions_per_request=(user + kernel) / requests if counted and requests else None,
    )
