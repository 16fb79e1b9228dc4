"""A server in the running loop, and a raw client that sends exactly what it is told."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from clearway.cli.serve import server as server_module
from clearway.cli.serve.answers import Site
from clearway.cli.serve.lookup import Root
from clearway.cli.serve.mediatypes import MediaTypes
from clearway.cli.serve.server import Limits, Server
from tests.support.loops import in_thread
from tests.support.net import PEER_TIMEOUT_S


@dataclass
class Reply:
    """One response. ``fields`` by lower-case names."""

    status: int
    fields: dict[str, str]
    body: bytes


@asynccontextmanager
async def serving(
    directory: Path,
    *,
    limits: Limits | None = None,
    listings: bool = True,
    hidden: bool = False,
) -> AsyncIterator[Server]:
    """Serve ``directory``; the server's ``port`` is where."""
    root = Root(os.fspath(directory))
    site = Site(root, MediaTypes("utf-8"), listings=listings, hidden=hidden)
    server = Server(site, limits or Limits(connections=100), None)
    ((_, port),) = await server.start("127.0.0.1", 0)
    server.port = port  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        await server.stop()
        root.close()


@pytest.fixture
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SWEEP_S", 0.01)


class Client:
    """A connection whose every byte is the test's. Its methods block: call them in a thread."""

    def __init__(self, server: Server, *, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(PEER_TIMEOUT_S)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", server.port))  # type: ignore[attr-defined]
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, *, head: bool = False) -> Reply:
        """The next response.

        :param head: it answers a HEAD.
        """
        line = self.file.readline()
        assert line.startswith(b"HTTP/1.1 "), f"no status line: {line!r}"
        fields: dict[str, str] = {}
        while (field := self.file.readline()) != b"\r\n":
            assert field.endswith(b"\r\n"), f"the head breaks off: {field!r}"
            name, _, value = field.decode("latin-1").partition(":")
            assert name.lower() not in fields, f"{name} came twice"
            fields[name.lower()] = value.strip()
        status = int(line.split()[1])
        body = b""
        if not head and status != 304:
            body = self.file.read(int(fields["content-length"]))
            assert len(body) == int(fields["content-length"]), "the body breaks off"
        return Reply(status, fields, body)

    def ended(self) -> bool:
        """Whether nothing more comes; waits for it."""
        return self.file.read(1) == b""


def request(target: str, method: str = "GET", *lines: str) -> bytes:
    """The bytes of a request; ``lines`` are further header lines."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: here", *lines, "", ""]).encode(
        "latin-1"
    )


def _exchange(server: Server, requests: Sequence[bytes], heads: Sequence[bool]) -> list[Reply]:
    with Client(server) as client:
        client.send(b"".join(requests))
        return [client.reply(head=head) for head in heads]


async def ask(server: Server, target: str, method: str = "GET", *lines: str) -> Reply:
    """One request on a connection of its own."""
    asked = [request(target, method, *lines)]
    (reply,) = await in_thread(_exchange, server, asked, [method == "HEAD"])
    return reply


async def ask_all(server: Server, *targets: str) -> list[Reply]:
    """One GET after the other, pipelined."""
    return await in_thread(
        _exchange, server, [request(target) for target in targets], [False] * len(targets)
    )
