"""Much data through streams: nothing is copied on the way, and memory stays where it was."""

from __future__ import annotations

import asyncio
import os
import socket

from clearway import streams

from ..support.loops import in_thread, run
from ..support.net import tcp_pair

MIB = 1 << 20
GIBIBYTE = 1 << 30
#: Bytes that a process may grow by meanwhile: receive buffers of a loop, of which half may be out, and threads' stacks.
GROWTH_MAX = 24 * MIB


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def send(sock, size):
    block = bytes(MIB)
    for _ in range(size // MIB):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def discard(sock):
    total = 0
    while count := len(sock.recv(MIB, socket.MSG_TRUNC)):  # dropped, not copied: tcp(7)
        total += count
    return total


async def pass_on(size, look):
    """From a socket through two streams to another: both streams' figures."""
    left, source = tcp_pair()
    right, sink = tcp_pair()
    with source, sink:
        sending = asyncio.ensure_future(in_thread(send, source, size))
        arriving = asyncio.ensure_future(in_thread(discard, sink))
        async with streams.from_socket(left) as incoming, streams.from_socket(right) as outgoing:
            async for lease in incoming:
                with lease:
                    await outgoing.send(lease)
                look()
            await outgoing.send_eof()
            assert await arriving == size
            await sending
            return incoming.statistics(), outgoing.statistics()


def test_a_proxy_copies_nothing(clearway_factory):
    async def main():
        incoming, outgoing = await pass_on(32 * MIB, lambda: None)
        assert incoming.received == outgoing.sent == 32 * MIB
        assert incoming.received_copied == outgoing.sent_copied == 0
        paths = asyncio.get_running_loop().statistics().paths
        assert paths["receive"].copied == paths["send"].copied == 0

    run(clearway_factory, main)


def test_a_gibibyte_holds_memory_flat(clearway_factory):
    grown = 0

    async def main():
        before = resident()

        def look():
            nonlocal grown
            grown = max(grown, resident() - before)

        await pass_on(GIBIBYTE, look)

    run(clearway_factory, main)
    assert grown < GROWTH_MAX
