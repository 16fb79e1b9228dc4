"""Errors of the operating system name the address and say what to do; type, errno and asyncio's text stay."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
from contextlib import contextmanager

import pytest

from ..support.loops import in_thread, run
from ..support.net import Echo, Recorder, listener, recv_exactly, unix_path


@contextmanager
def few_descriptors():
    """At most some twenty more descriptors can be opened in here."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 20, limits[1]))
    try:
        yield free + 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def no_descriptors():
    """All that can be opened are."""
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for fd in taken:
            os.close(fd)


async def failing(error, number, awaitable, *texts):
    with pytest.raises(error) as caught:
        await awaitable
    assert caught.value.errno == number
    for text in texts:
        assert text in str(caught.value), str(caught.value)
    assert caught.value.remedy and str(caught.value).count(caught.value.remedy) == 1
    return caught.value


def test_an_address_in_use(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as sock:
            address = sock.getsockname()
            await failing(
                OSError,
                errno.EADDRINUSE,
                loop.create_server(Recorder, *address),
                f"error while attempting to bind on address {address!r}",
                "ss -lptn",
                "reuse_port",
            )
            with socket.socket() as second:  # bound to what another one listens on
                second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with socket.socket() as first:
                    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    first.bind(("127.0.0.1", 0))
                    second.bind(first.getsockname())
                    first.listen()
                    await failing(
                        OSError,
                        errno.EADDRINUSE,
                        loop.create_server(Recorder, sock=second),
                        f"127.0.0.1:{first.getsockname()[1]}",
                        "ss -lptn",
                    )

    run(clearway_factory, main)


def test_a_datagram_address_in_use(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            await failing(
                OSError,
                errno.EADDRINUSE,
                loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock.getsockname()),
                f"127.0.0.1:{sock.getsockname()[1]}",
                "ss -apn",
            )

    run(clearway_factory, main)


def test_an_address_of_another_machine(clearway_factory):
    """192.0.2.1 is nobody's: RFC 5737."""

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError) as caught:  # 3.13 has no errno here
            await loop.create_server(Recorder, "192.0.2.1", 0)
        assert "('192.0.2.1', 0)" in str(caught.value) and "ip addr" in str(caught.value)
        await failing(
            OSError,
            errno.EADDRNOTAVAIL,
            loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("192.0.2.1", 0)),
            "192.0.2.1:0",
            "ip addr",
        )
        with listener() as sock, pytest.raises(OSError, match="ip addr"):
            await loop.create_connection(Recorder, *sock.getsockname(), local_addr=("192.0.2.1", 0))

    run(clearway_factory, main)


def test_nothing_listens(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as sock:
            nobody = sock.getsockname()
        await failing(
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            loop.create_connection(Recorder, *nobody),
            f"Connect call failed {nobody!r}; nothing listens",
        )
        await failing(
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            asyncio.open_connection(*nobody),
            f"Connect call failed {nobody!r}; nothing listens",
        )
        with socket.socket() as sock:
            sock.setblocking(False)
            await failing(
                ConnectionRefusedError,
                errno.ECONNREFUSED,
                loop.sock_connect(sock, nobody),
                repr(nobody),
            )

    run(clearway_factory, main)


def test_unix_sockets(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        path = unix_path()
        await failing(
            FileNotFoundError,
            errno.ENOENT,
            loop.create_unix_connection(Recorder, path),
            f"No such file or directory: {path}",
            "is the server running",
        )
        await failing(
            FileNotFoundError,
            errno.ENOENT,
            loop.create_unix_server(Recorder, path + "/missing/socket"),
            path + "/missing/socket",
            "does not exist",
        )
        with open(path, "w"):
            pass
        try:
            await failing(
                OSError,
                errno.EADDRINUSE,
                loop.create_unix_server(Recorder, path),
                f"Address {path!r} is already in use",
                "ss -lpxn",
            )
        finally:
            os.unlink(path)

    run(clearway_factory, main)


def test_a_unix_server_whose_queue_is_full(clearway_factory):
    """asyncio believes that it is connected, because nothing is on its way that could fail."""

    async def main():
        loop = asyncio.get_running_loop()
        path = unix_path()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(0)
            waiting = []
            try:
                with pytest.raises(BlockingIOError, match="queue of connections is full") as caught:
                    while len(waiting) < 10:
                        waiting.append(socket.socket(socket.AF_UNIX))
                        waiting[-1].setblocking(False)
                        await loop.sock_connect(waiting[-1], path)
                assert path in str(caught.value)
            finally:
                for sock in waiting:
                    sock.close()
                os.unlink(path)

    run(clearway_factory, main)


def test_a_name_that_does_not_exist(clearway_factory):
    """RFC 6761: nobody has a name under .invalid. Where no resolver answers, that is what is said."""

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror) as caught:
            await loop.create_connection(Recorder, "no-such-host.invalid", 80)
        assert caught.value.errno in (socket.EAI_NONAME, socket.EAI_AGAIN, -5)
        assert "no-such-host.invalid" in str(caught.value)
        if caught.value.errno != -5:
            assert caught.value.remedy

    run(clearway_factory, main)


def test_no_more_descriptors(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)  # its thread is there already
        with listener() as sock, few_descriptors() as limit, no_descriptors():
            advice = f"may have {limit} descriptors open"
            for opening in (
                loop.create_connection(Recorder, *sock.getsockname()),
                loop.create_unix_server(Recorder, unix_path()),
                asyncio.create_subprocess_exec(sys.executable, stdin=asyncio.subprocess.PIPE),
            ):
                await failing(OSError, errno.EMFILE, opening, advice, "ulimit -n")
            with pytest.raises(OSError, match=advice):
                await loop.create_server(Recorder, "127.0.0.1", 0)

    run(clearway_factory, main)


def test_accepting_without_descriptors_says_what_to_do(clearway_factory, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()
        contexts = []

        def handler(loop, context):
            contexts.append(context)
            loop.default_exception_handler(context)
            if not seen.done():
                seen.set_result(None)

        before = loop.get_exception_handler()
        loop.set_exception_handler(handler)
        with few_descriptors() as limit:
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            with caplog.at_level(logging.ERROR, "asyncio"), socket.socket() as client:
                with no_descriptors():
                    client.connect(server.sockets[0].getsockname())
                    await seen
                client.sendall(b"later")
                assert await in_thread(recv_exactly, client, 5) == b"later"
        first = caplog.records[0].getMessage().splitlines()[0]
        assert first.startswith("socket.accept() out of system resource")
        assert f"may have {limit} descriptors open" in first and "ulimit -n" in first
        assert contexts[0]["remedy"] in first
        loop.set_exception_handler(before)
        server.close()
        await server.wait_closed()

    run(clearway_factory, main)
