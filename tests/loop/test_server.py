"""Servers: their life from bind to wait_closed, over TCP and Unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat

import pytest

from ..support.loops import cancelled, caught_errors, in_thread, run
from ..support.net import (
    PEER_TIMEOUT_S,
    Echo,
    Recorder,
    attach,
    closed,
    dial,
    recv_all,
    recv_exactly,
    settle,
    tcp_pair,
    unix_path,
)


def ask(address, message=b"hello", family=socket.AF_INET):
    with socket.socket(family) as client:
        client.settimeout(PEER_TIMEOUT_S)
        client.connect(address)
        client.sendall(message)
        return recv_exactly(client, len(message))


def test_a_server_listens_until_it_is_closed(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        assert server.is_serving() and server.get_loop() is loop
        (sock,) = server.sockets
        address = sock.getsockname()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert await in_thread(ask, address) == b"hello"
        server.close()
        server.close()
        assert not server.is_serving() and tuple(server.sockets) == ()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await in_thread(ask, address)

    run(factory, main)


def test_connections_outlive_their_server(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        with dial(server.sockets[0].getsockname()) as client:
            client.sendall(b"1")
            assert await in_thread(recv_exactly, client, 1) == b"1"
            server.close()
            await settle()
            client.sendall(b"2")
            assert await in_thread(recv_exactly, client, 1) == b"2"
        await server.wait_closed()
        await settle()

    run(factory, main)


def test_start_serving_false_does_not_listen(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        address = server.sockets[0].getsockname()
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await in_thread(ask, address)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        assert await in_thread(ask, address) == b"hello"
        server.close()
        await server.wait_closed()

    run(factory, main)


def test_serve_forever_ends_by_cancellation_and_closes(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        address = server.sockets[0].getsockname()
        serving = loop.create_task(server.serve_forever())
        await settle()
        assert server.is_serving()
        assert await in_thread(ask, address) == b"hello"
        with pytest.raises(RuntimeError, match="serve_forever"):
            await server.serve_forever()
        await cancelled(serving)
        assert not server.is_serving() and tuple(server.sockets) == ()
        with pytest.raises(RuntimeError, match="closed"):
            await server.serve_forever()

    run(factory, main)


def test_the_context_manager_closes(factory):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            assert await in_thread(ask, server.sockets[0].getsockname()) == b"hello"
        assert not server.is_serving()

    run(factory, main)


def test_a_server_on_several_addresses(factory):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, ["127.0.0.1", "127.0.0.2"], 0)
        async with server:
            assert len(server.sockets) == 2
            for sock in server.sockets:
                assert await in_thread(ask, sock.getsockname()) == b"hello"

    run(factory, main)


def test_an_address_in_use(factory):
    import errno

    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            with pytest.raises(OSError) as caught:
                await loop.create_server(Echo, *address)
            assert caught.value.errno == errno.EADDRINUSE
            assert str(address[1]) in str(caught.value)

    run(factory, main)


def test_reuse_port_lets_two_servers_share(factory):
    async def main():
        loop = asyncio.get_running_loop()
        counts = [0, 0]

        def counting(number):
            def make():
                counts[number] += 1
                return Echo()

            return make

        first = await loop.create_server(counting(0), "127.0.0.1", 0, reuse_port=True)
        address = first.sockets[0].getsockname()
        second = await loop.create_server(counting(1), *address, reuse_port=True)
        for _ in range(64):
            assert await in_thread(ask, address) == b"hello"
        # The kernel spreads by a hash of the ports: all 64 on one side has probability 2**-63.
        assert sum(counts) == 64 and all(counts)
        for server in (first, second):
            server.close()
            await server.wait_closed()

    run(factory, main)


def test_accepted_and_connected_sockets_send_without_delay(factory):
    """asyncio sets TCP_NODELAY on both; without it small answers wait 40 ms for an ACK."""

    async def main():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        class Server(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                accepted.set_result(self)

        async with await loop.create_server(Server, "127.0.0.1", 0) as server:
            client = Recorder()
            transport, _ = await loop.create_connection(
                lambda: client, *server.sockets[0].getsockname()
            )
            protocol = await accepted
            for end in (transport, protocol.transport):
                sock = end.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert transport.get_extra_info("sockname") == protocol.transport.get_extra_info(
                "peername"
            )
            await closed(transport, client)
            await protocol.until_lost()

    run(factory, main)


def test_a_burst_of_connections_larger_than_the_backlog(factory):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0, backlog=10) as server:
            address = server.sockets[0].getsockname()

            def burst():
                socks = [dial(address) for _ in range(100)]
                for number, sock in enumerate(socks):
                    sock.sendall(b"%03d" % number)
                answers = [recv_exactly(sock, 3) for sock in socks]
                for sock in socks:
                    sock.close()
                return answers

            assert await in_thread(burst) == [b"%03d" % number for number in range(100)]
            await settle()

    run(factory, main)


def test_a_client_gone_before_it_was_accepted(factory):
    from ..support.net import reset

    async def main():
        loop = asyncio.get_running_loop()
        made = []

        class Server(Echo):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.append(transport)

        async with await loop.create_server(Server, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            for _ in range(10):
                reset(socket.create_connection(address))
            assert await in_thread(ask, address) == b"hello"
            await settle()
        await settle()

    run(factory, main)


def test_connections_under_way_when_the_server_closes_are_not_leaked(factory):
    """Accepted by the kernel or by the engine, not yet by the program: served or closed, not lost.

    `run` counts the descriptors; here the client must see an end.
    """
    if factory.name == "asyncio":
        pytest.skip("asyncio forgets a connection accepted in the turn of Server.close()")

    async def main():
        loop = asyncio.get_running_loop()
        for turns in range(6):
            server = await loop.create_server(Echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            clients = [dial(address) for _ in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            server.close()
            await settle()
            for client in clients:
                try:
                    client.shutdown(socket.SHUT_WR)
                    assert await in_thread(recv_all, client) == b""
                except (ConnectionResetError, OSError):
                    pass
                client.close()
            await server.wait_closed()
            await settle()

    run(factory, main)


def test_wait_closed_waits_for_the_connections(factory):
    import sys

    if sys.version_info < (3, 12, 1):
        pytest.skip("before 3.12.1 wait_closed did not wait")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        with dial(server.sockets[0].getsockname()) as client:
            client.sendall(b"x")
            assert await in_thread(recv_exactly, client, 1) == b"x"
            server.close()
            waiting = loop.create_task(server.wait_closed())
            await settle()
            assert not waiting.done()
        await waiting

    run(factory, main)


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_closing_the_clients_of_a_server(factory, how):
    if not hasattr(asyncio.Server, how):
        pytest.skip("new in 3.13")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        with dial(server.sockets[0].getsockname()) as client:
            client.sendall(b"x")
            assert await in_thread(recv_exactly, client, 1) == b"x"
            server.close()
            getattr(server, how)()
            try:
                assert await in_thread(recv_all, client) == b""
            except ConnectionResetError:
                assert how == "abort_clients"
            await server.wait_closed()

    run(factory, main)


def test_wrong_arguments_are_refused(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            with pytest.raises(ValueError):
                await loop.create_server(Echo, "127.0.0.1", 0, sock=sock)
            with pytest.raises(ValueError):
                await loop.create_server(Echo)
            with pytest.raises(ValueError):
                await loop.create_server(Echo, sock=datagram)
            with pytest.raises(TypeError):
                await loop.create_server(Echo, "127.0.0.1", 0, ssl=True)
            with pytest.raises(ValueError):
                await loop.create_connection(Echo, "127.0.0.1", 0, sock=sock)
            with pytest.raises(ValueError):
                await loop.create_connection(Echo)
            with pytest.raises(ValueError):
                await loop.connect_accepted_socket(Echo, sock=datagram)

    run(factory, main)


def test_connection_from_a_chosen_local_address(factory):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            protocol = Recorder()
            transport, _ = await loop.create_connection(
                lambda: protocol,
                *server.sockets[0].getsockname(),
                local_addr=("127.0.0.3", 0),
            )
            assert transport.get_extra_info("sockname")[0] == "127.0.0.3"
            transport.write(b"x")
            await protocol.until_received(1)
            await closed(transport, protocol)

    run(factory, main)


def test_a_name_that_has_several_addresses(factory):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            protocol = Recorder()
            port = server.sockets[0].getsockname()[1]
            transport, _ = await loop.create_connection(
                lambda: protocol, "localhost", port, happy_eyeballs_delay=0.05
            )
            transport.write(b"x")
            await protocol.until_received(1)
            await closed(transport, protocol)

    run(factory, main)


def test_a_unix_server(factory):
    async def main():
        loop = asyncio.get_running_loop()
        path = unix_path()
        server = await loop.create_unix_server(Echo, path)
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        assert server.sockets[0].getsockname() == path
        assert await in_thread(ask, path, b"unix", socket.AF_UNIX) == b"unix"
        protocol = Recorder()
        transport, _ = await loop.create_unix_connection(lambda: protocol, path)
        assert transport.get_extra_info("peername") == path
        transport.write(b"x")
        await protocol.until_received(1)
        await closed(transport, protocol)
        server.close()
        await server.wait_closed()
        # A socket that nobody listens on any more is replaced.
        if not os.path.exists(path):  # 3.13 removes it when the server is closed
            stale = socket.socket(socket.AF_UNIX)
            stale.bind(path)
            stale.close()
        async with await loop.create_unix_server(Echo, path):
            assert await in_thread(ask, path, b"again", socket.AF_UNIX) == b"again"

    run(factory, main)


def test_a_unix_server_with_an_abstract_name(factory):
    async def main():
        loop = asyncio.get_running_loop()
        name = f"\0clearway-test-{os.getpid()}"
        async with await loop.create_unix_server(Echo, name):
            assert await in_thread(ask, name, b"abstract", socket.AF_UNIX) == b"abstract"

    run(factory, main)


def test_a_unix_path_in_use_or_wrong(factory, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        (tmp_path / "file").write_text("not a socket")
        with pytest.raises(OSError):
            await loop.create_unix_server(Echo, str(tmp_path / "file"))
        assert (tmp_path / "file").read_text() == "not a socket"
        with pytest.raises(ValueError):
            await loop.create_unix_server(Echo)
        with socket.socket() as tcp, pytest.raises(ValueError):
            await loop.create_unix_server(Echo, sock=tcp)

    run(factory, main)


def test_an_exception_in_a_stream_handler_is_reported(factory):
    async def main():
        async def serve(reader, writer):
            raise ArithmeticError("handler")

        with caught_errors() as errors:
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                await reader.read()
                writer.close()
                try:
                    await writer.wait_closed()
                except ConnectionError:
                    pass
                while not errors:
                    await settle(1)
        assert isinstance(errors[0]["exception"], ArithmeticError)
        assert "transport" in errors[0]

    run(factory, main)


def test_attach_and_server_share_the_loop(factory):
    """Transports made in different ways side by side, closed in another order."""
    from ..support.net import tcp_pair

    async def main():
        loop = asyncio.get_running_loop()
        pairs = [tcp_pair() for _ in range(50)]
        protocols = [Recorder() for _ in pairs]
        for (ours, _), protocol in zip(pairs, protocols, strict=True):
            await attach(ours, protocol)
        for number, (_, peer) in enumerate(pairs):
            peer.send(b"%d" % number)
        for number in reversed(range(50)):
            await protocols[number].until_received(len(str(number)))
            assert protocols[number].data == b"%d" % number
            if number % 2:
                pairs[number][1].close()
            else:
                protocols[number].transport.close()
        for protocol in protocols:
            assert await protocol.until_lost() is None
        for _, peer in pairs:
            peer.close()
        assert loop.is_running()

    run(factory, main)


def test_an_accepted_connection_tells_of_itself_to_the_last_and_beyond(factory):
    """Addresses and socket, asked for early, late, or never before the end."""

    async def main():
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def build():
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(build, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for early in (True, False):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, address)
            name = client.getsockname()
            while len(made) < (1 if early else 2) or not made[-1].events:
                await asyncio.sleep(0)
            transport = made[-1].transport
            if early:
                face = transport.get_extra_info("socket")
                assert face is transport.get_extra_info("socket")
                assert face.getpeername() == name and face.gettimeout() == 0
                assert face.family == socket.AF_INET and face.type == socket.SOCK_STREAM
                assert face.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()
            await made[-1].until_lost()
            assert transport.get_extra_info("peername") == name
            assert transport.get_extra_info("sockname") == address
            face = transport.get_extra_info("socket")
            assert face.fileno() == -1 and face.family == socket.AF_INET
            assert transport.get_extra_info("nothing", 5) == 5
        server.close()
        await server.wait_closed()

    run(factory, main)


def test_what_a_program_adds_to_the_extra_info_is_found(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with peer:
            transport, _ = await loop.create_connection(Recorder, sock=ours)
            transport._extra["user"] = "me"
            assert transport.get_extra_info("user") == "me"
            assert set(transport._extra) == {"socket", "sockname", "peername", "user"}
            assert transport._extra["peername"] == peer.getsockname()
            transport.close()

    run(factory, main)
