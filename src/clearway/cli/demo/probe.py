"""The clients of the second act: requests at a fixed rate, whether or not others are answered.

``python -m clearway.cli.demo.probe --port N`` prints one JSON object. A client that waits for each
answer before it asks again sees a stall of a tenth of a second once; the hundred others who would
have come meanwhile are never counted ("coordinated omission"; G. Tene, "How NOT to Measure
Latency", 2013). So a request has a time at which it is *due*, its latency runs from there, and a
connection that is still waiting is passed over for another one.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass

#: Connections opened beforehand: enough for the requests that come due during one slow handler.
_CONNECTIONS = 160
#: Opened at most; then requests wait for a connection, and that counts as latency.
_CONNECTIONS_MAX = 500

#: Seconds of fast requests before the first that counts.
_WARM_UP_S = 0.4
#: Seconds that answers are waited for after the last request.
_DRAIN_S = 5.0

#: Seconds over its own times after which a probe is given up.
_GRACE_S = 15.0

#: Paths of the slow requests, in turn.
SLOW_PATHS = ("/cpu", "/block")


class ProbeError(Exception):
    """The probe failed; the text says why."""


@dataclass(frozen=True)
class Answer:
    """One request. Times are CLOCK_MONOTONIC, nanoseconds.

    :param path: what was asked for.
    :param due_ns: when it was to be sent.
    :param ended_ns: when the whole answer was there.
    """

    path: str
    due_ns: int
    ended_ns: int

    @property
    def latency_ns(self) -> int:
        return self.ended_ns - self.due_ns


@dataclass(frozen=True)
class Report:
    """What the clients saw.

    :param began_ns: when the first request was due.
    :param answers: all requests that were answered with 200.
    :param errors: those that were not, and those without an answer at the end.
    """

    began_ns: int
    answers: tuple[Answer, ...]
    errors: int


class _Probe:
    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: list[socket.socket] = []
        self._asked: dict[int, tuple[str, int]] = {}
        self._queue: deque[tuple[str, int]] = deque()
        self.answers: list[Answer] = []
        self.errors = 0
        for _ in range(_CONNECTIONS):
            self._open()

    def _open(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), _GRACE_S)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(connection, select.EPOLLIN)
        self._sockets[connection.fileno()] = connection
        self._free.append(connection)

    def run(self, due: list[tuple[int, str]]) -> None:
        """Ask for each path at its time; returns when all are answered or given up."""
        position = 0
        end_ns = due[-1][0] + int(_DRAIN_S * 1e9)
        while position < len(due) or self._asked or self._queue:
            now = time.monotonic_ns()
            while position < len(due) and due[position][0] <= now:
                self._queue.append((due[position][1], due[position][0]))
                position += 1
            while self._queue and self._send():
                pass
            wake_ns = due[position][0] if position < len(due) else end_ns
            wait_s = (wake_ns - time.monotonic_ns()) / 1e9
            if wait_s < 0 and position == len(due):
                break
            # epoll_wait counts in milliseconds; select() on the epoll in microseconds.
            if select.select([self._epoll], [], [], max(wait_s, 0.0))[0]:
                for descriptor, _ in self._epoll.poll(0):
                    self._receive(descriptor)
        self.errors += len(self._asked) + len(self._queue)
        for connection in self._sockets.values():
            connection.close()
        self._epoll.close()

    def _send(self) -> bool:
        if not self._free:
            if len(self._sockets) >= _CONNECTIONS_MAX:
                return False
            self._open()
        path, due_ns = self._queue.popleft()
        connection = self._free.pop()
        self._asked[connection.fileno()] = (path, due_ns)
        try:
            connection.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        except OSError:
            self._drop(connection.fileno())
        return True

    def _receive(self, descriptor: int) -> None:
        connection = self._sockets[descriptor]
        try:
            answer = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            answer = b""
        now = time.monotonic_ns()
        if not answer or descriptor not in self._asked:
            self._drop(descriptor)
            return
        head, found, _ = answer.partition(b"\r\n\r\n")
        # uvicorn writes head and body apart; what ends the body ends the answer.
        if not found or not answer.endswith(b"}\n"):
            if head.startswith(b"HTTP/1.1 200"):
                return  # the body follows
            if head.startswith(b"HTTP/1.1"):
                self._drop(descriptor)
                return
        path, due_ns = self._asked.pop(descriptor)
        self.answers.append(Answer(path, due_ns, now))
        self._free.append(connection)

    def _drop(self, descriptor: int) -> None:
        connection = self._sockets.pop(descriptor)
        if self._asked.pop(descriptor, None) is not None:
            self.errors += 1
        if connection in self._free:
            self._free.remove(connection)
        self._epoll.unregister(descriptor)
        connection.close()


def schedule(
    began_ns: int, seconds: float, fast_rate: float, slow_rate: float
) -> list[tuple[int, str]]:
    """When which path is due: both classes evenly spaced, the slow paths in turn.

    :param fast_rate: requests per second for ``/``.
    :param slow_rate: requests per second for :data:`SLOW_PATHS` together; 0 for none.
    """
    gap_ns = 1e9 / fast_rate
    due = [(began_ns + int(i * gap_ns), "/") for i in range(int(seconds * fast_rate))]
    if slow_rate:
        # The first in the middle of its gap: what is drawn begins and ends with the road clear.
        gap_ns = 1e9 / slow_rate
        due += [
            (began_ns + int((i + 0.5) * gap_ns), SLOW_PATHS[i % len(SLOW_PATHS)])
            for i in range(int(seconds * slow_rate))
        ]
    return sorted(due)


def run(
    port: int, *, seconds: float, fast_rate: float, slow_rate: float, core: int | None = None
) -> Report:
    """Probe the server at ``port`` from a process of its own.

    :param seconds: length of the measurement.
    :param fast_rate, slow_rate: as for :func:`schedule`.
    :param core: the core to run on; None for any.
    :raises ProbeError: it ended without figures.
    """
    command = [sys.executable, "-m", "clearway.cli.demo.probe", "--port", str(port)]
    command += ["--seconds", str(seconds), "--fast", str(fast_rate), "--slow", str(slow_rate)]
    if core is not None:
        command += ["--core", str(core)]
    limit_s = _WARM_UP_S + seconds + _DRAIN_S + _GRACE_S
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            # Ctrl-C is for the demo, which then ends this.
            process_group=0,
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"the clients did not end within {limit_s:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ProbeError(f"the clients failed: {said[-1] if said else done.returncode}")
    raw = json.loads(done.stdout)
    return Report(raw["began_ns"], tuple(Answer(*item) for item in raw["answers"]), raw["errors"])


def main() -> None:
    """Run the schedule against a port and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m clearway.cli.demo.probe")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--fast", type=float, required=True, help="requests per second for /")
    parser.add_argument("--slow", type=float, default=0.0, help="and for the slow paths")
    parser.add_argument("--core", type=int)
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    probe = _Probe(arguments.port)
    warm_ns = time.monotonic_ns()
    began_ns = warm_ns + int(_WARM_UP_S * 1e9)
    due = schedule(warm_ns, _WARM_UP_S, arguments.fast, 0.0)
    due += schedule(began_ns, arguments.seconds, arguments.fast, arguments.slow)
    probe.run(due)
    answers = [(item.path, item.due_ns, item.ended_ns) for item in probe.answers]
    counted = [item for item in answers if item[1] >= began_ns]
    print(json.dumps({"began_ns": began_ns, "answers": counted, "errors": probe.errors}))


if __name__ == "__main__":
    main()
