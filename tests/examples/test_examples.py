"""The examples: each does what its text says."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearway.buffers import Memory
from clearway.transfer.pipes import pool
from tests.support import loops
from tests.support.loops import Factory, in_thread, until
from tests.support.net import (
    PEER_TIMEOUT_S,
    Recorder,
    pattern,
    recv_all,
    recv_exactly,
    reset,
    small_buffers,
)
from tests.support.programs import ROOT, environment, python, succeeded

EXAMPLES = ROOT / "examples"


def load(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    for example in EXAMPLES.glob("*.py"):
        assert f'"{example.stem}' in text, f"{example.name} has no test"


@pytest.mark.parametrize("engine", ["auto", "epoll"])
def test_arrays_between_processes(engine: str) -> None:
    pytest.importorskip("numpy")
    env = environment(CLEARWAY_ENGINE=engine)
    out = succeeded(python(str(EXAMPLES / "shared_channel.py"), "20", env=env))
    assert "20 frames, mean 9.5 (expected 9.5)" in out
    received = re.search(r"([\d,]+) bytes received, (\d+) copied here", out)
    assert received is not None, out
    assert int(received[1].replace(",", "")) >= 20 * 640 * 480 * 4
    assert received[2] == "0"


def test_a_race_is_found_and_a_lock_mends_it() -> None:
    found = python(str(EXAMPLES / "race_found.py"))
    assert found.returncode != 0 and "seed" in found.stdout + found.stderr
    succeeded(python(str(EXAMPLES / "race_found.py"), "--locked"))


# -- the proxy -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def peer_server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that hands each connection to ``serve`` in a thread; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PEER_TIMEOUT_S)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextlib.asynccontextmanager
async def proxying(port: int) -> Any:
    """The example's proxy in the running loop; gives it and its port."""
    proxy = load("proxy").Proxy("127.0.0.1", port)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        yield proxy, server.sockets[0].getsockname()[1]
        await until(lambda: len(asyncio.all_tasks()) == 1)


def run(factory: Factory, main: Any) -> None:
    async def whole() -> None:
        try:
            await main()
        finally:
            pool.trim()  # pipes that are kept for the next transfer are no leak

    loops.run(factory, whole)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PEER_TIMEOUT_S)


SIZE = 3_000_000


def test_the_proxy_passes_both_directions_and_their_ends(factory: Factory) -> None:
    def serve(connection: socket.socket) -> None:
        # Answers only when the question is over.
        question = recv_all(connection)
        connection.sendall(question[::-1])

    def ask(port: int) -> bytes:
        with connect(port) as sock:
            sock.sendall(pattern(SIZE))
            sock.shutdown(socket.SHUT_WR)
            return recv_all(sock)

    async def main() -> None:
        with peer_server(serve) as port:
            async with proxying(port) as (proxy, listening):
                answers = await asyncio.gather(*(in_thread(ask, listening) for _ in range(4)))
                assert answers == [pattern(SIZE)[::-1]] * 4
            assert proxy.moved == 8 * SIZE
            # But for what came in before the first step of the connection's task.
            assert proxy.copied < proxy.moved / 2

    run(factory, main)


def test_a_server_that_speaks_first_and_ends_first(factory: Factory) -> None:
    heard: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"welcome")
        connection.shutdown(socket.SHUT_WR)
        heard.append(recv_all(connection))

    def ask(port: int) -> None:
        with connect(port) as sock:
            assert recv_all(sock) == b"welcome"
            # The other direction is still open.
            sock.sendall(b"thank you")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""

    async def main() -> None:
        with peer_server(serve) as port:
            async with proxying(port) as (_, listening):
                await in_thread(ask, listening)
                await until(lambda: heard)
                assert heard == [b"thank you"]

    run(factory, main)


def test_a_lost_server_is_a_lost_connection_for_the_client(factory: Factory) -> None:
    def serve(connection: socket.socket) -> None:
        recv_exactly(connection, 4)
        connection.sendall(b"half of ")
        # Not before it has been passed on.
        recv_exactly(connection, 4)
        reset(connection)

    def ask(port: int) -> None:
        with connect(port) as sock:
            sock.sendall(b"ask ")
            assert recv_exactly(sock, 8) == b"half of "
            sock.sendall(b"more")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)

    async def main() -> None:
        with peer_server(serve) as port:
            async with proxying(port) as (_, listening):
                await in_thread(ask, listening)

    run(factory, main)


