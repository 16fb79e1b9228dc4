"""Peers that vanish, and exceptions out of every callback of a protocol."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ..support.loops import caught_errors, in_thread, run
from ..support.net import (
    BufferedRecorder,
    Echo,
    Recorder,
    attach,
    closed,
    dial,
    fill,
    listener,
    recv_all,
    recv_exactly,
    reset,
    settle,
    small_buffers,
    tcp_pair,
)


def test_a_reset_while_reading(factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        peer.send(b"last words")
        await protocol.until_received(10)
        reset(peer)
        assert isinstance(await protocol.until_lost(), ConnectionResetError)
        assert protocol.events == ["made", "data", "lost"]
        assert transport.is_closing()
        await settle()
        assert len(protocol.lost_with) == 1

    run(factory, main)


def test_a_reset_while_a_write_waits(factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(bytes(20_000_000))
        await settle()
        assert transport.get_write_buffer_size() > 0
        reset(peer)
        assert isinstance(await protocol.until_lost(), (ConnectionResetError, BrokenPipeError))
        assert len(protocol.lost_with) == 1
        transport.write(b"ignored")
        await settle()

    run(factory, main)


def test_a_reset_while_reading_is_paused_and_a_write_waits(factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.pause_reading()
        transport.write(bytes(20_000_000))
        await settle()
        reset(peer)
        assert isinstance(await protocol.until_lost(), (ConnectionResetError, BrokenPipeError))

    run(factory, main)


def test_a_reset_before_the_write(factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        await settle()
        reset(peer)
        transport.write(b"into the void")  # before the loop could hear of it
        error = await protocol.until_lost()
        assert isinstance(error, (ConnectionResetError, BrokenPipeError))
        assert len(protocol.lost_with) == 1

    run(factory, main)


def test_a_reset_while_closing_flushes(factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(bytes(20_000_000))
        transport.close()
        await settle()
        reset(peer)
        await protocol.until_lost()
        await settle()
        assert len(protocol.lost_with) == 1

    run(factory, main)


def test_many_peers_vanish_in_the_middle_of_an_echo(factory):
    """Whatever the moment of the reset: each connection ends once and the server goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        ended = []

        class Server(Echo):
            def connection_lost(self, exc):
                ended.append(exc)

        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        def vandal(number):
            sock = dial(address)
            small_buffers(sock)
            fill(sock, 10_000 * number)
            if number % 3 == 0:
                sock.recv(1)
            reset(sock) if number % 2 else sock.close()

        async with server:
            await asyncio.gather(*(in_thread(vandal, number) for number in range(1, 61)))
            while len(ended) < 60:
                await asyncio.sleep(0.001)
            with dial(address) as client:
                client.sendall(b"alive?")
                assert await in_thread(recv_exactly, client, 6) == b"alive?"
            while len(ended) < 61:
                await asyncio.sleep(0.001)
        assert all(error is None or isinstance(error, OSError) for error in ended)

    run(factory, main)


class Clumsy(Recorder):
    """Raises in the callback named `where`, once it has taken its notes."""

    where = ""

    def fail(self, name):
        if name == self.where:
            raise ArithmeticError(name)

    def connection_made(self, transport):
        super().connection_made(transport)
        self.fail("connection_made")

    def data_received(self, data):
        super().data_received(data)
        self.fail("data_received")

    def eof_received(self):
        super().eof_received()
        self.fail("eof_received")

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.fail("connection_lost")

    def pause_writing(self):
        super().pause_writing()
        self.fail("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        self.fail("resume_writing")


def named(error, protocol, where):
    """The report names the callback, and the protocol by reference or by class."""
    assert isinstance(error["exception"], ArithmeticError)
    text = f"{error['message']} {error.get('handle')!r} {error.get('protocol')!r}"
    assert where in text, error
    assert error.get("protocol") is protocol or "Clumsy" in text or "Transport" in text, error


@pytest.mark.parametrize("where", ["data_received", "eof_received"])
def test_an_exception_while_receiving_ends_the_connection(factory, pair, where):
    async def main():
        ours, peer = pair()
        protocol = Clumsy()
        protocol.where = where
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)
            peer.send(b"x")
            peer.shutdown(socket.SHUT_WR)
            lost_with = await protocol.until_lost()
        assert isinstance(lost_with, ArithmeticError)
        assert len(errors) == 1
        named(errors[0], protocol, where)
        assert errors[0]["transport"] is transport and errors[0]["protocol"] is protocol
        assert protocol.events.count("lost") == 1

    run(factory, main)


