"""sock_*: results, cancellation without loss, errors."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from ..support.loops import cancelled, in_thread, run
from ..support.net import listener, pattern, recv_all, recv_exactly, reset, settle, tcp_pair


def test_connect_accept_send_receive(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as server, socket.socket() as client:
            server.setblocking(False)
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(server))
            await loop.sock_connect(client, server.getsockname())
            conn, address = await accepting
            with conn:
                assert address == client.getsockname()
                assert conn.gettimeout() == 0.0
                await loop.sock_sendall(client, b"question")
                assert await loop.sock_recv(conn, 100) == b"question"
                buffer = bytearray(b"........")
                await loop.sock_sendall(conn, memoryview(b"answer"))
                assert await loop.sock_recv_into(client, buffer) == 6
                assert buffer == b"answer.."
                conn.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(client, 100) == b""

    run(factory, main)


def test_accept_gives_connections_that_waited(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as server:
            server.setblocking(False)
            clients = [socket.create_connection(server.getsockname()) for _ in range(20)]
            names = [client.getsockname() for client in clients]
            for name in names:
                conn, address = await loop.sock_accept(server)
                assert address == name
                conn.close()
            for client in clients:
                client.close()

    run(factory, main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sendall_of_more_than_the_kernel_takes(factory, kind):
    data = pattern(6_000_000)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer:
            sending = loop.create_task(loop.sock_sendall(ours, kind(data)))
            await settle()
            assert not sending.done()
            got = await in_thread(recv_exactly, peer, len(data))
            await sending
            assert got == data

    run(factory, main)


def test_sendall_accepts_any_buffer_shape(factory):
    import array

    if factory.name == "asyncio":
        pytest.skip("asyncio slices a view by items but counts bytes, and waits for ever")

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer:
            numbers = array.array("I", range(1000))
            await loop.sock_sendall(ours, memoryview(numbers))
            assert await in_thread(recv_exactly, peer, 4000) == numbers.tobytes()
            await loop.sock_sendall(ours, b"")

    run(factory, main)


@pytest.mark.parametrize("turns", range(6))
def test_a_cancelled_recv_loses_nothing(factory, turns):
    """The data arrives before, at and after the cancellation, in every state of the loop."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer:
            for when in ("after", "before"):
                task = loop.create_task(loop.sock_recv(ours, 100))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if when == "before":
                    peer.send(b"payload")
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    got = await task
                except asyncio.CancelledError:
                    got = b""
                if when == "after":
                    assert got == b""
                    peer.send(b"payload")
                while len(got) < 7:
                    got += await loop.sock_recv(ours, 100)
                assert got == b"payload"

    run(factory, main)


