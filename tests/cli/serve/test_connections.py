"""Connections: kept, pipelined, refused, too slow, too many, and ended."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearway.cli.serve import server as server_module
from clearway.cli.serve.connection import AHEAD_MAX, HEAD_MAX
from clearway.cli.serve.server import Limits, Server
from tests.support.loops import Factory, in_thread, run, until
from tests.support.net import pattern, reset

from .client import Client, Reply, ask, ask_all, quick_sweeps, request, serving

__all__ = ["quick_sweeps"]

LARGE = 8 * 1024 * 1024


def wait_for(condition: Callable[[], Any]) -> None:
    """In a thread: wait for something that the loop's thread changes."""
    while not condition():
        time.sleep(0.001)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for number in range(10):
        (tmp_path / str(number)).write_text(f"content {number}")
    (tmp_path / "large").write_bytes(pattern(LARGE))
    return tmp_path


def test_a_connection_is_kept(factory: Factory, site: Path) -> None:
    def use(server: Server) -> list[Reply]:
        with Client(server) as client:
            replies = []
            for target, method in (
                ("/1", "GET"),
                ("/2", "HEAD"),
                ("/large", "GET"),
                ("/no", "GET"),
            ):
                client.send(request(target, method))
                replies.append(client.reply(head=method == "HEAD"))
            client.send(request("/3", "GET", "Connection: close"))
            replies.append(client.reply())
            assert client.ended()
            return replies

    async def main() -> None:
        async with serving(site) as server:
            replies = await in_thread(use, server)
            assert [reply.status for reply in replies] == [200, 200, 200, 404, 200]
            assert replies[-1].fields["connection"] == "close"
            assert not any("connection" in reply.fields for reply in replies[:-1])

    run(factory, main)


def test_pipelined_requests_are_answered_in_order(factory: Factory, site: Path) -> None:
    async def main() -> None:
        async with serving(site) as server:
            targets = [f"/{number % 10}" for number in range(3 * AHEAD_MAX)]
            targets.insert(5, "/large")
            replies = await ask_all(server, *targets)
            for target, reply in zip(targets, replies, strict=True):
                expected = (
                    pattern(LARGE) if target == "/large" else f"content {target[1:]}".encode()
                )
                assert reply.body == expected

    run(factory, main)


def test_a_request_in_single_bytes(factory: Factory, site: Path) -> None:
    def use(server: Server) -> list[Reply]:
        with Client(server) as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request("/1") + request("/2"):
                client.send(bytes([byte]))
            return [client.reply(), client.reply()]

    async def main() -> None:
        async with serving(site) as server:
            replies = await in_thread(use, server)
            assert [reply.body for reply in replies] == [b"content 1", b"content 2"]

    run(factory, main)


def test_a_client_that_ends_its_side_gets_its_answers(factory: Factory, site: Path) -> None:
    def use(server: Server) -> list[Reply]:
        with Client(server) as client:
            client.send(request("/large") + request("/1") + request("/2"))
            client.sock.shutdown(socket.SHUT_WR)
            replies = [client.reply() for _ in range(3)]
            assert client.ended()
            return replies

    async def main() -> None:
        async with serving(site) as server:
            replies = await in_thread(use, server)
            assert [len(reply.body) for reply in replies] == [LARGE, 9, 9]

    run(factory, main)


