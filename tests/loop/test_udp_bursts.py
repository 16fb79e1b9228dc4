"""Several datagrams sent while one is received: however they leave, each arrives as it was sent."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearway import _compiled

from ..support.loops import run
from .test_udp import Mailbox, endpoint, gone, plain

UDP_SEGMENT, UDP_GRO = 103, 104


class Burst(Mailbox):
    """Answers the first datagram with ``answers``: [(data, address), ...]."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def datagram_received(self, data, addr):
        for answer, address in self.answers:
            self.transport.sendto(answer, address)
        self.answers = []
        super().datagram_received(data, addr)


def burst(factory, answers, *, host="127.0.0.1", wake_ups=1, options=()):
    """Have a server send ``answers`` in the middle of a batch of ``wake_ups`` datagrams."""

    async def main():
        transport, server = await endpoint(Burst(answers), local_addr=(host, 0))
        for option in options:
            transport.get_extra_info("socket").setsockopt(*option)
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        with plain(family, (host, 0)) as client:
            for _ in range(wake_ups):
                client.sendto(b"go", transport.get_extra_info("sockname")[:2])
            await server.count(wake_ups)
        errors = server.errors
        await gone(transport)
        return errors

    return run(factory, main)


def arrived(peer, count):
    return [peer.recvfrom(1 << 16)[0] for _ in range(count)]


@pytest.mark.parametrize("wake_ups", [1, 3])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_burst_arrives_datagram_by_datagram(factory, host, wake_ups):
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with plain(family, (host, 0)) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent = [bytes([number]) * 1200 for number in range(100)] + [b"end"]
        address = peer.getsockname()[:2]
        assert (
            burst(factory, [(data, address) for data in sent], host=host, wake_ups=wake_ups) == []
        )
        assert arrived(peer, len(sent)) == sent


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 500, 500, 500, 1200, 1200, 1200, 20_000, 33_000, 65_507]),
            st.sampled_from([0, 0, 0, 1]),
        ),
        max_size=60,
    ),
    wake_ups=st.integers(1, 3),
)
def test_any_burst_arrives_as_it_was_sent(clearway_factory, plan, wake_ups):
    """Sizes that go together, that do not, and none at all; to one peer, to two, and back."""
    with plain() as one, plain() as other:
        peers = (one, other)
        for peer in peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent: tuple[list[bytes], list[bytes]] = ([], [])
        answers = []
        total = 0
        for number, (size, to) in enumerate(plan):
            total += size
            if total > 120_000:  # what a receiver's buffer holds without special rights
                break
            data = bytes([number]) * size
            answers.append((data, peers[to].getsockname()))
            sent[to].append(data)
        # An empty one is not sent before Python 3.13; then a marker says that nothing is to follow.
        answers += [(b"last", peer.getsockname()) for peer in peers]
        assert burst(clearway_factory, answers, wake_ups=wake_ups) == []
        for peer, expected in zip(peers, sent, strict=True):
            got: list[bytes] = []
            while not got or got[-1] != b"last":
                got += arrived(peer, 1)
            assert [data for data in got[:-1] if data] == [data for data in expected if data]


def can_cut():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT)
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        except OSError:
            return False
    return True


def test_datagrams_of_one_size_to_one_peer_leave_as_one_message(clearway_factory):
    """A receiver that asks for coalesced datagrams sees what the kernel was handed: all but the first answer, which
    left at once."""
    if _compiled.uncompiled_modules() or not can_cut():
        pytest.skip("segmentation offload needs the compiled modules and Linux 5.0")
    with plain() as peer:
        peer.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        sent = [bytes([number]) * 1200 for number in range(10)] + [b"shorter"]
        burst(clearway_factory, [(data, peer.getsockname()) for data in sent])
        first, *_ = peer.recvmsg(1 << 16, 64)
        rest, notes, *_ = peer.recvmsg(1 << 16, 64)
        assert first == sent[0]
        assert rest == b"".join(sent[1:])
        assert [
            struct.unpack("i", data)
            for level, kind, data in notes
            if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO)
        ] == [(1200,)]


def test_where_the_kernel_refuses_such_messages_they_leave_one_by_one(clearway_factory):
    """A socket that sends no checksums is one for which Linux cuts nothing."""
    so_no_check = 11
    with plain() as peer:
        sent = [bytes([number]) * 1200 for number in range(70)]
        answers = [(data, peer.getsockname()) for data in sent]
        options = [(socket.SOL_SOCKET, so_no_check, 1)]
        assert burst(clearway_factory, answers, options=options) == []
        assert arrived(peer, len(sent)) == sent


def test_an_error_of_one_of_a_burst_is_told_and_the_others_leave(factory):
    with plain() as peer:
        address = peer.getsockname()
        good = [(bytes([number]) * 100, address) for number in range(6)]
        answers = [*good[:3], (bytes(70_000), address), *good[3:]]
        errors = burst(factory, answers)
        assert arrived(peer, len(good)) == [data for data, _ in good]
        assert [type(error) for error in errors] == [OSError]


def test_a_connected_socket_sends_bursts_too(factory):
    async def main():
        with plain() as peer:
            sent = [bytes([number]) * 900 for number in range(40)]
            protocol = Burst([(data, None) for data in sent])
            transport, _ = await endpoint(protocol, remote_addr=peer.getsockname())
            peer.sendto(b"go", transport.get_extra_info("sockname"))
            await protocol.count(1)
            assert arrived(peer, len(sent)) == sent
            await gone(transport)

    run(factory, main)
