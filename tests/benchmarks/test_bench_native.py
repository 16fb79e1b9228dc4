"""The load generators themselves: what they count is right, and what is wrong they notice."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import contestants, native, runner

#: A load generator that needs longer hangs.
TIMEOUT_S = 60


def load(port: int, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [str(native.build("loadgen")), f"--port={port}", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@contextmanager
def serving(handler: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of plain threads, one per connection, that runs ``handler``."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def run(connection: socket.socket) -> None:
        with connection:
            try:
                handler(connection)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(TIMEOUT_S)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.mark.parametrize("engine", ["epoll", "auto"])
def test_requests_are_counted_as_they_complete(engine: str) -> None:
    counts: list[int] = []

    def counting(connection: socket.socket) -> None:
        total = 0
        try:
            while data := connection.recv(65536):
                total += len(data)
                connection.sendall(data)
        finally:
            counts.append(total)

    with serving(counting) as port:
        code, report, _ = load(
            port,
            "--connections=3",
            "--size=700",
            "--seconds=0.2",
            "--warmup=0",
            f"--engine={engine}",
        )
    assert code == 0 and report["errors"] == 0 and report["unfinished"] == 0
    assert report["requests"] == report["latency_us"]["count"] > 0
    # Whole requests only, and no more beyond the window than one per connection.
    assert len(counts) == 3 and all(count % 700 == 0 for count in counts)
    assert 0 <= sum(counts) // 700 - report["requests"] <= 3


def test_verify_accepts_a_true_echo() -> None:
    with serving(echo) as port:
        code, report, _ = load(
            port, "--verify", "--connections=4", "--size=300000", "--seconds=0.2"
        )
    assert code == 0 and report["verified_bytes"] > 0 and report["mismatches"] == 0


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "change",
    [
        flip,
        lambda data: data + b"x",
        lambda data: data[:-1],
    ],
    ids=["changed", "added", "missing"],
)
def test_verify_notices_wrong_bytes(change: Callable[[bytes], bytes]) -> None:
    def wrong(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(change(data))

    with serving(wrong) as port:
        code, report, said = load(
            port, "--verify", "--connections=2", "--size=1000", "--seconds=0.1"
        )
    assert code == 3, (report, said)


@pytest.mark.parametrize("engine", ["epoll", "auto"])
def test_lost_connections_are_errors(engine: str) -> None:
    def rude(connection: socket.socket) -> None:
        for _ in range(3):
            connection.sendall(connection.recv(65536))

    with serving(rude) as port:
        _, report, said = load(port, "--connections=5", "--seconds=0.1", f"--engine={engine}")
    assert report["errors"] == 5
    assert "connection" in said


@pytest.mark.parametrize(
    "arguments",
    [["--port=1"], ["--port=0"], ["--port=x"], [], ["--port=1", "--engine=kqueue"], ["--bogus"]],
)
def test_bad_arguments_are_refused(arguments: list[str]) -> None:
    program = str(native.build("loadgen"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode in (1, 2) and done.stderr and not done.stdout


def test_percentiles_are_within_the_promised_error(tmp_path: Path) -> None:
    rng = random.Random(5)
    values = sorted(int(10 ** rng.uniform(0, 11)) for _ in range(5000))
    source = tmp_path / "percentiles.c"
    source.write_text(
        '#define _GNU_SOURCE\n#include "_loadgen.h"\n'
        "static struct histogram h;\n"
        "int main(void) {\n"
        "    unsigned long long v;\n"
        '    while (scanf("%llu", &v) == 1) histogram_add(&h, v);\n'
        '    printf("{"); histogram_json(&h, "h"); printf("}");\n'
        "}\n"
    )
    program = tmp_path / "percentiles"
    include = f"-I{native.SHARED.parent}"
    subprocess.run(["cc", "-w", include, "-o", str(program), str(source)], check=True)
    done = subprocess.run(
        [str(program)], input=" ".join(map(str, values)), capture_output=True, text=True
    )
    found = json.loads(done.stdout)["h"]
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("p99_9", 99.9)):
        exact = values[-(-int(percent * 10) * len(values) // 1000) - 1] / 1000
        assert found[name] == pytest.approx(exact, rel=0.009), name
    assert found["max"] == values[-1] / 1000 and found["count"] == 5000


def loops() -> list[str]:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return ["asyncio"]
    return ["asyncio", "uvloop"]


@pytest.mark.parametrize("mode", ["protocol", "buffered", "streams", "sock"])
@pytest.mark.parametrize("loop", loops())
def test_every_server_echoes_every_byte(loop: str, mode: str) -> None:
    server = contestants.echo_server(loop, mode=mode, python=contestants.default_python(), core=-1)
    situation = runner.Situation(
        "8", ("--verify", "--connections=8", "--size=200000", "--seconds=0.1", "--warmup=0")
    )
    generator = [str(native.build("loadgen"))]
    sample = runner.measure(server, generator, situation, timeout_s=TIMEOUT_S)
    assert sample.raw["verified_bytes"] > 0


def test_the_c_server_echoes_every_byte_and_its_use_is_seen() -> None:
    server = contestants.echo_server("c", mode="protocol", python="", core=-1)
    situation = runner.Situation(
        "8", ("--verify", "--connections=8", "--size=2000000", "--seconds=0.2", "--warmup=0")
    )
    generator = [str(native.build("loadgen"))]
    sample = runner.measure(server, generator, situation, timeout_s=TIMEOUT_S)
    assert sample.raw["server"]["cpu_s"] > 0 and sample.raw["server"]["threads"] == 1
    cpu, user, system = (sample.figure(f"{name}_us") for name in ("cpu", "user", "system"))
    assert cpu and user is not None and system is not None
    assert user + system == pytest.approx(cpu, rel=1e-3)


def test_a_server_that_fails_to_start_says_why() -> None:
    broken = runner.Server(
        "broken", (contestants.default_python(), "-c", "raise SystemExit('no luck')")
    )
    wanted = pytest.raises(runner.BenchmarkError, match=r"broken did not start.*\n.*no luck")
    with wanted, runner.running(broken):
        pass


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(native.BuildError, match="no-such-compiler"):
        native.build("loadgen")
