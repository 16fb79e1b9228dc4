"""Datagrams: what is sent arrives whole or not at all, errors are told and close nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import tempfile

import pytest

from ..support.loops import caught_errors, in_thread, run
from ..support.net import PEER_TIMEOUT_S, settle


class Mailbox(asyncio.DatagramProtocol):
    """Notes everything; ``echo`` sends each datagram back."""

    def __init__(self, echo=False):
        self.echo = echo
        self.got = []
        self.errors = []
        self.events = []
        self.changed = asyncio.Event()

    def note(self, event):
        self.events.append(event)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def datagram_received(self, data, addr):
        self.got.append((data, addr))
        if self.echo:
            self.transport.sendto(data, addr)
        self.changed.set()

    def error_received(self, exc):
        self.errors.append(exc)
        self.changed.set()

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exc):
        self.reason = exc
        self.note("lost")

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), PEER_TIMEOUT_S)

    async def count(self, number):
        await self.until(lambda: len(self.got) >= number)


async def endpoint(protocol=None, **options):
    protocol = Mailbox() if protocol is None else protocol
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, **options)
    return transport, protocol


async def gone(*transports):
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        await protocol.until(lambda protocol=protocol: protocol.events[-1] == "lost")
        assert protocol.events.count("lost") == 1


def plain(family=socket.AF_INET, address=("127.0.0.1", 0)):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(PEER_TIMEOUT_S)
    return sock


HOSTS = ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("connected", [True, False])
def test_echo_of_every_size(factory, host, connected):
    async def main():
        server, _ = await endpoint(Mailbox(echo=True), local_addr=(host, 0))
        address = server.get_extra_info("sockname")
        if connected:
            client, mail = await endpoint(remote_addr=address[:2])
            assert client.get_extra_info("peername") == address
        else:
            client, mail = await endpoint(local_addr=(host, 0))
        sizes = [1, 2, 512, 1472, 9000, 65_000]
        for number, size in enumerate(sizes, 1):
            client.sendto(bytes([number]) * size, None if connected else address)
            await mail.count(number)
        assert mail.got == [(bytes([n]) * size, address) for n, size in enumerate(sizes, 1)]
        await gone(client, server)

    run(factory, main)


def test_addresses_are_the_standard_library_s(factory):
    async def main():
        for host, family in zip(HOSTS, (socket.AF_INET, socket.AF_INET6), strict=True):
            transport, mail = await endpoint(local_addr=(host, 0))
            address = transport.get_extra_info("sockname")
            with plain(family, (host, 0)) as peer:
                peer.sendto(b"in", address)
                await mail.count(1)
                assert mail.got == [(b"in", peer.getsockname())]
                # The tuple as received, an equal one, a list, a name to be looked up.
                for target in (mail.got[0][1], tuple(peer.getsockname()), peer.getsockname()[:2]):
                    transport.sendto(b"out", target)
                    assert peer.recvfrom(10) == (b"out", address)
                if family == socket.AF_INET:
                    transport.sendto(b"name", ("localhost", peer.getsockname()[1]))
                    assert peer.recvfrom(10) == (b"name", address)
            await gone(transport)

    run(factory, main)


def test_hundreds_of_peers_keep_their_addresses(factory):
    """More than the address book has room for at once."""

    async def main():
        server, _ = await endpoint(Mailbox(echo=True), local_addr=("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        peers = [plain() for _ in range(700)]

        def exchange():
            for turn in range(2):
                for first in range(0, len(peers), 50):
                    some = peers[first : first + 50]
                    for peer in some:
                        peer.sendto(b"%d %d" % (turn, peer.getsockname()[1]), address)
                    for peer in some:
                        assert peer.recv(100) == b"%d %d" % (turn, peer.getsockname()[1])

        try:
            await in_thread(exchange)
        finally:
            for peer in peers:
                peer.close()
        await gone(server)

    run(factory, main)


def test_a_burst_arrives_in_order(factory):
    async def main():
        server, mail = await endpoint(Mailbox(echo=True), local_addr=("127.0.0.1", 0))
        with plain() as peer:
            for number in range(100):
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            await mail.count(100)
            assert [data for data, _ in mail.got] == [b"%d" % n for n in range(100)]
            back = await in_thread(lambda: [peer.recv(100) for _ in range(100)])
            assert back == [b"%d" % n for n in range(100)]
        await gone(server)

    run(factory, main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_sent_is_what_the_buffer_held(factory, kind):
    async def main():
        class Replies(Mailbox):
            def datagram_received(self, data, addr):
                block = bytearray(data)
                self.transport.sendto(kind(block), addr)
                block[:] = b"\xee" * len(block)
                super().datagram_received(data, addr)

        server, mail = await endpoint(Replies(), local_addr=("127.0.0.1", 0))
        with plain() as peer:
            for number in range(10):
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            await mail.count(10)
            back = await in_thread(lambda: [peer.recv(100) for _ in range(10)])
            assert back == [b"%d" % n for n in range(10)]
        await gone(server)

    run(factory, main)


def test_a_refused_datagram_is_an_error_and_no_end(factory):
    async def main():
        with plain() as taken:
            port = taken.getsockname()[1]
        transport, mail = await endpoint(remote_addr=("127.0.0.1", port))
        transport.sendto(b"nobody")
        await mail.until(lambda: mail.errors)
        assert isinstance(mail.errors[0], ConnectionRefusedError)
        assert not transport.is_closing()
        with plain(address=("127.0.0.1", port)) as peer:
            transport.sendto(b"somebody")
            got, sender = await in_thread(peer.recvfrom, 100)
            peer.sendto(b"answer", sender)
            assert got == b"somebody"
            await mail.count(1)
        await gone(transport)
        assert mail.reason is None

    run(factory, main)


def test_a_datagram_that_is_too_long_is_an_error_and_no_end(factory):
    async def main():
        server, mail = await endpoint(local_addr=("127.0.0.1", 0))
        client, notes = await endpoint(remote_addr=server.get_extra_info("sockname"))
        client.sendto(bytes(70_000))
        client.sendto(b"fits")
        await mail.count(1)
        await notes.until(lambda: notes.errors)
        assert [error.strerror for error in notes.errors] == ["Message too long"]
        assert mail.got[0][0] == b"fits"
        await gone(client, server)

    run(factory, main)


def test_an_error_within_a_batch_leaves_the_others_alone(factory):
    async def main():
        class Replies(Mailbox):
            def datagram_received(self, data, addr):
                self.transport.sendto(bytes(70_000) if data == b"3" else data, addr)
                super().datagram_received(data, addr)

        server, mail = await endpoint(Replies(), local_addr=("127.0.0.1", 0))
        with plain() as peer:
            for number in range(8):
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            await mail.until(lambda: len(mail.got) == 8 and mail.errors)
            back = await in_thread(lambda: [peer.recv(100) for _ in range(7)])
            assert back == [b"%d" % n for n in range(8) if n != 3]
            assert len(mail.errors) == 1
        await gone(server)

    run(factory, main)


def test_an_error_of_an_answer_is_told_within_the_protocol_s_own_call(factory):
    async def main():
        class Replies(Mailbox):
            def datagram_received(self, data, addr):
                self.transport.sendto(bytes(70_000), addr)
                self.after = list(self.errors)
                super().datagram_received(data, addr)

        server, mail = await endpoint(Replies(), local_addr=("127.0.0.1", 0))
        with plain() as peer:
            peer.sendto(b"x", server.get_extra_info("sockname"))
            await mail.count(1)
            assert [error.strerror for error in mail.after] == ["Message too long"]
        await gone(server)

    run(factory, main)


def test_an_exception_in_the_protocol_is_reported_and_no_end(factory):
    async def main():
        class Bad(Mailbox):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data == b"1":
                    raise ZeroDivisionError("on purpose")

        transport, mail = await endpoint(Bad(), local_addr=("127.0.0.1", 0))
        with caught_errors() as errors, plain() as peer:
            for number in range(4):
                peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            await mail.count(4)
            await settle()
            assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]
        await gone(transport)

    run(factory, main)


def test_close_in_the_middle_of_a_batch_ends_it(factory):
    async def main():
        class Once(Mailbox):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.sendto(b"last words", addr)
                self.transport.close()

        transport, mail = await endpoint(Once(), local_addr=("127.0.0.1", 0))
        with plain() as peer:
            for number in range(5):
                peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            await mail.until(lambda: mail.events[-1] == "lost")
            assert len(mail.got) == 1
            assert await in_thread(peer.recv, 100) == b"last words"

    run(factory, main)


def test_wrong_arguments(factory):
    async def main():
        transport, _ = await endpoint(local_addr=("127.0.0.1", 0))
        with pytest.raises(TypeError):
            transport.sendto("text", ("127.0.0.1", 1))
        with pytest.raises(TypeError):
            transport.sendto(None, ("127.0.0.1", 1))
        other, _ = await endpoint(remote_addr=transport.get_extra_info("sockname"))
        with pytest.raises(ValueError):
            other.sendto(b"x", ("127.0.0.1", 1))
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)
        assert isinstance(transport, asyncio.Transport)
        await gone(transport, other)

    run(factory, main)


def test_empty_datagrams(factory):
    async def main():
        transport, mail = await endpoint(local_addr=("127.0.0.1", 0))
        with plain() as peer:
            peer.sendto(b"", transport.get_extra_info("sockname"))
            await mail.count(1)
            assert mail.got == [(b"", peer.getsockname())]
            transport.sendto(b"", peer.getsockname())
            transport.sendto(b"end", peer.getsockname())
            expected = [b"", b"end"] if sys.version_info >= (3, 13) else [b"end"]
            assert [peer.recv(10) for _ in expected] == expected
        await gone(transport)

    run(factory, main)


def unix_names():
    directory = tempfile.mkdtemp(prefix="cw-")
    yield from (os.path.join(directory, "a"), os.path.join(directory, "b"))


@pytest.mark.parametrize("abstract", [True, False])
def test_unix_datagrams(factory, abstract):
    async def main():
        if abstract:
            ours, theirs = f"\0cw-{os.getpid()}-{id(main)}-a", f"\0cw-{os.getpid()}-{id(main)}-b"
        else:
            ours, theirs = unix_names()
        transport, mail = await endpoint(Mailbox(echo=True), local_addr=ours, family=socket.AF_UNIX)
        with plain(socket.AF_UNIX, theirs) as peer:
            for number in range(20):
                peer.sendto(b"%d" % number, ours)
                await mail.count(number + 1)
                assert peer.recvfrom(100) == (b"%d" % number, ours.encode() if abstract else ours)
            assert mail.got[0][1] == (theirs.encode() if abstract else theirs)
            # Longer than any UDP datagram.
            peer.sendto(bytes(150_000), ours)
            await mail.count(21)
            assert len(mail.got[-1][0]) == 150_000
            assert len(peer.recv(200_000)) == 150_000
        await gone(transport)

    run(factory, main)


def take(sock, count):
    return [sock.recv(2000) for _ in range(count)]


def narrow_pair():
    """Ours is connected to theirs, which has a name: asyncio takes a peer without one for none."""
    theirs = plain(socket.AF_UNIX, next(unix_names()))
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.connect(theirs.getsockname())
    ours.setblocking(False)
    return ours, theirs


def test_a_connected_peer_needs_no_name(clearway_factory):
    async def main():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        theirs.settimeout(PEER_TIMEOUT_S)
        transport, mail = await endpoint(sock=ours)
        with theirs:
            transport.sendto(b"out")
            assert theirs.recv(10) == b"out"
            theirs.send(b"in")
            await mail.count(1)
            assert mail.got == [(b"in", None)]
            await gone(transport)

    run(clearway_factory, main)


def test_a_full_peer_pauses_writing_and_nothing_is_lost(factory):
    """A Unix datagram socket's queue has room for few, so the sender has to wait."""

    async def main():
        ours, theirs = narrow_pair()
        transport, mail = await endpoint(sock=ours)
        transport.set_write_buffer_limits(high=20_000, low=5_000)
        assert transport.get_write_buffer_limits() == (5_000, 20_000)
        sent = 0
        while "pause" not in mail.events:
            transport.sendto(b"%8d" % sent + bytes(1000))
            sent += 1
        assert transport.get_write_buffer_size() > 20_000
        await settle()
        assert mail.events == ["made", "pause"]
        with theirs:
            got = await in_thread(lambda: [theirs.recv(2000) for _ in range(sent)])
            assert [int(data[:8]) for data in got] == list(range(sent))
            await mail.until(lambda: mail.events[-1] == "resume")
            if factory.is_clearway:  # asyncio 3.13.0 does not take the headers off again
                assert transport.get_write_buffer_size() == 0
            await gone(transport)

    run(factory, main)