def test_nobody_to_pass_to(factory: Factory) -> None:
    def ask(port: int) -> None:
        with pytest.raises(ConnectionResetError), connect(port) as sock:
            sock.recv(1)

    async def main() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with proxying(nobody.getsockname()[1]) as (_, listening):
                await in_thread(ask, listening)

    run(factory, main)


def test_the_proxy_as_a_program() -> None:
    with peer_server(lambda sock: sock.sendall(recv_all(sock))) as port:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "proxy.py"), "0", "127.0.0.1", str(port)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            assert process.stdout is not None
            listening = int(process.stdout.readline().split(" -> ")[0].rpartition(":")[2])
            with connect(listening) as sock:
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                assert recv_all(sock) == b"hello"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0 and not err
        assert out.startswith("10 bytes moved")


def test_a_slow_reader_holds_the_sender_back(factory: Factory) -> None:
    moved = threading.Event()

    def serve(connection: socket.socket) -> None:
        small_buffers(connection)
        moved.wait(PEER_TIMEOUT_S)

    async def main() -> None:
        with peer_server(serve) as port:
            async with proxying(port) as (proxy, listening):
                protocol = Recorder()
                loop = asyncio.get_running_loop()
                sender, _ = await loop.create_connection(lambda: protocol, "127.0.0.1", listening)
                for _ in range(64):
                    sender.write(bytes(1 << 20))
                # The sender's own loop is told to stop: memory nowhere holds it all.
                await until(lambda: "pause" in protocol.events)
                sender.abort()
                moved.set()
                assert proxy.moved < 64 << 20

    run(factory, main)


# -- framing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "epoll"])
def test_the_program_that_parses_in_place(engine: str) -> None:
    out = succeeded(python(str(EXAMPLES / "framing.py"), env=environment(CLEARWAY_ENGINE=engine)))
    said = re.search(r"200 messages, 490,000 bytes echoed, ([\d,]+) copied", out)
    assert said is not None, out
    assert int(said[1].replace(",", "")) < 490_000 / 2
    assert "GET /index.html of example.org" in out


def lease_of(data: bytes) -> Any:
    return Memory(data).lend()


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 60), max_size=30))
def test_messages_are_whole_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    framing = load("framing")
    frames = framing.Frames()
    data = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
    found = []
    for size in [*cuts, len(data)]:
        piece, data = data[:size], data[size:]
        for message in frames.feed(lease_of(piece)):
            with message:
                found.append(bytes(message))
    frames.close()
    assert found == messages


def test_a_message_in_one_piece_is_not_copied() -> None:
    frames = load("framing").Frames(limit=10)
    (message,) = frames.feed(lease_of(b"\0\0\0\5hello"))
    assert (bytes(message), frames.copied) == (b"hello", 0)
    message.release()
    with pytest.raises(ValueError, match="11 bytes"):
        list(frames.feed(lease_of(b"\0\0\0\x0b")))
    frames = load("framing").Frames()
    assert list(frames.feed(lease_of(b"\0\0\0\5hel"))) == []
    with pytest.raises(ValueError, match="within a message"):
        frames.close()


def test_the_head_of_a_request() -> None:
    framing = load("framing")
    with lease_of(b"PUT /a?b HTTP/1.1\r\nHost: here\r\nx-Empty:\r\n\r\n") as lease:
        head = framing.Head(lease)
        assert (head.method, head.target) == ("PUT", "/a?b")
        assert (head.field("HOST"), head.field("X-empty"), head.field("Cookie")) == (
            "here",
            "",
            None,
        )


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /\r\n\r\n",
        b" / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : here\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\n",
        b"",
    ],
)
def test_what_is_no_head_is_refused(text: bytes) -> None:
    with lease_of(text) as lease, pytest.raises(ValueError):
        load("framing").Head(lease)
