"""Many connections on one thread, and too many: the limit on descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import resource
import socket
import subprocess
import sys
import threading

import pytest

from ..support.loops import caught_errors, in_thread, run
from ..support.net import PEER_TIMEOUT_S, Echo, recv_exactly, settle

CROWD = pathlib.Path(__file__).parent.parent / "support" / "crowd.py"


def threads_of_ours():
    """Threads that Python code started; the one that reports a slow step is the runtime's and is gone again."""
    return sum(not isinstance(thread, threading._DummyThread) for thread in threading.enumerate())


@pytest.fixture
def descriptor_limit():
    """Set the soft limit on descriptors for one test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def set_limit(soft):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))

    yield set_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.parametrize("count", [10_000])
def test_ten_thousand_connections_on_one_thread(factory, descriptor_limit, count):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < count + 100:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    descriptor_limit(hard)

    async def main():
        loop = asyncio.get_running_loop()
        open_now = set()
        peak = 0

        class Server(Echo):
            def connection_made(self, transport):
                nonlocal peak
                super().connection_made(transport)
                open_now.add(self)
                peak = max(peak, len(open_now))

            def connection_lost(self, exc):
                open_now.discard(self)

        threads = threads_of_ours()
        server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
        host, port = server.sockets[0].getsockname()
        child = subprocess.Popen(
            [sys.executable, str(CROWD), host, str(port), str(count), "3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            said = loop.create_future()
            loop.add_reader(child.stdout, lambda: said.done() or said.set_result(None))
            await said
            loop.remove_reader(child.stdout)
            line = child.stdout.readline()
            if line != b"ok\n":
                child.stdin.close()
                pytest.fail(f"the clients said: {(line + child.stdout.read()).decode()}")
            assert len(open_now) == peak == count
            assert threads_of_ours() == threads
            child.stdin.close()
            while open_now:
                await asyncio.sleep(0.01)
        finally:
            child.kill()
            child.stdout.close()
            child.wait()
            server.close()
        await server.wait_closed()

    run(factory, main)


def test_a_server_goes_on_accepting_after_the_descriptors_ran_out(factory, descriptor_limit):
    async def main():
        loop = asyncio.get_running_loop()
        clients = [socket.socket() for _ in range(8)]
        for client in clients:
            client.settimeout(PEER_TIMEOUT_S)
        fillers = []
        await in_thread(int)  # imports what starting a thread needs while that is possible
        with caught_errors() as errors:
            # Before the server: an accept in a ring goes by the limit that held when it was armed.
            descriptor_limit(max(int(name) for name in os.listdir("/proc/self/fd")) + 20)
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            await settle()
            try:
                while True:
                    fillers.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
            for _ in range(2):
                os.close(fillers.pop())
            for client in clients:
                client.connect(address)  # by the kernel, as long as the backlog has room
                client.sendall(b"hello")
            while not errors:
                await settle_without_descriptors(loop)
            # Two were accepted; the loop is not dead and does not spin in the error.
            served = [await in_thread(recv_exactly, client, 5) for client in clients[:2]]
            seen = len(errors)
            began = loop.time()
            for _ in range(20):
                await settle_without_descriptors(loop)
            # Tried again each second, however long these turns took; asyncio then reports it once per place in
            # the backlog.
            attempts = 2 + int(loop.time() - began)
            per_attempt = 100 if factory.name == "asyncio" else 1
            assert len(errors) <= seen + attempts * per_attempt, (
                "the error is reported in every turn"
            )
            for fd in fillers:
                os.close(fd)
        descriptor_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        assert served == [b"hello"] * 2
        for error in errors:
            assert error["exception"].errno == errno.EMFILE
            assert "accept" in error["message"]
        # No new event is needed for the six that wait.
        for client in clients[2:]:
            assert await in_thread(recv_exactly, client, 5) == b"hello"
        for client in clients:
            client.close()
        if factory.name == "asyncio":
            # Each error made a timer that starts the server again, be it closed by then.
            for timer in loop._scheduled:
                timer.cancel()
        server.close()
        await server.wait_closed()
        await settle()

    run(factory, main)


async def settle_without_descriptors(loop):
    """As `settle`, where no descriptor can be made: two timers, each by way of the kernel."""
    for _ in range(2):
        await asyncio.sleep(0.002)


def test_connecting_without_descriptors_fails_cleanly(factory, descriptor_limit):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        fillers = []
        descriptor_limit(max(int(name) for name in os.listdir("/proc/self/fd")) + 1)
        try:
            while True:
                fillers.append(os.dup(0))
        except OSError:
            pass
        try:
            with pytest.raises(OSError) as caught:
                await loop.create_connection(Echo, *address)
            assert caught.value.errno == errno.EMFILE
        finally:
            for fd in fillers:
                os.close(fd)
        server.close()
        await server.wait_closed()

    run(factory, main)
