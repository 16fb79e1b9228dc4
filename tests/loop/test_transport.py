"""Stream transports: writing, closing, half-closing, and what they tell about themselves."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from ..support.loops import in_thread, run
from ..support.net import (
    Recorder,
    attach,
    closed,
    fill,
    pattern,
    recv_all,
    recv_exactly,
    settle,
    small_buffers,
    tcp_pair,
)

BIG = 5_000_000  # more than any pair of kernel buffers on loopback takes at once


def test_events_come_in_the_documented_order(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        assert protocol.events == ["made"] and protocol.transport is transport
        peer.send(b"x")
        await protocol.until_received(1)
        peer.close()
        assert await protocol.until_lost() is None
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert transport.is_closing()

    run(factory, main)


def test_data_that_waits_is_not_delivered_before_connection_made(factory, pair):
    async def main():
        ours, peer = pair()
        peer.send(b"early")
        peer.close()
        protocol = Recorder()
        await attach(ours, protocol)
        await protocol.until_lost()
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert protocol.data == b"early"

    run(factory, main)


def test_close_flushes_what_was_written(factory, pair):
    data = pattern(BIG)

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(data)
        transport.close()
        transport.close()  # again: nothing happens
        assert transport.is_closing()
        await settle()
        assert not protocol.lost_with, "lost before the peer read anything"
        with peer:
            assert await in_thread(recv_all, peer) == data
        assert await protocol.until_lost() is None

    run(factory, main)


def test_a_closing_transport_reads_no_more(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(pattern(BIG))
        transport.close()
        peer.send(b"unwanted")
        await settle()
        with peer:
            try:
                await in_thread(recv_all, peer)
            except ConnectionResetError:
                pass  # what the kernel says when a socket is closed with data unread
            await protocol.until_lost()
        assert protocol.data == b""
        assert protocol.events.count("data") == 0

    run(factory, main)


def test_abort_drops_what_was_written(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(bytes(BIG))
        transport.abort()
        assert not protocol.lost_with, "connection_lost called from inside abort()"
        assert await protocol.until_lost() is None
        assert transport.get_write_buffer_size() == 0
        with peer:
            try:
                rest = await in_thread(recv_all, peer)
            except ConnectionResetError:
                rest = b""
            assert len(rest) < BIG

    run(factory, main)


@pytest.mark.parametrize("way", ["close", "abort"])
def test_closing_inside_each_callback(factory, pair, way):
    async def main():
        for where in ("connection_made", "data_received", "eof_received"):
            ours, peer = pair()

            class Closer(Recorder):
                pass

            def closing(self, *args, where=where):
                getattr(Recorder, where)(self, *args)
                getattr(self.transport, way)()

            setattr(Closer, where, closing)
            protocol = Closer()
            await attach(ours, protocol)
            if where != "connection_made":
                peer.send(b"1")
                await protocol.until(lambda p=protocol: p.data or p.lost_with)
            peer.close()
            assert await protocol.until_lost() is None
            await settle()
            assert protocol.events.count("lost") == 1
            assert protocol.events[-1] == "lost"

    run(factory, main)


def test_write_eof_flushes_then_half_closes(factory, pair):
    data = pattern(BIG)

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        assert transport.can_write_eof()
        transport.write(data)
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"after")
        with peer:
            assert await in_thread(recv_all, peer) == data
            # The other direction is still open.
            peer.sendall(b"still here")
            assert await protocol.until_received(10) == b"still here"
            peer.shutdown(socket.SHUT_WR)
            assert await protocol.until_lost() is None

    run(factory, main)


def test_eof_received_true_keeps_the_way_out_open(factory, pair):
    data = pattern(BIG)

    async def main():
        ours, peer = pair()
        protocol = Recorder(keep_open=True)
        transport = await attach(ours, protocol)
        with peer:
            peer.sendall(b"request")
            peer.shutdown(socket.SHUT_WR)
            await protocol.until(lambda: "eof" in protocol.events)
            await settle()
            assert not transport.is_closing() and not protocol.lost_with
            assert protocol.events == ["made", "data", "eof"], "eof_received called again"
            transport.write(data)
            transport.close()
            assert await in_thread(recv_all, peer) == data
        assert await protocol.until_lost() is None

    run(factory, main)


def test_eof_received_false_closes_after_the_flush(factory, pair):
    data = pattern(BIG)

    async def main():
        ours, peer = pair()

        class Answer(Recorder):
            def eof_received(self):
                self.transport.write(data)
                return super().eof_received()

        protocol = Answer()
        await attach(ours, protocol)
        with peer:
            peer.shutdown(socket.SHUT_WR)
            assert await in_thread(recv_all, peer) == data
        assert await protocol.until_lost() is None

    run(factory, main)


def test_both_halves_closed_by_us_after_eof(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder(keep_open=True)
        transport = await attach(ours, protocol)
        with peer:
            peer.shutdown(socket.SHUT_WR)
            await protocol.until(lambda: "eof" in protocol.events)
            transport.write(b"last")
            transport.write_eof()
            assert await in_thread(recv_all, peer) == b"last"
            await settle()
            await closed(transport, protocol)
        assert protocol.lost_with == [None]

    run(factory, main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [10, 100_000, BIG])
def test_write_takes_every_kind_of_buffer(factory, pair, kind, size):
    data = pattern(size)

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(b"")
        transport.write(kind(data))
        with peer:
            assert await in_thread(recv_exactly, peer, size) == data
            await closed(transport, protocol)

    run(factory, main)


@pytest.mark.parametrize("how", ["write", "writelines"])
@pytest.mark.parametrize("size", [10, 100_000, BIG])
def test_a_buffer_may_be_changed_after_write(factory, pair, how, size):
    if factory.name == "asyncio" and (sys.version_info >= (3, 12)):
        pytest.skip("from 3.12 on asyncio keeps a reference to what write() was given")
    data = pattern(size)

    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        owned = bytearray(data)
        view = memoryview(bytearray(data))
        if how == "write":
            transport.write(owned)
            transport.write(view)
        else:
            transport.writelines([owned, view])
        owned[:] = b"\xee" * size
        view[:] = b"\xee" * size
        owned.clear()  # BufferError if the transport still holds an export of it
        with peer:
            assert await in_thread(recv_exactly, peer, 2 * size) == data * 2
            await closed(transport, protocol)

    run(factory, main)


def test_a_slice_of_a_larger_buffer(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        whole = memoryview(pattern(100_000))
        transport.write(whole[5:50_005])
        transport.write(whole[::2][:10])  # not contiguous
        with peer:
            expected = bytes(whole[5:50_005]) + bytes(whole[::2][:10])
            assert await in_thread(recv_exactly, peer, len(expected)) == expected
            await closed(transport, protocol)

    if factory.name == "asyncio":
        # asyncio hands a strided view to send(), which refuses it and closes the connection.
        pytest.skip("asyncio does not send strided views")
    run(factory, main)


def test_writelines_in_order_with_write(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        parts = [b"%d," % number * 50 for number in range(3000)]  # more than IOV_MAX
        transport.write(b"<")
        transport.writelines(parts)
        transport.writelines([])
        transport.writelines(part for part in [b"", b"gen", bytearray(b"era"), memoryview(b"tor")])
        transport.write(b">")
        expected = b"<" + b"".join(parts) + b"generator>"
        with peer:
            assert await in_thread(recv_exactly, peer, len(expected)) == expected
            await closed(transport, protocol)

    run(factory, main)


@pytest.mark.parametrize("parts", [1, 63, 64, 65, 129, 1000, 5000])
def test_many_small_parts_to_a_slow_reader(factory, pair, parts):
    """The output leaves in batches; none of them may be the last one the loop wakes up for."""

    async def main():
        ours, peer = pair()
        small_buffers(ours, peer)
        protocol = Recorder()
        transport = await attach(ours, protocol)
        data = pattern(parts * 251)
        with peer:
            transport.write(bytes(200_000))  # fills the socket
            await settle()
            transport.writelines(data[at : at + 251] for at in range(0, len(data), 251))
            got = await in_thread(recv_exactly, peer, 200_000 + len(data))
            assert got[200_000:] == data
            await closed(transport, protocol)

    run(factory, main)


def test_wrong_arguments_are_refused(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        for wrong in ("text", 5, None, [b"x"]):
            with pytest.raises(TypeError):
                transport.write(wrong)
        with pytest.raises(TypeError):
            transport.writelines(["text"])
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=10, low=20)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=-1)
        transport.write(b"fine")
        with peer:
            assert await in_thread(recv_exactly, peer, 4) == b"fine"
            await closed(transport, protocol)

    run(factory, main)


def test_writing_after_the_end_is_ignored(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        peer.close()
        await protocol.until_lost()
        for _ in range(10):
            transport.write(b"nobody")
        transport.close()
        transport.abort()
        await settle()
        assert protocol.lost_with == [None]

    run(factory, main)


def test_what_a_transport_tells(factory):
    async def main():
        ours, peer = tcp_pair()
        names = ours.getsockname(), ours.getpeername()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.get_extra_info("peername") == names[1]
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_protocol() is protocol
        assert not transport.is_closing() and transport.is_reading()

        sock = transport.get_extra_info("socket")
        assert (sock.family, sock.type, sock.proto) == (ours.family, ours.type, ours.proto)
        assert sock.getsockname() == names[0] and sock.getpeername() == names[1]
        assert sock.fileno() == ours.fileno() >= 0
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.get_inheritable() is False
        assert sock.gettimeout() == 0
        sock.settimeout(0)
        sock.setblocking(False)
        with pytest.raises(ValueError):
            sock.settimeout(1)
        with pytest.raises(ValueError):
            sock.setblocking(True)
        twin = sock.dup()
        assert twin.getpeername() == names[1]
        twin.close()
        assert str(sock.fileno()) in repr(sock)

        peer.close()
        await protocol.until_lost()
        # A log line written in connection_lost still wants to say who it was.
        assert transport.get_extra_info("peername") == names[1]
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.is_closing()

    run(factory, main)


def test_shutdown_through_the_socket(factory):
    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:
            transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
            assert await in_thread(recv_all, peer) == b""
            peer.sendall(b"x")
            await protocol.until_received(1)
            await closed(transport, protocol)

    run(factory, main)


def test_names_of_a_peer_that_was_gone_before_we_looked(factory):
    async def main():
        from ..support.net import reset

        ours, peer = tcp_pair()
        reset(peer)
        await settle()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        error = await protocol.until_lost()
        assert isinstance(error, ConnectionResetError) or error is None
        assert transport.get_extra_info("sockname") is not None
        assert transport.get_extra_info("peername") is None

    run(factory, main)


def test_repr_says_the_state(factory):
    async def main():
        ours, peer = tcp_pair()
        fd = ours.fileno()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        assert f"fd={fd}" in repr(transport)
        with peer:
            await closed(transport, protocol)
        await settle()
        assert "clos" in repr(transport)

    run(factory, main)


@pytest.mark.parametrize("way", ["close", "abort"])
def test_a_closed_transport_lets_go_of_its_protocol(factory, way):
    import gc
    import weakref

    async def main():
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        with peer:
            getattr(transport, way)()
            await protocol.until_lost()
        await settle()
        refs = weakref.ref(protocol)
        del protocol
        del transport
        gc.collect()
        assert refs() is None

    run(factory, main)


def test_a_connection_in_use_survives_the_garbage_collector(factory):
    """Nobody but the loop refers to a server's connections."""
    import gc

    async def main():
        loop = asyncio.get_running_loop()
        from ..support.net import Echo

        ours, peer = tcp_pair()
        await loop.connect_accepted_socket(Echo, sock=ours)
        gc.collect()
        with peer:
            peer.sendall(b"ping")
            gc.collect()
            assert await in_thread(recv_exactly, peer, 4) == b"ping"
        await settle()

    run(factory, main)


def test_low_limits_of_the_kernel_do_not_matter(factory, pair):
    data = pattern(
        60_000
    )  # over TCP each 4 KiB waits for an acknowledgement that is delayed by 40 ms

    async def main():
        ours, peer = pair()
        small_buffers(ours, peer, size=4096)
        assert fill(peer, 0) == 0
        protocol = Recorder()
        transport = await attach(ours, protocol)
        transport.write(data)
        with peer:
            assert await in_thread(recv_exactly, peer, len(data)) == data
            await closed(transport, protocol)

    run(factory, main)
