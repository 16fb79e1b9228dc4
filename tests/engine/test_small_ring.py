"""A ring that is far too small: it overflows and starves, and not one byte is lost or out of place."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from clearway.engine.sizes import RingSizes
from clearway.loop.eventloop import EventLoop
from clearway.loop.options import read_options

from ..support.loops import Factory, in_thread, run
from ..support.net import (
    Echo,
    Recorder,
    attach,
    closed,
    dial,
    pattern,
    recv_all,
    recv_exactly,
    settle,
    small_buffers,
    tcp_pair,
    unix_pair,
)

FEW_SUBMISSIONS = RingSizes(submissions=2, completions=4096, buffers=256)
FEW_COMPLETIONS = RingSizes(submissions=2, completions=4, buffers=256)
FEW_BUFFERS = RingSizes(submissions=64, completions=256, buffers=2, buffers_at_first=1)
SIZES = [FEW_SUBMISSIONS, FEW_COMPLETIONS, FEW_BUFFERS]
NAMES = ["few submissions", "few completions", "few buffers"]

# More connections than any of these rings can serve in one look.
CROWD = 50

pytestmark = pytest.mark.parametrize("factory", ["uring"], indirect=True)


class SmallRing(Factory):
    """Makes loops whose ring has the given sizes."""

    def __init__(self, sizes: RingSizes) -> None:
        super().__init__("uring")
        self.kind = type("SmallRingLoop", (EventLoop,), {"_ring_sizes": sizes})

    def __call__(self, **options):
        return self.kind(read_options({"engine": "uring", **options}))


def ran_out(loop, sizes):
    """Whether the ring has really been too small."""
    engine = loop._engine
    if sizes is FEW_BUFFERS:
        return engine.starvations > 0
    if sizes is FEW_COMPLETIONS:
        return engine.overflows > 0
    return engine.early_submissions > 0


@pytest.mark.parametrize("sizes", SIZES, ids=NAMES)
def test_a_crowd_of_echoes(factory, sizes):
    """Server and clients on one ring; every connection gets its own bytes back."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=CROWD)
        address = server.sockets[0].getsockname()
        data = pattern(40_000 + CROWD)

        async def client(number):
            mine = data[number : number + 40_000]
            reader, writer = await asyncio.open_connection(*address)
            writer.write(mine)
            assert await reader.readexactly(len(mine)) == mine
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(number) for number in range(CROWD)))
        assert ran_out(loop, sizes)
        server.close()
        await server.wait_closed()

    run(SmallRing(sizes), main)


@pytest.mark.parametrize("sizes", SIZES, ids=NAMES)
def test_everybody_writes_in_one_step(factory, sizes):
    """More sends in a turn than the ring takes, some of them larger than the peer's buffers."""

    async def main():
        pairs = [tcp_pair() for _ in range(CROWD)]
        for ours, peer in pairs[::5]:
            small_buffers(ours, peer)
        protocols = [Recorder() for _ in pairs]
        transports = [
            await attach(pair[0], protocol) for pair, protocol in zip(pairs, protocols, strict=True)
        ]
        await settle()
        expected = []
        for number, transport in enumerate(transports):
            whole = pattern(300_000 if number % 5 == 0 else 600)
            expected.append(whole + b"end")
            transport.write(whole[:100])
            transport.writelines([whole[100:200], whole[200:]])
            transport.write(b"end")

        def read_all():
            return [
                recv_exactly(peer, len(whole))
                for (_, peer), whole in zip(pairs, expected, strict=True)
            ]

        assert await in_thread(read_all) == expected
        for (_, peer), transport, protocol in zip(pairs, transports, protocols, strict=True):
            await closed(transport, protocol)
            peer.close()

    run(SmallRing(sizes), main)


