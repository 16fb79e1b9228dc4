"""loop.statistics().paths: what was moved and what was copied, by path; each thing that moves bytes says it too."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from array import array

import pytest

import clearway
from clearway import streams
from clearway._compiled import is_compiled

from ..support.certs import client_context, server_context
from ..support.loops import in_thread, run
from ..support.net import Recorder, pattern, recv_all, recv_exactly, unix_pair


def paths():
    return asyncio.get_running_loop().statistics().paths


def test_a_transport_copies_what_it_hands_out_and_what_may_change(clearway_factory):
    async def main():
        ours, peer = unix_pair()
        with peer:
            reader, writer = await asyncio.open_connection(sock=ours)
            peer.sendall(bytes(1000))
            await reader.readexactly(1000)
            writer.write(b"0123456789")
            writer.write(bytearray(5))
            await writer.drain()
            await in_thread(recv_exactly, peer, 15)
            received, sent = paths()["receive"], paths()["send"]
            assert (received.moved, received.copied) == (1000, 1000)
            assert (sent.moved, sent.copied) == (15, 5)
            writer.close()
            await writer.wait_closed()

    run(clearway_factory, main)


def test_streams_are_in_the_accounts_of_their_loop(clearway_factory):
    async def main():
        ours, peer = unix_pair()
        with peer:
            async with streams.from_socket(ours) as stream:
                peer.sendall(bytes(3000))
                with await stream.receive_exactly(3000) as lease:
                    await stream.send(lease)
                    bytes(lease)
                await in_thread(recv_exactly, peer, 3000)
                await stream.drain()
                received, sent = paths()["receive"], paths()["send"]
                assert (received.moved, received.copied) == (3000, 3000)
                assert (sent.moved, sent.copied) == (3000, 0)

    run(clearway_factory, main)


def test_transfers(clearway_factory, tmp_path):
    data = pattern(300_000)
    (tmp_path / "data").write_bytes(data)

    async def main():
        ours, peer = unix_pair()
        with peer, ours, open(tmp_path / "data", "rb") as file:
            receiving = asyncio.ensure_future(in_thread(recv_all, peer))
            result = await clearway.transfer(file, ours)
            ours.shutdown(socket.SHUT_WR)
            assert await receiving == data
            assert (result.moved, result.copied) == (len(data), 0)
            assert paths()[result.path].moved == len(data)
            assert paths()[result.path].copied == 0

    run(clearway_factory, main)


def test_what_a_reader_had_already_is_copied(factory):
    async def main():
        ours, peer = unix_pair()
        source, into = os.pipe()
        os.close(source)
        os.close(into)
        with peer:
            reader = asyncio.StreamReader()
            reader.feed_data(b"early")
            reader.feed_eof()
            with ours:
                result = await clearway.transfer(reader, ours)
                assert (result.moved, result.buffered, result.copied) == (5, 5, 5)

    run(factory, main)


def test_files(factory, tmp_path):
    async def main():
        async with await clearway.open_file(tmp_path / "file", "w+b") as file:
            await file.write(pattern(10_000))
            await file.seek(0)
            assert len(await file.read(4000)) == 4000
            figures = file.statistics()
            assert (figures.written, figures.written_copied) == (10_000, 0)
            assert (figures.read, figures.read_copied) == (4000, 0)
            with await file.pread_lease(1000, 0):
                pass
            assert file.statistics().read == 5000
            assert file.statistics().read_copied == 0
            await file.readline()
            assert file.statistics().read_copied > 0
        loop = asyncio.get_running_loop()
        if hasattr(loop, "statistics"):
            assert paths()["file write"].moved == 10_000
            assert paths()["file read"].moved == file.statistics().read
            assert paths()["file read"].copied == file.statistics().read_copied

    run(factory, main)


@pytest.mark.skipif(
    not is_compiled("clearway.channels._ring"), reason="shared memory needs atomic instructions"
)
def test_shared_channels(clearway_factory):
    from clearway.channels import SharedChannel

    async def main():
        left, link = SharedChannel.pair()
        right = SharedChannel.attach(link)
        with left, right:
            (await left.reserve(1000)).commit()
            (await right.receive()).release()
            await left.send(bytes(100))
            await right.receive()
            assert (paths()["shared send"].moved, paths()["shared send"].copied) == (1100, 100)
            before = paths()
            assert before["shared receive"].moved == 1100
        assert paths() == before

    run(clearway_factory, main)


def test_datagrams(clearway_factory):
    """One that is answered at once, a burst whose answers are sent together, and what cannot leave yet."""

    class Answers(asyncio.DatagramProtocol):
        left = 9

        def __init__(self):
            self.ended = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.transport.sendto(bytearray(data))
            self.left -= 1
            if not self.left:
                self.ended.set_result(None)

    batched = 900 if is_compiled("clearway.kernel.dgram") else 0

    async def main():
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with peer:
            ours.setblocking(False)
            for _ in range(9):
                peer.send(bytes(100))
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(Answers, sock=ours)
            await protocol.ended
            for _ in range(9):
                assert len(peer.recv(200)) == 100
            sent = paths()["datagram send"]
            received = paths()["datagram receive"]
            assert (received.moved, received.copied) == (900, batched)
            # Those of a burst are kept until its end, so they are copied, being no bytes.
            assert (sent.moved, sent.copied) == (900, batched)

            peer.setblocking(False)
            wide = memoryview(array("I", range(50)))
            count = 0
            while not transport.get_write_buffer_size():
                transport.sendto(wide)
                count += 1
            sent = paths()["datagram send"]
            kept = 200 + (8 if sys.version_info >= (3, 13) else 0)
            assert transport.get_write_buffer_size() == kept
            assert (sent.moved, sent.copied) == (900 + 200 * (count - 1), batched + 200)
            for _ in range(count - 1):
                assert len(peer.recv(300)) == 200
            while transport.get_write_buffer_size():
                await asyncio.sleep(0)
            assert paths()["datagram send"].moved == 900 + 200 * count
            transport.close()

    run(clearway_factory, main)


def test_pipes(clearway_factory):
    """Only what must wait of data that may change is copied."""

    async def main():
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        with open(reading, "rb", 0) as reader, open(writing, "wb", 0) as writer:
            room = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
            transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, writer)
            transport.write(bytearray(room + 300))
            sent = paths()["pipe send"]
            assert (sent.moved, sent.copied) == (room, 300)
            transport.write(bytes(50))
            protocol = Recorder()
            receiving, _ = await loop.connect_read_pipe(lambda: protocol, reader)
            await protocol.until_received(room + 350)
            sent, received = paths()["pipe send"], paths()["pipe receive"]
            assert (sent.moved, sent.copied) == (room + 350, 300)
            assert (received.moved, received.copied) == (room + 350, 0)
            transport.writelines([b"12", b"345"])
            assert paths()["pipe send"].copied == 305
            transport.close()
            await protocol.until_lost()
            receiving.close()

    run(clearway_factory, main)


def test_tls_says_what_it_copies_by_its_nature(clearway_factory):
    """Plaintext once, ciphertext in and out of OpenSSL's memory; what a peer sends is what the other has."""

    async def main():
        ours, peer = unix_pair()
        peer.setblocking(False)
        here, there = Recorder(), Recorder()
        loop = asyncio.get_running_loop()
        server, client = await asyncio.gather(
            loop.connect_accepted_socket(lambda: here, ours, ssl=server_context()),
            loop.create_connection(
                lambda: there, sock=peer, ssl=client_context(), server_hostname="localhost"
            ),
        )
        shaken = paths()
        assert shaken["tls send"].moved == shaken["tls receive"].moved == 0
        server[0].write(bytes(100_000))
        server[0].write(bytearray(50))
        await there.until_received(100_050)
        after = paths()
        assert after["tls send"].moved == after["tls receive"].moved == 100_050
        copied = after["tls send"].copied - shaken["tls send"].copied
        cipher = after["send"].moved - shaken["send"].moved
        assert cipher > 100_050
        assert copied == 100_050 + 50 + 2 * cipher
        received = after["receive"].moved - shaken["receive"].moved
        copied = after["tls receive"].copied - shaken["tls receive"].copied
        # What came in several records is joined for the protocol: up to one copy more.
        assert 100_050 + 2 * received <= copied <= 2 * 100_050 + 2 * received
        for transport, protocol in (client, server):
            transport.close()
            await protocol.until_lost()

    run(clearway_factory, main)