def test_http_1_0(clearway_factory: Factory, site: Path) -> None:
    def use(server: Server) -> None:
        with Client(server) as client:
            client.send(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.reply().fields["connection"] == "keep-alive"
            client.send(b"GET /1 HTTP/1.0\r\n\r\n")
            assert client.reply().fields["connection"] == "close"
            assert client.ended()

    async def main() -> None:
        async with serving(site) as server:
            await in_thread(use, server)

    run(clearway_factory, main)


GOOD = request("/1")
# What is sent -> the statuses that come back, after which the connection ends.
REFUSED: dict[str, tuple[bytes, list[int]]] = {
    "no HTTP": (b"GET /1 and so on\r\n\r\n", [400]),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: here\r\n\r\n", [501]),
    "another version": (b"GET / HTTP/2.0\r\nHost: here\r\n\r\n", [505]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 405, 505]),
    "no host": (b"GET /1 HTTP/1.1\r\n\r\n", [400]),
    "two hosts": (request("/1", "GET", "Host: there"), [400]),
    "two lengths": (request("/1", "GET", "Content-Length: 0", "Content-Length: 0"), [400]),
    "length and chunks": (
        request("/1", "POST", "Content-Length: 5", "Transfer-Encoding: chunked"),
        [400],
    ),
    "a field without a name": (request("/1", "GET", ": value"), [400]),
    "a space before the colon": (request("/1", "GET", "Name : value"), [400]),
    "a bare line feed in a field": (request("/1", "GET", "Name: a\nb"), [400]),
    "no path": (request("nothing"), [400]),
    "a long target": (request("/" + "x" * (HEAD_MAX + 1)), [414]),
    "a long field": (request("/1", "GET", "Name: " + "x" * HEAD_MAX), [431]),
    "an endless field": (b"GET / HTTP/1.1\r\nName: " + b"x" * (4 * HEAD_MAX), [431]),
    "many fields": (request("/1", "GET", *[f"A{i}: b" for i in range(1000)]), [431]),
    "a body": (request("/1", "POST", "Content-Length: 5") + b"GET /x", [405]),
    "a body of GET": (request("/1", "GET", "Content-Length: 5") + b"12345", [413]),
    "chunks": (request("/1", "PUT", "Transfer-Encoding: chunked") + b"0\r\n\r\n", [405]),
    "CONNECT": (b"CONNECT there:1 HTTP/1.1\r\nHost: there:1\r\n\r\n", [405]),
    "bad after good": (GOOD + GOOD + b"GET /1 no\r\n\r\n" + GOOD, [200, 200, 400]),
    "good after the last": (request("/1", "GET", "Connection: close") + GOOD, [200]),
    "an upgrade": (
        request("/1", "GET", "Connection: Upgrade", "Upgrade: h2c") + b"\x00\x01",
        [200],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(clearway_factory: Factory, site: Path, what: str) -> None:
    sent, expected = REFUSED[what]

    def use(server: Server) -> list[int]:
        with Client(server) as client:
            client.send(sent)
            statuses = []
            while client.file.peek(1):
                statuses.append(client.reply().status)
            return statuses

    async def main() -> None:
        async with serving(site) as server:
            statuses = await in_thread(use, server)
            if what == "HTTP/2":
                assert len(statuses) == 1 and statuses[0] in expected
            else:
                assert statuses == expected
            assert (await ask(server, "/1")).status == 200

    run(clearway_factory, main)


def test_other_methods(clearway_factory: Factory, site: Path) -> None:
    async def main() -> None:
        async with serving(site) as server:
            for method in ("POST", "DELETE", "OPTIONS", "TRACE"):
                reply = await ask(server, "/1", method)
                assert (reply.status, reply.fields["allow"]) == (405, "GET, HEAD")

    run(clearway_factory, main)


# -- slow, gone, and many ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_sweeps")
def test_clients_that_are_too_slow_to_ask(factory: Factory, site: Path) -> None:
    def use(server: Server) -> None:
        with Client(server) as silent, Client(server) as slow, Client(server) as idle:
            slow.send(b"GET /1 HT")
            idle.send(request("/1"))
            assert idle.reply().status == 200
            assert slow.reply().status == 408
            assert slow.ended()
            assert silent.ended()
            assert idle.ended()

    async def main() -> None:
        async with serving(site, limits=Limits(0.05, 0.05, connections=100)) as server:
            await in_thread(use, server)

    run(factory, main)


@pytest.mark.usefixtures("quick_sweeps")
def test_a_client_that_does_not_read_is_cut(factory: Factory, site: Path) -> None:
    def use(server: Server) -> int:
        with Client(server, receive_buffer=4096) as client:
            wait_for(lambda: server._connections)
            client.send(request("/large"))
            # Not one byte is taken until the server has given up.
            wait_for(lambda: not server._connections)
            taken = 0
            try:
                while part := client.sock.recv(1 << 20):
                    taken += len(part)
            except ConnectionResetError:
                pass
            return taken

    async def main() -> None:
        async with serving(site, limits=Limits(send_s=0.1, connections=100)) as server:
            assert await in_thread(use, server) < LARGE

    run(factory, main)


@pytest.mark.usefixtures("quick_sweeps")
def test_a_slow_client_that_goes_on_reading_is_served(factory: Factory, site: Path) -> None:
    asked = 12

    def use(server: Server) -> None:
        with Client(server, receive_buffer=1 << 16) as client:
            client.send(request("/large") * asked)
            for _ in range(asked):
                assert len(client.reply().body) == LARGE

    async def main() -> None:
        # Less than all of it takes, more than any pause in it.
        async with serving(site, limits=Limits(send_s=0.1, connections=100)) as server:
            await in_thread(use, server)

    run(factory, main)


def test_a_client_that_vanishes(factory: Factory, site: Path) -> None:
    def use(server: Server) -> None:
        client = Client(server, receive_buffer=4096)
        client.send(request("/large") * 3)
        client.sock.recv(1)
        client.file.close()
        reset(client.sock)

    async def main() -> None:
        async with serving(site) as server:
            await in_thread(use, server)
            await until(lambda: not server._connections)
            assert (await ask(server, "/1")).status == 200

    run(factory, main)


def test_a_file_that_becomes_shorter_breaks_the_connection(factory: Factory, site: Path) -> None:
    def use(server: Server) -> int:
        with Client(server, receive_buffer=4096) as client:
            client.send(request("/large"))
            head = client.sock.recv(1)
            os.truncate(site / "large", 100)
            received = len(head)
            try:
                while part := client.sock.recv(1 << 20):
                    received += len(part)
            except ConnectionResetError:
                pass
            return received

    async def main() -> None:
        async with serving(site) as server:
            assert await in_thread(use, server) < LARGE

    run(factory, main)


def test_as_many_connections_as_allowed(factory: Factory, site: Path) -> None:
    def use(server: Server) -> None:
        with Client(server) as first, Client(server) as second:
            for client in (first, second):
                client.send(request("/1"))
                assert client.reply().status == 200
            # The one that has been idle longest makes room.
            with Client(server) as third:
                third.send(request("/2"))
                assert third.reply().status == 200
                assert first.ended()
                second.send(b"GET ")
                third.send(b"GET ")
                wait_for(lambda: len(server._heads) == 2)
                # Nobody is idle now.
                with Client(server) as fourth:
                    assert fourth.reply().status == 503
                    assert fourth.ended()
                second.send(b"/1 HTTP/1.1\r\nHost: here\r\n\r\n")
                assert second.reply().status == 200

    async def main() -> None:
        async with serving(site, limits=Limits(connections=2)) as server:
            await in_thread(use, server)

    run(factory, main)


# -- the end -------------------------------------------------------------------------------------------------------


def test_answers_on_their_way_are_finished(factory: Factory, site: Path) -> None:
    def use(server: Server, go_on: Any) -> Reply:
        with Client(server, receive_buffer=4096) as idle, Client(server) as client:
            idle.send(request("/1"))
            assert idle.reply().status == 200
            client.send(request("/large"))
            client.file.peek(1)
            go_on()
            assert idle.ended()
            reply = client.reply()
            assert client.ended()
            return reply

    async def main() -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with serving(site) as server:
            task = asyncio.ensure_future(
                in_thread(use, server, lambda: loop.call_soon_threadsafe(begun.set))
            )
            await begun.wait()
        assert (await task).body == pattern(LARGE)

    run(factory, main)


def test_what_takes_too_long_at_the_end_is_cut(factory: Factory, site: Path) -> None:
    async def main() -> None:
        async with serving(site, limits=Limits(grace_s=0.05, connections=100)) as server:
            client = Client(server, receive_buffer=4096)
            client.send(request("/large"))
            await until(lambda: any(c.is_answering for c in server._connections))
        assert not server._connections
        client.file.close()
        client.sock.close()

    run(factory, main)


def test_an_error_of_the_disk_is_500(
    clearway_factory: Factory, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("clearway.cli.serve.answers.pread_now", fail)
    complaints: list[Exception] = []
    monkeypatch.setattr(server_module.Server, "report", lambda _, exc: complaints.append(exc))

    async def main() -> None:
        async with serving(site) as server:
            assert (await ask(server, "/1")).status == 500
            assert [type(exc) for exc in complaints] == [OSError]

    run(clearway_factory, main)