def test_an_exception_in_connection_made_is_reported(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Clumsy()
        protocol.where = "connection_made"
        with caught_errors() as errors, peer:
            await attach(ours, protocol)
            peer.send(b"x")
            await protocol.until_received(1)  # asyncio keeps such a connection
            await closed(protocol.transport, protocol)
        assert len(errors) == 1
        named(errors[0], protocol, "connection_made")

    run(factory, main)


def test_an_exception_in_connection_lost_is_reported_and_the_socket_closed(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Clumsy()
        protocol.where = "connection_lost"
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)
            await closed(transport, protocol)
            await settle()
            assert await in_thread(recv_all, peer) == b""
        assert len(errors) == 1
        named(errors[0], protocol, "connection_lost")

    run(factory, main)


@pytest.mark.parametrize("where", ["pause_writing", "resume_writing"])
def test_an_exception_in_flow_control_is_reported_and_the_data_flows(factory, pair, where):
    async def main():
        ours, peer = pair()
        protocol = Clumsy()
        protocol.where = where
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)
            transport.write(bytes(5_000_000))
            await in_thread(recv_exactly, peer, 5_000_000)
            await protocol.until(lambda: "resume" in protocol.events)
            await closed(transport, protocol)
        assert len(errors) == 1
        named(errors[0], protocol, where)
        assert errors[0]["transport"] is transport and errors[0]["protocol"] is protocol

    run(factory, main)


@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated", "empty"])
def test_an_exception_of_a_buffered_protocol_ends_the_connection(factory, pair, where):
    class Broken(BufferedRecorder):
        def get_buffer(self, sizehint):
            if where == "get_buffer":
                raise ArithmeticError(where)
            return bytearray() if where == "empty" else super().get_buffer(sizehint)

        def buffer_updated(self, nbytes):
            raise ArithmeticError(where)

    async def main():
        ours, peer = pair()
        protocol = Broken()
        with caught_errors() as errors, peer:
            transport = await attach(ours, protocol)
            peer.send(b"x")
            lost_with = await protocol.until_lost()
        assert isinstance(lost_with, RuntimeError if where == "empty" else ArithmeticError)
        assert len(errors) == 1
        assert errors[0]["transport"] is transport and errors[0]["protocol"] is protocol
        assert errors[0]["exception"] is lost_with
        assert ("get_buffer" if where == "empty" else where) in errors[0]["message"]

    run(factory, main)


def test_system_exit_in_a_protocol_leaves_the_loop(factory):
    """SystemExit and KeyboardInterrupt are nobody's to swallow."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()

        class Leaving(Recorder):
            def data_received(self, data):
                raise SystemExit(7)

        protocol = Leaving()
        await attach(ours, protocol)
        with peer:
            peer.send(b"x")
            await loop.create_future()

    loop = factory()
    try:
        with pytest.raises(SystemExit) as left:
            loop.run_until_complete(main())
        assert left.value.code == 7

        async def tidy():
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await settle()

        loop.run_until_complete(tidy())
    finally:
        loop.close()


def test_connection_refused_and_unreachable(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as sock:
            nobody = sock.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *nobody)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*nobody)
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, "/nonexistent/clearway")

    run(factory, main)


def test_a_protocol_factory_that_raises(factory):
    async def main():
        loop = asyncio.get_running_loop()

        def refuse():
            raise ArithmeticError("refuse")

        calls = []

        def moody():
            calls.append(1)
            if len(calls) == 1:
                raise ArithmeticError("moody")
            return Echo()

        server = await loop.create_server(moody, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with caught_errors() as errors:
            with pytest.raises(ArithmeticError):
                await loop.create_connection(refuse, *address)
            async with server:
                # The refused create_connection had connected: that was the moody one.
                while not calls:
                    await settle(1)
                with dial(address) as client:
                    client.sendall(b"again")
                    assert await in_thread(recv_exactly, client, 5) == b"again"
                await settle()
        # asyncio reports it in debug mode only; whoever reports it names the exception.
        assert all(isinstance(error["exception"], ArithmeticError) for error in errors)

    run(factory, main)
