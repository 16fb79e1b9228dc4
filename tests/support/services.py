"""PostgreSQL and Redis for the tests: real servers on loopback, gone when the tests are.

    python -m tests.support.services postgresql|redis

starts one in a temporary directory on a free port, prints a line of JSON with its address, and stops it when its
standard input ends. The process that asked for it holds the other end, so the server stops also when that process is
killed. As root, PostgreSQL is run as the user ``postgres``, which its Debian package makes: it refuses to be root.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
#: Seconds until a server must answer. Making a database cluster takes two; the machine may be busy.
START_LIMIT_S = 60.0
#: Seconds a server has to stop before it is killed.
STOP_LIMIT_S = 10.0
#: Another process may take the free port between our look and the server's bind.
ATTEMPTS = 3
#: Between two looks whether a server answers, seconds.
POLL_S = 0.02

#: Where Debian keeps PostgreSQL's programs, by version.
DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")

#: Names of services, comma-separated, that this machine is to be tested without.
WITHOUT = "CLEARWAY_TEST_WITHOUT"


class ServiceError(RuntimeError):
    """A service is not installed or does not start; the text says what to do."""


@dataclass(frozen=True)
class Address:
    """Where a service listens: TCP on loopback, and a Unix socket for what speaks that."""

    host: str
    port: int
    unix: str


def wanted(name: str) -> bool:
    """Whether the environment leaves this service in."""
    return name not in os.environ.get(WITHOUT, "").replace(",", " ").split()


@contextmanager
def running(name: str) -> Iterator[Address]:
    """Run a service in a process of its own while the block runs.

    :param name: "postgresql" or "redis".
    :raises ServiceError: it is not installed, or it did not start.
    """
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "tests.support.services", name],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us; the service ends when we let go of it
    )
    assert supervisor.stdin is not None and supervisor.stdout is not None
    try:
        line = supervisor.stdout.readline()
        if not line:
            raise ServiceError(f"{name} did not start; it said why above")
        yield Address(**json.loads(line))
    finally:
        supervisor.stdin.close()
        supervisor.stdout.close()
        supervisor.wait()


def main(name: str) -> int:
    # Whoever ends us goes through `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix=f"clearway-{name}-"))
    try:
        START[name](directory)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory)
    return 0


def start_redis(directory: Path) -> None:
    program = find("redis-server", "redis-server", "redis")
    unix = directory / "redis.sock"

    def command(port: int) -> list[str]:
        return [
            program,
            *("--bind", HOST, "--port", str(port), "--unixsocket", str(unix)),
            *("--dir", str(directory), "--save", "", "--appendonly", "no"),
        ]

    serve(command, lambda port: answers(port, b"PING\r\n", b"+PONG"), directory, unix, None)


def start_postgresql(directory: Path) -> None:
    program = find("postgres", "postgresql", "postgresql")
    owner = None
    if os.getuid() == 0:
        try:
            owner = pwd.getpwnam("postgres").pw_uid
        except KeyError:
            raise ServiceError(
                "PostgreSQL refuses to be run as root and there is no user postgres: install Debian's postgresql"
            ) from None
        os.chown(directory, owner, -1)
    data = directory / "data"
    initialise = [
        find("initdb", "postgresql", "postgresql"),
        "--pgdata",
        str(data),
        "--username",
        "postgres",
    ]
    initialise += ["--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    made = subprocess.run(
        initialise, user=owner, cwd=directory, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ServiceError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def command(port: int) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": str(directory),
            # What a crash would lose here, nobody wants back.
            "fsync": "off",
        }
        return [program, "-D", str(data), *(f"--{k}={v}" for k, v in settings.items())]

    ready = find("pg_isready", "postgresql", "postgresql")

    def answering(port: int) -> bool:
        asked = subprocess.run(
            [ready, "--host", HOST, "--port", str(port), "--quiet"], check=False, cwd=directory
        )
        return asked.returncode == 0

    serve(command, answering, directory, directory, owner)


START = {"postgresql": start_postgresql, "redis": start_redis}


def serve(
    command: Callable[[int], Sequence[str]],
    answering: Callable[[int], bool],
    directory: Path,
    unix: Path,
    user: int | None,
) -> None:
    """Run a server until standard input ends.

    :param command: the command line for a port.
    :param answering: whether it serves on that port already.
    :param unix: what a client is told about its Unix socket.
    :param user: the user it is run as; None for ours.
    """
    for attempt in range(1, ATTEMPTS + 1):
        port = free_port()
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port),
                user=user,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            if await_start(process, lambda port=port: answering(port)):  # type: ignore[misc]
                print(json.dumps({"host": HOST, "port": port, "unix": str(unix)}), flush=True)
                sys.stdin.read()
                return
        finally:
            stop(process)
        if attempt == ATTEMPTS:
            raise ServiceError(f"{process.args} did not start:\n{log.read_text()}")


def await_start(process: subprocess.Popen[bytes], answering: Callable[[], bool]) -> bool:
    """Wait until it answers; False when it ended or took too long."""
    until = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < until:
        if answering():
            return True
        time.sleep(POLL_S)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT is the fast shutdown of both: sessions are ended, nothing is waited for."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int, question: bytes, beginning: bytes) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=START_LIMIT_S) as connection:
            connection.sendall(question)
            return connection.recv(100).startswith(beginning)
    except OSError:
        return False


def find(program: str, package: str, service: str) -> str:
    """Where a program is, on PATH or where Debian keeps it; PostgreSQL's newest version.

    :raises ServiceError: nowhere.
    """
    found = shutil.which(program)
    if found is None:
        versions = DEBIAN_POSTGRESQL.glob(f"*/bin/{program}")
        newest = max(versions, default=None, key=lambda path: int(path.parts[-3]))
        found = newest and str(newest)
    if found is None:
        raise ServiceError(
            f"{program} is not here: install Debian's {package} (.ci/system-packages services does), "
            f"or leave its tests out with {WITHOUT}={service}"
        )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
