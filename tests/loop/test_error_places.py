"""What an error says: which transport, which peer, which step; in the handler's context and in the log."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys

import pytest

from ..support.loops import caught_errors, in_thread, run
from ..support.net import Recorder, attach, dial, settle, tcp_pair, unix_pair

STALLED = 5_000_000  # bytes that no socket buffer takes at once


class Clumsy(Recorder):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def data_received(self, data):
        super().data_received(data)
        if self.where == "data_received":
            raise ArithmeticError(self.where)

    def pause_writing(self):
        super().pause_writing()
        if self.where == "pause_writing":
            raise ArithmeticError(self.where)

    def connection_lost(self, exc):
        super().connection_lost(exc)
        if self.where == "connection_lost":
            raise ArithmeticError(self.where)


def test_of_a_protocol_names_transport_peer_and_descriptor(clearway_factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Clumsy("data_received")
        host, port = peer.getsockname()
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)
            peer.send(b"x")
            await protocol.until_lost()
        assert errors[0]["transport"] is transport and errors[0]["protocol"] is protocol
        assert errors[0]["peer"] == f"{host}:{port}"
        assert errors[0]["step"] == f"input and output of descriptor {transport._sock_fd}"

    run(clearway_factory, main)


def test_the_step_is_the_task_whose_call_it_was(clearway_factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Clumsy("pause_writing")
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)

            async def write():
                transport.write(bytes(STALLED))

            await asyncio.create_task(write(), name="the writer")
            transport.abort()
            await protocol.until_lost()
        assert errors[0]["step"] == "task 'the writer'"

    run(clearway_factory, main)


def test_the_client_of_a_unix_socket_is_named_by_its_process(clearway_factory):
    async def main():
        ours, peer = unix_pair()
        protocol = Clumsy("data_received")
        with caught_errors() as errors, peer:
            await attach(ours, protocol)
            peer.send(b"x")
            await protocol.until_lost()
        assert errors[0]["peer"] == f"pid {os.getpid()}"

    run(clearway_factory, main)


def test_the_sender_of_a_datagram_is_the_peer(clearway_factory):
    class Broken(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            raise ArithmeticError

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Broken, ("127.0.0.1", 0))
        with caught_errors() as errors, socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.sendto(b"x", transport.get_extra_info("sockname"))
            while not errors:
                await settle(1)
            assert errors[0]["peer"] == f"127.0.0.1:{peer.getsockname()[1]}"
        transport.close()
        await settle()

    run(clearway_factory, main)


def test_a_subprocess_is_named_by_its_pid(clearway_factory):
    class Broken(asyncio.SubprocessProtocol):
        def process_exited(self):
            raise ArithmeticError

    async def main():
        loop = asyncio.get_running_loop()
        with caught_errors() as errors:
            transport, _ = await loop.subprocess_exec(
                Broken, sys.executable, "-c", "", stdin=subprocess.DEVNULL, stdout=None, stderr=None
            )
            while not errors:
                await asyncio.sleep(0.001)
            transport.close()
        assert errors[0]["peer"] == f"pid {transport.get_pid()}"

    run(clearway_factory, main)


def test_a_connection_without_a_protocol_is_named_by_its_peer(clearway_factory):
    def refuse():
        raise ArithmeticError

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(refuse, "127.0.0.1", 0)
        with caught_errors() as errors, dial(server.sockets[0].getsockname()) as client:
            await in_thread(client.recv, 1)
            assert errors[0]["peer"] == f"127.0.0.1:{client.getsockname()[1]}"
        server.close()
        await server.wait_closed()

    run(clearway_factory, main)


def test_a_streams_handler_is_named_with_its_peer_and_task(clearway_factory):
    async def main():
        async def handle(reader, writer):
            writer.close()
            raise ArithmeticError

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        with caught_errors() as errors, dial(server.sockets[0].getsockname()) as client:
            while not errors:
                await settle(1)
            assert errors[0]["peer"] == f"127.0.0.1:{client.getsockname()[1]}"
        server.close()
        await server.wait_closed()

    run(clearway_factory, main)


def test_a_callback_is_its_own_step(clearway_factory):
    """The context is asyncio's, key by key: the handle says it all."""

    def clumsy():
        raise ArithmeticError

    async def main():
        with caught_errors() as errors:
            handle = asyncio.get_running_loop().call_soon(clumsy)
            await settle()
        assert set(errors[0]) == {"message", "exception", "handle"}
        assert errors[0]["handle"] is handle and "clumsy" in errors[0]["message"]

    run(clearway_factory, main)


def test_a_callback_that_is_a_method_of_a_transport_names_its_peer(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)
            loop.call_soon(transport.write, "no bytes")
            await settle()
            assert errors[0]["transport"] is transport
            assert errors[0]["peer"] == "{}:{}".format(*peer.getsockname())
            transport.abort()
            await protocol.until_lost()

    run(clearway_factory, main)


@pytest.mark.parametrize("debug", [False, True])
def test_the_first_line_of_the_log_has_it_all(clearway_factory, caplog, debug):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        loop.set_exception_handler(None)
        ours, peer = tcp_pair()
        protocol = Clumsy("data_received")
        with caplog.at_level(logging.ERROR, "asyncio"), peer:
            transport = await attach(ours, protocol)
            fd = transport._sock_fd
            peer.send(b"x")
            await protocol.until_lost()
            host, port = peer.getsockname()
        (record,) = (r for r in caplog.records if r.levelno == logging.ERROR)
        first = record.getMessage().splitlines()[0]
        assert first == (
            "Fatal error: protocol.data_received() call failed. "
            f"[peer {host}:{port}, step input and output of descriptor {fd}]"
        )
        assert "transport: <clearway.StreamTransport" in record.getMessage()
        assert record.exc_info[0] is ArithmeticError

    run(clearway_factory, main)


def test_the_step_of_a_resumed_task_is_still_that_task(clearway_factory):
    """In mode "on" others have run in the middle of the step that then fails."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Clumsy("connection_lost")
        ticks = []

        def compute():
            while len(ticks) < 3:
                pass
            loop.call_exception_handler({"message": "by hand", "transport": protocol.transport})

        async def tick():
            while len(ticks) < 3:
                ticks.append(1)
                await asyncio.sleep(0)

        with caught_errors() as errors, peer:
            await attach(ours, protocol)
            loop.call_soon(compute)
            await asyncio.create_task(tick(), name="ticker")
            while not errors:
                await settle(1)
            assert "compute" in errors[0]["step"] and "ticker" not in errors[0]["step"]
            protocol.transport.abort()
            await protocol.until_lost()

    run(clearway_factory, main, preempt="on", quantum=0.001)
