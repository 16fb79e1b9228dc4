"""Load generators: wrk where it is installed, else the one that ships with clearway.

Both are closed-loop: a connection sends its next request when the last answer has come. A latency
is therefore the time at *this* load, with every connection always waiting for one answer.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clearway.cli import httpload

#: Printed by wrk when it is done. Reading a summary once costs the measurement nothing, where a
#: per-request script would.
_WRK_SCRIPT = """\
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d}\\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""

#: Seconds over the length of a round after which a load generator is given up.
_GRACE_S = 15.0


class LoadError(Exception):
    """The load generator is missing or failed; the text says what to do."""


@dataclass(frozen=True)
class Load:
    """What one round of load came to.

    :param requests: answers received.
    :param seconds: how long it lasted.
    :param errors: connections that failed, broke or timed out, and answers that were not 2xx or
        3xx.
    :param p50_s, p99_s, p999_s: latency percentiles, seconds.
    :param cpu_share: the part of a core that the generator itself took, 0 to 1: near 1 it, and not
        the server, was the limit.
    """

    requests: int
    seconds: float
    errors: int
    p50_s: float
    p99_s: float
    p999_s: float
    cpu_share: float


class Generator(Protocol):
    """Something that loads ``http://127.0.0.1:port/``."""

    #: Name and version, for the table.
    name: str

    def run(self, port: int, connections: int, seconds: int) -> Load:
        """Load the server.

        :raises LoadError: when no figures came of it.
        """


class Wrk:
    """wrk, one thread; <https://github.com/wg/wrk>."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.name = _wrk_version(path)

    def run(self, port: int, connections: int, seconds: int) -> Load:
        with tempfile.TemporaryDirectory(prefix="clearway-demo-") as directory:
            script = Path(directory, "summary.lua")
            script.write_text(_WRK_SCRIPT)
            command = [self._path, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
            command += ["-s", str(script), f"http://127.0.0.1:{port}/"]
            before = _children_cpu_s()
            output = _run(command, seconds + _GRACE_S)
            cpu_s = _children_cpu_s() - before
        # The summary is printed on a line of its own, after wrk's report for people.
        figures = json.loads(output.strip().splitlines()[-1])
        elapsed_s = figures["duration_us"] / 1e6
        return Load(
            requests=figures["requests"],
            seconds=elapsed_s,
            errors=figures["errors"],
            p50_s=figures["p50_us"] / 1e6,
            p99_s=figures["p99_us"] / 1e6,
            p999_s=figures["p999_us"] / 1e6,
            cpu_share=cpu_s / elapsed_s,
        )


class Builtin:
    """The load generator that ships with clearway as C source; compiled on first use.

    :raises httpload.HttpLoadError: when it cannot be compiled.
    """

    name = "clearway's own generator"

    def __init__(self) -> None:
        self._program = httpload.build()

    def run(self, port: int, connections: int, seconds: int) -> Load:
        try:
            result = httpload.run(
                port=port,
                connections=connections,
                seconds=seconds,
                # Its requests would be in the server's CPU time and not in the count.
                warmup=0.0,
                program=self._program,
            )
        except httpload.HttpLoadError as error:
            raise LoadError(str(error)) from error
        answers, latency = result.fast, result.fast.latency_us
        return Load(
            requests=answers.requests,
            seconds=result.seconds,
            errors=answers.not_2xx + answers.connect_errors + answers.broken + answers.unfinished,
            p50_s=latency.p50 / 1e6,
            p99_s=latency.p99 / 1e6,
            p999_s=latency.p99_9 / 1e6,
            cpu_share=result.load_busy,
        )


def find(name: str = "auto") -> Generator:
    """The load generator to use.

    :param name: ``"wrk"``, ``"builtin"``, or ``"auto"`` for the first of them that is there.
    :raises LoadError: when it is not there and cannot be built.
    """
    wrk = shutil.which("wrk")
    if name != "builtin" and wrk is not None:
        return Wrk(wrk)
    if name == "wrk":
        raise LoadError("wrk is not installed: apt install wrk, or use --load builtin")
    try:
        return Builtin()
    except httpload.HttpLoadError as error:
        raise LoadError(
            f"no load generator: wrk is not installed (apt install wrk), and the one that ships "
            f"with clearway cannot be built: {error}"
        ) from error


def _wrk_version(path: str) -> str:
    # `wrk -v` prints "wrk debian/4.1.0-3+b2 [epoll] Copyright ..." and exits with 1.
    text = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stdout
    words = text.split()
    return f"wrk {words[1].removeprefix('debian/')}" if len(words) > 1 else "wrk"


def _children_cpu_s() -> float:
    """CPU seconds of all children that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: list[str], timeout_s: float) -> str:
    """Run a load generator to its end and return what it printed; never leave it running."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    started = time.monotonic()
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        waited_s = time.monotonic() - started
        raise LoadError(f"{command[0]} did not end within {waited_s:.0f} s") from error
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if process.returncode != 0 or not output.strip():
        raise LoadError(f"{' '.join(command)} failed ({process.returncode}): {output.strip()}")
    return output
