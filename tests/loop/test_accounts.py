"""loop.statistics().paths: what was moved and what was copied, by path; each thing that moves bytes says it too."""

from __future__ import annotations

import asyncio
import os
import socket

import clearway
from clearway import streams
from clearway.channels import SharedChannel

from ..support.loops import in_thread, run
from ..support.net import pattern, recv_all, recv_exactly, unix_pair


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


def test_shared_channels(clearway_factory):
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