@pytest.mark.parametrize("sizes", SIZES, ids=NAMES)
def test_pausing_amid_a_flood_loses_nothing(factory, sizes):
    """Each pause cancels a receive whose last completions have no room in the ring."""
    data = pattern(30_000)

    async def main():
        loop = asyncio.get_running_loop()
        pairs = [unix_pair() for _ in range(CROWD)]
        protocols = [Recorder() for _ in pairs]
        transports = [
            await attach(pair[0], protocol) for pair, protocol in zip(pairs, protocols, strict=True)
        ]
        await settle()
        for _, peer in pairs:
            peer.sendall(data)
        for protocol in protocols[::2]:
            await protocol.until(lambda protocol=protocol: protocol.data)
        for transport in transports:
            transport.pause_reading()
        await settle()
        held = [len(protocol.data) for protocol in protocols]
        for _, peer in pairs:
            peer.sendall(b"more")
        await settle()
        assert [len(protocol.data) for protocol in protocols] == held
        for transport in transports:
            transport.resume_reading()
        for protocol in protocols:
            assert await protocol.until_received(len(data) + 4) == data + b"more"
        assert ran_out(loop, sizes)
        for (_, peer), transport, protocol in zip(pairs, transports, protocols, strict=True):
            await closed(transport, protocol)
            peer.close()

    run(SmallRing(sizes), main)


@pytest.mark.parametrize("sizes", SIZES, ids=NAMES)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_ending_amid_a_flood(factory, sizes, end):
    """Output of a closed connection still leaves; that of an aborted one is dropped; nothing stays behind."""

    async def main():
        pairs = [tcp_pair() for _ in range(CROWD)]
        protocols = [Recorder() for _ in pairs]
        transports = [
            await attach(pair[0], protocol) for pair, protocol in zip(pairs, protocols, strict=True)
        ]
        await settle()
        for _, peer in pairs:
            peer.sendall(b"x" * 20_000)
        for transport in transports:
            transport.write(pattern(5_000))
            getattr(transport, end)()
        for protocol in protocols:
            await protocol.until_lost()
            assert protocol.lost_with == [None]
        for _, peer in pairs:
            if end == "close":
                assert await in_thread(recv_exactly, peer, 5_000) == pattern(5_000)
            peer.close()

    run(SmallRing(sizes), main)


@pytest.mark.parametrize("sizes", SIZES, ids=NAMES)
def test_a_burst_of_connections(factory, sizes):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=CROWD)
        address = server.sockets[0].getsockname()
        clients = [dial(address) for _ in range(CROWD)]
        for number, client in enumerate(clients):
            client.sendall(b"%03d" % number)
            client.shutdown(socket.SHUT_WR)
        for number, client in enumerate(clients):
            assert await in_thread(recv_all, client) == b"%03d" % number
            client.close()
        server.close()
        await server.wait_closed()

    run(SmallRing(sizes), main)


@pytest.mark.parametrize("sizes", SIZES, ids=NAMES)
def test_the_next_thread_finds_what_overflowed(factory, sizes):
    """A ring cannot be taken along into another thread, nor can what waits for room in it."""
    loop = SmallRing(sizes)()
    pairs = [unix_pair() for _ in range(CROWD)]
    protocols = []
    transports = []

    async def begin():
        for ours, _ in pairs:
            protocols.append(Recorder())
            transports.append(await attach(ours, protocols[-1]))
        await settle()
        # Unsent output makes the loop submit once more on its way out, and that receives as well.
        for transport in transports:
            transport.write(b"parting word")
        for _, peer in pairs:
            peer.sendall(pattern(30_000))

    async def end():
        for protocol in protocols:
            assert await protocol.until_received(30_000) == pattern(30_000)
        for transport, protocol in zip(transports, protocols, strict=True):
            await closed(transport, protocol)

    errors = []

    def elsewhere():
        try:
            loop.run_until_complete(end())
        except BaseException as error:
            errors.append(error)

    try:
        loop.run_until_complete(begin())
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not errors
        for _, peer in pairs:
            assert recv_all(peer) == b"parting word"
            peer.close()
    finally:
        loop.close()
