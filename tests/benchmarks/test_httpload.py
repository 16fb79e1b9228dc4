"""The HTTP load generator against servers whose answers are known to the byte."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# By path: the module needs nothing of the package, and must be testable where that is not built.
SOURCE = Path(__file__).parents[2] / "src" / "clearway" / "cli" / "httpload.py"
spec = importlib.util.spec_from_file_location("clearway_cli_httpload_alone", SOURCE)
assert spec is not None and spec.loader is not None
httpload = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = httpload
spec.loader.exec_module(httpload)

Answer = Callable[[socket.socket, bytes], bool]
SHORT = {"seconds": 0.2, "warmup": 0.05, "drain": 1.0}


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """An HTTP server of threads; ``answer`` writes one response and says whether to go on."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def run(connection: socket.socket) -> None:
        with connection:
            head = b""
            try:
                while True:
                    while b"\r\n\r\n" not in head:
                        data = connection.recv(65536)
                        if not data:
                            return
                        head += data
                    request, _, head = head.partition(b"\r\n\r\n")
                    if not answer(connection, request):
                        return
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
        thread.join(30)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return httpload.build(tmp_path_factory.mktemp("httpload"))  # type: ignore[no-any-return]


def in_pieces(connection: socket.socket, data: bytes, size: int = 1) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(data), size):
        connection.sendall(data[at : at + size])


LENGTH = b"HTTP/1.1 200 OK\r\nX: Content-Length: 9\r\ncontent-LENGTH: 5\r\n\r\nhello"
CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: x\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def test_bodies_that_are_discarded(program: Path) -> None:
    body = bytes(3_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(head + body)
        return True

    with serving(answer) as port:
        result = httpload.run(port=port, connections=2, discard=True, program=program, **SHORT)
    fast = result.fast
    assert fast.requests > 1 and fast.broken == fast.not_2xx == fast.unfinished == 0
    # Whole answers, but for those at the edges of the window.
    assert abs(fast.bytes - fast.requests * (len(head) + len(body))) <= 2 * len(body)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize(
    "response", [LENGTH, CHUNKS, INTERIM, NO_CONTENT], ids=["length", "chunks", "interim", "204"]
)
def test_responses_that_keep_the_connection(program: Path, response: bytes, piece: int) -> None:
    answered = 0
    lock = threading.Lock()

    def answer(connection: socket.socket, request: bytes) -> bool:
        nonlocal answered
        in_pieces(connection, response, piece)
        with lock:
            answered += 1
        return True

    with serving(answer) as port:
        result = httpload.run(port=port, connections=3, program=program, **SHORT)
    fast = result.fast
    assert fast.requests > 0 and fast.broken == fast.not_2xx == fast.unfinished == 0
    assert fast.latency_us.count <= answered
    assert result.slow is None and result.server is None


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["to the end", "close"],
)
def test_responses_that_end_the_connection(program: Path, response: bytes) -> None:
    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(response)
        connection.shutdown(socket.SHUT_WR)
        return False

    with serving(answer) as port:
        result = httpload.run(port=port, connections=2, program=program, **SHORT)
    assert result.fast.requests > 2 and result.fast.broken == 0


@pytest.mark.parametrize(
    "response",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokSURPLUS",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"X" * 20_000,
    ],
    ids=["no HTTP", "surplus", "bad chunk", "endless head"],
)
def test_wrong_responses_are_broken_and_not_answers(program: Path, response: bytes) -> None:
    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(response)
        return True

    with serving(answer) as port:
        result = httpload.run(port=port, connections=2, program=program, **SHORT)
    assert result.fast.requests == 0 and result.fast.broken > 0


def test_errors_of_the_server_are_counted(program: Path) -> None:
    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
        return True

    with serving(answer) as port:
        fast = httpload.run(port=port, connections=2, program=program, **SHORT).fast
    assert fast.not_2xx == fast.requests > 0


def test_the_slow_class_is_kept_apart(program: Path) -> None:
    seen: set[bytes] = set()

    def answer(connection: socket.socket, request: bytes) -> bool:
        path = request.split()[1]
        seen.add(path)
        status = b"200 OK" if path == b"/quick?x=1" else b"404 Not Found"
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        return True

    with serving(answer) as port:
        result = httpload.run(
            port=port,
            path="/quick?x=1",
            connections=2,
            slow_connections=2,
            slow_path="/heavy",
            slow_rate=100,
            timeline_ms=50,
            program=program,
            **SHORT,
        )
    assert seen == {b"/quick?x=1", b"/heavy"}
    assert result.fast.not_2xx == 0 and result.fast.requests > 0
    assert result.slow is not None and result.slow.not_2xx == result.slow.requests > 0
    assert result.slow.requests <= 100 * result.seconds + 2
    assert sum(count for count, _ in result.fast.timeline) <= result.fast.requests
    assert len(result.fast.timeline) == 4


def test_requests_without_an_answer_are_not_forgotten(program: Path) -> None:
    release = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> bool:
        if b"/stuck" in request:
            release.wait(30)
            return False
        connection.sendall(LENGTH)
        return True

    with serving(answer) as port:
        result = httpload.run(
            port=port,
            connections=1,
            slow_connections=3,
            slow_path="/stuck",
            slow_rate=60,
            seconds=0.3,
            warmup=0.0,
            drain=0.05,
            program=program,
        )
        release.set()
    assert result.slow is not None
    assert result.slow.requests == 0
    assert result.slow.unfinished == result.slow.latency_us.count > 0


def test_nothing_listens(program: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = taken.getsockname()[1]
        with pytest.raises(httpload.HttpLoadError, match="nothing accepts"):
            httpload.run(port=port, program=program, **SHORT)


@pytest.mark.parametrize("path", ["no-slash", "/a b", '/"', "/a\r\nX: y"])
def test_paths_that_are_none(program: Path, path: str) -> None:
    with pytest.raises(httpload.HttpLoadError, match="not a path"):
        httpload.run(port=1, path=path, program=program, **SHORT)


def test_build_is_done_once_and_errors_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = httpload.build(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert httpload.build(tmp_path) == first and first.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(httpload.HttpLoadError, match="no-such-compiler"):
        httpload.build(tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(httpload.HttpLoadError, match="does not compile"):
        httpload.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_the_report_is_json_with_the_use_of_the_server(program: Path) -> None:
    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(LENGTH)
        return True

    with serving(answer) as port:
        result = httpload.run(port=port, connections=2, pid=os.getpid(), program=program, **SHORT)
    json.dumps(result.raw)
    assert result.server is not None and result.server.cpu_s > 0
    assert result.server.cpu_us_per_request is not None