def test_close_sends_what_is_pending_and_abort_does_not(factory):
    async def main():
        for end in ("close", "abort"):
            ours, theirs = narrow_pair()
            transport, mail = await endpoint(sock=ours)
            sent = 0
            while not transport.get_write_buffer_size():
                transport.sendto(b"%8d" % sent)
                sent += 1
            getattr(transport, end)()
            assert transport.is_closing()
            with theirs:
                taken = sent if end == "close" else sent - 1
                got = await in_thread(take, theirs, taken)
                assert [int(data) for data in got] == list(range(taken))
                await mail.until(lambda mail=mail: mail.events[-1] == "lost")
                theirs.setblocking(False)
                with pytest.raises(BlockingIOError):
                    theirs.recv(100)

    run(factory, main)


def test_reuse_port_and_broadcast(factory):
    async def main():
        first, mail = await endpoint(local_addr=("127.0.0.1", 0), reuse_port=True)
        address = first.get_extra_info("sockname")
        second, other = await endpoint(local_addr=address, reuse_port=True)
        with plain() as peer:
            peer.sendto(b"one of you", address)
            while not (mail.got or other.got):
                await settle()
        await gone(first, second)
        third, _ = await endpoint(local_addr=("127.0.0.1", 0), allow_broadcast=True)
        sock = third.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        await gone(third)

    run(factory, main)


