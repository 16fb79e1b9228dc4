"""Real processes that are told to end: by Ctrl-C or SIGTERM, in every mode, also while a step computes."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs.computing import REFUSED
from tests.support.loops import Factory
from tests.support.programs import ROOT, environment

from .test_commands import LIMIT_S, SERVERS, get, serving

needs_on = pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
MODES = ["off", "report", "io", pytest.param("on", marks=needs_on)]


class Program:
    """``tests.programs.interrupted`` as a process, with a client."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.client: socket.socket | None = None

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def begin(self, hog: str) -> None:
        """Until it serves and its hog computes."""
        word, port = self.line().split()
        assert word == "port"
        self.client = socket.create_connection(("127.0.0.1", int(port)))
        self.client.sendall(b"hello\n")
        assert self.client.recv(100) == b"hello\n"
        if hog != "none":
            assert self.line() == "computing"

    def end(self) -> tuple[int, list[str], str]:
        """Exit code, the lines it said since, and its standard error."""
        out, errors = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out.splitlines(), errors


@contextlib.contextmanager
def program(engine: str, mode: str, hog: str, *before: str, **variables: str) -> Iterator[Program]:
    process = subprocess.Popen(
        [sys.executable, *before, "-m", "tests.programs.interrupted", mode, hog],
        cwd=ROOT,
        env=environment(CLEARWAY_ENGINE=engine, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    running = Program(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        if running.client is not None:
            running.client.close()


def interrupted(code: int, errors: str) -> bool:
    """Whether it died of Ctrl-C as a Python program does, and of nothing else."""
    return code == -signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hog", ["none", "finite"])
def test_ctrl_c_ends_it_in_order(
    clearway_factory: Factory, mode: str, hog: str, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    with program(clearway_factory.name, mode, hog, GO_ON=str(go_on)) as it:
        it.begin(hog)
        it.process.send_signal(signal.SIGINT)
        if mode == "on" and hog != "none":
            # While the hog computes: nothing can release it but us.
            assert [it.line(), it.line()] == ["cancelled", "closed"]
        go_on.touch()
        code, lines, errors = it.end()
        assert interrupted(code, errors), errors
        if hog == "none":
            assert lines == ["cancelled", "closed"]
        elif mode != "on":
            assert lines == ["computed", "cancelled", "closed"]
        assert it.client is not None
        assert it.client.recv(100) == b"goodbye\n", "a connection's task was cancelled in order"


@pytest.mark.parametrize("mode", MODES)
def test_sigterm_is_heard_while_a_step_computes(
    clearway_factory: Factory, mode: str, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    with program(clearway_factory.name, mode, "finite", GO_ON=str(go_on)) as it:
        it.begin("finite")
        it.process.send_signal(signal.SIGTERM)
        said = []
        if mode == "on":
            said = [it.line(), it.line()]
            assert said == ["asked to stop", "closed"]
        go_on.touch()
        code, lines, errors = it.end()
        assert code == 0, errors
        assert sorted([*said, *lines]) == ["asked to stop", "closed", "computed", "ended"]
        assert it.client is not None
        assert it.client.recv(100) == b"goodbye\n"


@needs_on
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_that_never_ends_is_ended(clearway_factory: Factory, number: signal.Signals) -> None:
    with program(clearway_factory.name, "on", "endless") as it:
        it.begin("endless")
        it.process.send_signal(number)
        code, lines, errors = it.end()
        assert "closed" in lines and "computed" not in lines
        assert interrupted(code, errors) if number == signal.SIGINT else code == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_second_ctrl_c_ends_what_the_first_could_not(
    clearway_factory: Factory, mode: str
) -> None:
    with program(clearway_factory.name, mode, "endless") as it:
        it.begin("endless")
        it.process.send_signal(signal.SIGINT)
        if mode == "on":
            assert it.line() == "cancelled"
        else:
            # Python has dealt with the first when it no longer is pending; SIGINTs do not add up before that.
            until_taken(it.process.pid, signal.SIGINT)
        it.process.send_signal(signal.SIGINT)
        code, _, errors = it.end()
        assert interrupted(code, errors), errors


def until_taken(pid: int, number: int) -> None:
    """Wait until the process has run the handler: the step computes, and says in its state that it goes on."""
    before = _switches(pid)
    while _pending(pid, number) or _switches(pid) == before:
        pass


def _status(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    raise AssertionError(key)


def _pending(pid: int, number: int) -> bool:
    return bool(int(_status(pid, "ShdPnd"), 16) >> (number - 1) & 1)


def _switches(pid: int) -> int:
    return int(_status(pid, "nonvoluntary_ctxt_switches"))


@pytest.mark.parametrize("moment", ["start", "end"])
def test_ctrl_c_while_it_starts_or_ends(clearway_factory: Factory, moment: str) -> None:
    """Whatever is being made or taken down: it ends by KeyboardInterrupt, with nothing else to say."""
    with program(clearway_factory.name, "report", "none", STOP_AT=moment) as it:
        if moment == "end":
            it.begin("none")
            it.process.send_signal(signal.SIGTERM)
        code, _, errors = it.end()
        assert interrupted(code, errors), errors
        assert "Exception ignored" not in errors and "was never awaited" not in errors, errors


def test_under_clearway_run(clearway_factory: Factory, tmp_path: Path) -> None:
    """``clearway run -m module``: asyncio.run in the program makes the loop."""
    go_on = tmp_path / "go on"
    before = ("-m", "clearway", "run", "--preempt", "on", "--quantum", "2ms")
    with program(clearway_factory.name, "default", "finite", *before, GO_ON=str(go_on)) as it:
        it.begin("finite")
        it.process.send_signal(signal.SIGINT)
        assert [it.line(), it.line()] == ["cancelled", "closed"]
        go_on.touch()
        code, _, errors = it.end()
        assert interrupted(code, errors), errors


RUN_APP = """
import socket, sys
import clearway
from aiohttp import web
from tests.programs.plain_asgi import web_app
web.run_app(web_app, loop=clearway.new_event_loop(), sock=socket.socket(fileno=int(sys.argv[1])), print=None)
"""


@contextlib.contextmanager
def run_app(**variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_APP, str(listener.fileno())],
            cwd=ROOT,
            env=environment(**variables),
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        port = listener.getsockname()[1]
    try:
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        print(process.communicate()[0])


def ask_to_compute(port: int, go_on: Path) -> Any:
    connection, response = get(port, "/computing" + str(go_on))
    assert response.readline() == b"waiting\n"
    return connection, response


@pytest.mark.limit(2 * LIMIT_S)
@pytest.mark.parametrize("mode", ["off", pytest.param("on", marks=needs_on)])
@pytest.mark.parametrize("name", ["uvicorn", "gunicorn", "web.run_app"])
def test_servers_finish_an_answer_that_computes(name: str, mode: str, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    context: Any
    if name == "web.run_app":
        context = run_app(CLEARWAY_PREEMPT=mode)
    else:
        context = serving(SERVERS[name], "auto", CLEARWAY_PREEMPT=mode)
    with context as (process, port):
        connection, response = ask_to_compute(port, go_on)
        with contextlib.closing(connection):
            if mode == "on":  # somebody else is served meanwhile
                other, answer = get(port, "/loop")
                with contextlib.closing(other):
                    assert answer.read() in (b"uring", b"epoll")
            process.send_signal(signal.SIGTERM)
            go_on.touch()
            if name == "web.run_app":
                process.wait(LIMIT_S)  # it cancels what is being answered when it is told to end
            else:
                assert response.read() == b"finished\n"
        assert process.wait(LIMIT_S) in (0, -signal.SIGTERM)
