"""A server process from outside: start it, see what it spends, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from clearway.cli.demo.app import BODY

#: Seconds from fork to listening. uvicorn takes 0.3 s on an idle core; the rest is for busy
#: machines.
_START_TIMEOUT_S = 30.0

#: Seconds between SIGTERM and SIGKILL: uvicorn's graceful shutdown is limited to 1 s.
_STOP_TIMEOUT_S = 5.0

#: Requests before a measurement: enough for the interpreter to specialise the code they run
#: through.
_WARM_UP_REQUESTS = 1_000

#: Seconds after which it is enough even with fewer: a server may be slow.
_WARM_UP_S = 2.0

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """The server could not be started, or ended while it was needed; the text says why."""


@dataclass(frozen=True)
class Usage:
    """What a process has spent since it began.

    :param cpu_s: seconds on a CPU.
    :param user_s: of these, in user mode, to the clock tick (10 ms).
    :param system_s: of these, in the kernel, to the clock tick.
    :param switches: context switches, voluntary and not.
    """

    cpu_s: float
    user_s: float
    system_s: float
    switches: int

    def since(self, earlier: Usage) -> Usage:
        return Usage(
            self.cpu_s - earlier.cpu_s,
            self.user_s - earlier.user_s,
            self.system_s - earlier.system_s,
            self.switches - earlier.switches,
        )


class ServerProcess:
    """One server in a process of its own; a context manager that never leaves it behind.

    :param loop: one of :data:`clearway.cli.demo.server.LOOPS`.
    :param cpu: the core to pin it to, or None.
    :param options: more words for the server's command line.
    """

    def __init__(self, loop: str, cpu: int | None, options: Sequence[str] = ()) -> None:
        self.loop = loop
        self._options = options
        self._cpu = cpu
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self.port = 0
        #: The class of the loop that the server says it runs on.
        self.loop_class = ""

    def __enter__(self) -> ServerProcess:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        command = [sys.executable, "-m", "clearway.cli.demo.server", "--loop", self.loop]
        command += ["--parent", str(os.getpid()), *self._options]
        if self._cpu is not None:
            command += ["--cpu", str(self._cpu)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        with _signals_held_back():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C is for the demo, which then ends its servers one by one.
                process_group=0,
            )
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], _START_TIMEOUT_S)
        line = output.readline() if ready else b""
        if not line:
            state = "ended" if ready else f"did not listen within {_START_TIMEOUT_S:.0f} s"
            raise ServerError(self._explain(state))
        announced = json.loads(line)
        self.port = announced["port"]
        self.loop_class = announced["loop"]

    def _explain(self, state: str) -> str:
        if self._errors is None:
            return state
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        # The last line of a traceback, or the one-line reason of the server itself, says it.
        return lines[-1] if lines else f"the server on {self.loop} {state} without a word"

    def warm_up(self) -> None:
        """Send it some requests and see that the answers are right.

        :raises ServerError: when an answer is wrong or the connection breaks.
        """
        request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.port), _START_TIMEOUT_S) as client:
                enough_s = time.monotonic() + _WARM_UP_S
                for _ in range(_WARM_UP_REQUESTS):
                    if time.monotonic() > enough_s:
                        break
                    client.sendall(request)
                    answer = b""
                    while not answer.endswith(BODY):
                        piece = client.recv(65536)
                        if not piece:
                            raise ServerError(self._explain("closed the connection"))
                        answer += piece
                    if not answer.startswith(b"HTTP/1.1 200"):
                        raise ServerError(f"{self.loop} answered {answer.splitlines()[0]!r}")
        except OSError as error:
            raise ServerError(f"{self.loop} did not answer: {error}") from error

    def usage(self) -> Usage:
        """What all threads of the server have spent.

        io_uring's kernel workers are threads of the process, so their time is in it.

        :raises ServerError: when the server is gone.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerError(self._explain("ended"))
        tasks = Path(f"/proc/{self._process.pid}/task")
        try:
            return _sum_usage(tasks)
        except FileNotFoundError as error:
            raise ServerError(self._explain("ended")) from error

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL. Returns when it is gone; may be called again."""
        process, self._process = self._process, None
        if process is not None:
            try:
                _end(process)
            finally:
                if process.stdout is not None:
                    process.stdout.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """A signal that would end the demo waits until the block is over.

    An exception that a signal handler raises inside Popen() leaves a process that nobody knows.
    """
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in held:
            signal.raise_signal(caught)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate, then kill; whatever interrupts the waiting, the process does not survive."""
    try:
        process.terminate()
        process.wait(_STOP_TIMEOUT_S)
    except BaseException as error:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _sum_usage(tasks: Path) -> Usage:
    cpu_s = user_s = system_s = 0.0
    switches = 0
    for task in tasks.iterdir():
        try:
            # Fields 14 and 15 of proc(5); the name in field 2 may contain spaces and brackets.
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            if tasks.exists():
                continue  # a thread that has just ended
            raise
        user_s += int(fields[11]) / _TICKS_PER_S
        system_s += int(fields[12]) / _TICKS_PER_S
        cpu_s += _thread_cpu_s(task, fields)
        for line in status.splitlines():
            if "voluntary_ctxt_switches" in line:
                switches += int(line.split()[1])
    return Usage(cpu_s, user_s, system_s, switches)


def _thread_cpu_s(task: Path, fields: list[str]) -> float:
    """CPU time of a thread: to the nanosecond where the kernel tells it, else to the clock tick."""
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