def test_a_cancelled_recv_into_does_not_write_later(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer:
            buffer = bytearray(16)
            task = loop.create_task(loop.sock_recv_into(ours, buffer))
            await settle()
            await cancelled(task)
            peer.send(b"late")
            await settle()
            assert buffer == bytes(16), "written after the cancellation"
            assert await loop.sock_recv(ours, 100) == b"late"

    run(factory, main)


@pytest.mark.parametrize("turns", range(6))
def test_a_cancelled_accept_loses_no_connection(factory, turns):
    # asyncio accepts into a future that was cancelled meanwhile, and drops the connection.
    orders = ("after",) if factory.name == "asyncio" else ("after", "before")

    async def main():
        loop = asyncio.get_running_loop()
        with listener() as server:
            server.setblocking(False)
            for when in orders:
                task = loop.create_task(loop.sock_accept(server))
                for _ in range(turns):
                    await asyncio.sleep(0)
                client = None
                if when == "before":
                    client = socket.create_connection(server.getsockname())
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    conn, address = await task
                except asyncio.CancelledError:
                    client = client or socket.create_connection(server.getsockname())
                    conn, address = await loop.sock_accept(server)
                assert address == client.getsockname()
                conn.close()
                client.close()

    run(factory, main)


def test_timeouts_around_recv_lose_nothing(factory):
    """The form in which users meet it: a stream of data read under time-outs that often strike."""
    if factory.name == "asyncio":
        pytest.skip("asyncio drops what it received when the time-out strikes in the same turn")
    data = pattern(200_000)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()

        def trickle():
            for start in range(0, len(data), 1000):
                peer.sendall(data[start : start + 1000])
            peer.shutdown(socket.SHUT_WR)

        with ours, peer:
            sender = loop.run_in_executor(None, trickle)
            got = bytearray()
            while True:
                try:
                    async with asyncio.timeout(0.0002):
                        part = await loop.sock_recv(ours, 333)
                except TimeoutError:
                    continue
                if not part:
                    break
                got += part
            await sender
            assert got == data

    run(factory, main)


def test_a_cancelled_connect_leaves_the_socket_usable_for_close(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener(backlog=0) as server:
            # A backlog that is full keeps the last connect waiting for its handshake.
            fillers = []
            while True:
                sock = socket.socket()
                sock.setblocking(False)
                fillers.append(sock)
                connecting = loop.create_task(loop.sock_connect(sock, server.getsockname()))
                await settle()
                if not connecting.done():
                    break
                await connecting
            await cancelled(connecting)
            for sock in fillers:
                sock.close()

    run(factory, main)


def test_two_waits_of_one_kind_the_second_takes_over(factory):
    """asyncio lets a later sock_recv replace the earlier one's registration; both must end."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer:
            receiving = loop.create_task(loop.sock_recv(ours, 100))
            await settle()
            # Receiving and sending at once, on one socket.
            big = pattern(5_000_000)
            sending = loop.create_task(loop.sock_sendall(ours, big))
            await settle()
            peer.send(b"in")
            assert await receiving == b"in"
            assert await in_thread(recv_exactly, peer, len(big)) == big
            await sending

    run(factory, main)


def test_errors_of_the_socket_are_raised(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with listener() as server:
            free = server.getsockname()
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as caught:
                await loop.sock_connect(client, free)
            assert str(free[1]) in str(caught.value)
        ours, peer = tcp_pair()
        with ours:
            receiving = loop.create_task(loop.sock_recv(ours, 100))
            await settle()
            reset(peer)
            with pytest.raises(ConnectionResetError):
                await receiving
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await loop.sock_sendall(ours, bytes(10_000_000))

    run(factory, main)


def test_a_peer_that_vanishes_ends_sendall(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours:
            sending = loop.create_task(loop.sock_sendall(ours, bytes(20_000_000)))
            await settle()
            reset(peer)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await sending

    run(factory, main)


def test_blocking_sockets_are_refused_in_debug_mode(factory):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with socket.socket() as sock:
            for call in (
                loop.sock_recv(sock, 1),
                loop.sock_recv_into(sock, bytearray(1)),
                loop.sock_sendall(sock, b"x"),
                loop.sock_accept(sock),
                loop.sock_connect(sock, ("127.0.0.1", 9)),
            ):
                with pytest.raises(ValueError, match="non-blocking"):
                    await call

    run(factory, main)


def test_a_socket_under_a_transport_is_refused(factory):
    from ..support.net import Recorder, attach, closed

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:
            for call in (loop.sock_recv(ours, 1), loop.sock_sendall(ours, b"x")):
                # The first call of asyncio's may succeed at once only for sending.
                try:
                    await asyncio.wait_for(call, 0.05)
                except RuntimeError as error:
                    assert "transport" in str(error)
                else:
                    pytest.skip("this loop's sock_sendall tries before it looks")
            await closed(transport, protocol)

    run(factory, main)


def test_datagrams(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
            for sock in (a, b):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            waiting = loop.create_task(loop.sock_recvfrom(b, 100))
            await settle()
            await cancelled(waiting)
            assert await loop.sock_sendto(a, b"one", b.getsockname()) == 3
            assert await loop.sock_recvfrom(b, 100) == (b"one", a.getsockname())
            await loop.sock_sendto(a, b"", b.getsockname())
            assert await loop.sock_recvfrom(b, 100) == (b"", a.getsockname())
            buffer = bytearray(5)
            waiting = loop.create_task(loop.sock_recvfrom_into(b, buffer, 3))
            await settle()
            await loop.sock_sendto(a, b"xyz", b.getsockname())
            assert await waiting == (3, a.getsockname())
            assert buffer == b"xyz\0\0"

    run(factory, main)


def test_unix_sockets(factory, tmp_path):
    from ..support.net import unix_path

    async def main():
        loop = asyncio.get_running_loop()
        path = unix_path()
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            for sock in (server, client):
                sock.setblocking(False)
            server.bind(path)
            server.listen()
            await loop.sock_connect(client, path)
            conn, _ = await loop.sock_accept(server)
            with conn:
                await loop.sock_sendall(conn, b"hello")
                assert await loop.sock_recv(client, 9) == b"hello"

    run(factory, main)


@pytest.mark.parametrize("offset, count", [(0, None), (7, 1000), (999_990, None), (0, 500_000)])
def test_sock_sendfile(factory, tmp_path, offset, count):
    data = pattern(1_000_000)
    (tmp_path / "file").write_bytes(data)
    expected = data[offset:] if count is None else data[offset : offset + count]

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        with ours, peer, open(tmp_path / "file", "rb") as file:
            sending = loop.create_task(loop.sock_sendfile(ours, file, offset, count))
            assert await in_thread(recv_exactly, peer, len(expected)) == expected
            assert await sending == len(expected)
            assert file.tell() == offset + len(expected)
            ours.shutdown(socket.SHUT_WR)
            assert await in_thread(recv_all, peer) == b""

    run(factory, main)


def test_recv_of_a_closed_socket_raises(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        peer.close()
        ours.close()
        with pytest.raises((OSError, ValueError)) as caught:
            await loop.sock_recv(ours, 1)
        if isinstance(caught.value, OSError):
            assert caught.value.errno == errno.EBADF

    run(factory, main)