def test_broadcast_with_a_remote_address_sends_there(factory):
    """Such a socket is not connected: the address is the transport's."""

    async def main():
        with plain() as peer:
            transport, _ = await endpoint(remote_addr=peer.getsockname(), allow_broadcast=True)
            assert transport.get_extra_info("peername") is None
            transport.sendto(b"there")
            assert peer.recv(10) == b"there"
            transport.sendto(b"again", peer.getsockname())
            assert peer.recv(10) == b"again"
            with pytest.raises(ValueError):
                transport.sendto(b"x", ("127.0.0.1", 9))
            await gone(transport)

    run(factory, main)


def test_multicast_on_loopback(factory):
    async def main():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("0.0.0.0", 0))
        loopback = socket.inet_aton("127.0.0.1")
        group = "239.255.77.1"
        try:
            member = struct.pack("4s4s", socket.inet_aton(group), loopback)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except OSError as error:
            sock.close()
            pytest.skip(f"no multicast here: {error}")
        transport, mail = await endpoint(sock=sock)
        with plain() as peer:
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            peer.sendto(b"all", (group, transport.get_extra_info("sockname")[1]))
            await mail.count(1)
            assert mail.got == [(b"all", peer.getsockname())]
        await gone(transport)

    run(factory, main)


def test_an_address_is_missing(factory):
    async def main():
        transport, mail = await endpoint(local_addr=("127.0.0.1", 0))
        with caught_errors() as errors:
            transport.sendto(b"where to")
            await mail.until(lambda: mail.events[-1] == "lost")
            assert [type(error["exception"]) for error in errors] == [TypeError]
        assert isinstance(mail.reason, TypeError)

    run(factory, main)


def test_a_flush_in_the_middle_of_a_batch_sends_what_there_is(clearway_factory):
    """The scheduler flushes when it suspends a step: what that step has sent is then on its way."""

    async def main():
        loop = asyncio.get_running_loop()
        answers = []

        class Hog(Mailbox):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.sendto(data, addr)
                loop.flush()
                answers.append(peer.recv(10))  # blocks until it is there

        server, mail = await endpoint(Hog(), local_addr=("127.0.0.1", 0))
        with plain() as peer:
            for number in range(3):
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            await mail.count(3)
            assert answers == [b"0", b"1", b"2"]
            await gone(server)

    run(clearway_factory, main)
