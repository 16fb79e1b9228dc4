"""The commands that docs/integrations.md names: each serves on the loop that it should, and ends as a server should."""

from __future__ import annotations

import contextlib
import http.client
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.loops import Factory
from tests.support.programs import ROOT, environment

APPS = {
    "package:app": "tests.programs.plain_asgi:app",
    "package:web_app": "tests.programs.plain_asgi:web_app",
}

#: Seconds that a server may take to answer or to end before it counts as hanging.
LIMIT_S = 60.0


@dataclass(frozen=True)
class Server:
    """A documented command, what it is on asyncio's own loop, and how it is told its socket."""

    command: str
    control: str
    listen: str


SERVERS = {
    "uvicorn": Server(
        "uvicorn --loop clearway:new_event_loop package:app",
        "uvicorn --loop asyncio package:app",
        "--fd {fd}",
    ),
    "hypercorn": Server(
        "python -m clearway run -m hypercorn --workers 0 package:app",
        "hypercorn --workers 0 package:app",
        "--bind fd://{fd}",
    ),
    "gunicorn": Server(
        "gunicorn -k clearway.integrations.gunicorn.ClearwayWorker package:app",
        "gunicorn -k asgi --asgi-loop asyncio package:app",
        "--bind fd://{fd} --no-control-socket",
    ),
    "gunicorn with uvicorn": Server(
        "gunicorn -k clearway.integrations.uvicorn.ClearwayUvicornWorker package:app",
        "gunicorn -k uvicorn_worker.UvicornH11Worker package:app",
        "--bind fd://{fd} --no-control-socket",
    ),
    "gunicorn with aiohttp": Server(
        "gunicorn -k clearway.integrations.aiohttp.ClearwayWebWorker package:web_app",
        "gunicorn -k aiohttp.GunicornWebWorker package:web_app",
        "--bind fd://{fd} --no-control-socket",
    ),
}


@contextlib.contextmanager
def serving(
    server: Server, loop: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command as a process; gives it and its port.

    :param variables: of its environment.
    """
    command = server.control if loop == "asyncio" else server.command
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = f"{command} {server.listen.format(fd=listener.fileno())}"
        for name, app in APPS.items():
            line = line.replace(name, app)
        words = shlex.split(line)
        words = words[1:] if words[0] == "python" else ["-m", *words]
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment(CLEARWAY_ENGINE=loop if loop != "asyncio" else "auto", **variables),
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        port = listener.getsockname()[1]
    try:
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        said, _ = process.communicate()
        print(said)


def get(port: int, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Ask; a server that still starts finds the question in its socket's queue."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    connection.request("GET", path, headers={"Connection": "close"})
    return connection, connection.getresponse()


@pytest.mark.limit(2 * LIMIT_S)
@pytest.mark.parametrize("name", SERVERS)
def test_it_serves_on_its_loop_and_finishes_its_answers(
    factory: Factory, name: str, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    with serving(SERVERS[name], factory.name) as (process, port):
        connection, response = get(port, "/loop")
        with contextlib.closing(connection):
            assert response.read().decode() == factory.name
        connection, response = get(port, str(go_on).replace(" ", "%20"))
        with contextlib.closing(connection):
            assert response.readline() == b"waiting\n"
            process.send_signal(signal.SIGTERM)
            go_on.touch()
            assert response.read() == b"finished\n"
        # uvicorn ends by the signal that it was sent, the others with 0.
        assert process.wait(LIMIT_S) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("name", SERVERS)
def test_the_documentation_names_it(name: str) -> None:
    assert SERVERS[name].command in (ROOT / "docs" / "integrations.md").read_text()
