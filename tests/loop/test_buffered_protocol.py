"""BufferedProtocol: received straight into the user's memory, and only when there is something."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import socket

import pytest

from ..support.loops import in_thread, run
from ..support.net import BufferedRecorder, attach, closed, pattern, settle


def test_get_buffer_is_called_only_when_there_is_something(factory, pair):
    async def main():
        ours, peer = pair()
        protocol = BufferedRecorder()
        transport = await attach(ours, protocol)
        await settle()
        assert protocol.events == ["made"], "asked for a buffer with nothing to read"
        for turn in range(1, 6):
            peer.send(b"x")
            await protocol.until_received(turn)
            await settle()
            assert protocol.events == ["made", *["get_buffer", "updated"] * turn]
        transport.pause_reading()
        peer.send(b"y")
        await settle()
        assert protocol.events.count("get_buffer") == 5
        transport.resume_reading()
        await protocol.until_received(6)
        assert protocol.events.count("get_buffer") == 6
        with peer:
            await closed(transport, protocol)

    run(factory, main)


def test_the_bytes_are_in_the_buffer_that_was_given(factory, pair):
    """Also when the buffer is another one each time, and a view into the middle of something."""

    async def main():
        ours, peer = pair()
        given = []

        class Fresh(BufferedRecorder):
            def get_buffer(self, sizehint):
                self.note("get_buffer")
                given.append(memoryview(bytearray(b"." * 30))[10:20])
                return given[-1]

            def buffer_updated(self, nbytes):
                self.data += given[-1][:nbytes]
                assert given[-1].obj[:10] == b"." * 10 and given[-1].obj[20:] == b"." * 10
                assert given[-1][nbytes:] == b"." * (10 - nbytes)
                self.note("updated")

        protocol = Fresh()
        transport = await attach(ours, protocol)
        with peer:
            peer.sendall(pattern(95))
            assert await protocol.until_received(95) == pattern(95)
            await closed(transport, protocol)
        assert len(given) >= 10

    run(factory, main)


@pytest.mark.parametrize("make", [bytearray, lambda n: mmap.mmap(-1, n), ctypes.c_char * 64])
def test_any_writable_buffer_will_do(factory, make):
    from ..support.net import tcp_pair

    async def main():
        ours, peer = tcp_pair()
        buffer = make(64) if not isinstance(make, type) or make is bytearray else make()
        protocol = BufferedRecorder()

        class Given(BufferedRecorder):
            def get_buffer(self, sizehint):
                return buffer

            def buffer_updated(self, nbytes):
                self.data += memoryview(buffer).cast("B")[:nbytes]
                self.note("updated")

        protocol = Given()
        transport = await attach(ours, protocol)
        with peer:
            peer.sendall(pattern(300))
            assert await protocol.until_received(300) == pattern(300)
            await closed(transport, protocol)

    run(factory, main)


def test_a_buffer_that_cannot_be_written_ends_the_connection(factory, pair):
    from ..support.loops import caught_errors

    async def main():
        ours, peer = pair()

        class ReadOnly(BufferedRecorder):
            def get_buffer(self, sizehint):
                return b"constant"

        protocol = ReadOnly()
        with caught_errors() as errors, peer:
            await attach(ours, protocol)
            peer.send(b"x")
            error = await protocol.until_lost()
        assert isinstance(error, (TypeError, BufferError, ValueError))
        assert len(errors) == 1

    run(factory, main)


def test_the_buffer_is_free_between_the_callbacks(factory, pair):
    """No export may be held: a bytearray that is exported cannot be resized."""

    async def main():
        ours, peer = pair()

        class Growing(BufferedRecorder):
            def buffer_updated(self, nbytes):
                self.data += self.buffer[:nbytes]
                self.buffer += bytes(10)
                self.note("updated")

        protocol = Growing(10)
        transport = await attach(ours, protocol)
        with peer:
            sending = asyncio.ensure_future(in_thread(peer.sendall, pattern(20_000)))
            assert await protocol.until_received(20_000) == pattern(20_000)
            await sending
            protocol.buffer.clear()
            protocol.buffer += bytes(10)
            peer.send(b"x")
            await protocol.until_received(20_001)
            await closed(transport, protocol)

    run(factory, main)


def test_end_of_stream(factory, pair):
    async def main():
        for keep_open in (False, True):
            ours, peer = pair()
            protocol = BufferedRecorder(keep_open=keep_open)
            transport = await attach(ours, protocol)
            peer.send(b"x")
            await protocol.until_received(1)
            peer.shutdown(socket.SHUT_WR)
            if keep_open:
                await protocol.until(lambda protocol=protocol: "eof" in protocol.events)
                await settle()
                assert protocol.events.count("eof") == 1 and not protocol.lost_with
                transport.write(b"bye")
                transport.close()
                assert peer.recv(9) == b"bye"
            assert await protocol.until_lost() is None
            assert [e for e in protocol.events if e != "get_buffer"] == [
                "made",
                "updated",
                "eof",
                "lost",
            ]
            peer.close()

    run(factory, main)


def test_closing_inside_get_buffer_and_buffer_updated(factory, pair):
    async def main():
        for where in ("get_buffer", "buffer_updated"):
            for way in ("close", "abort"):
                ours, peer = pair()

                class Closer(BufferedRecorder):
                    pass

                def closing(self, argument, where=where, way=way):
                    getattr(self.transport, way)()
                    return getattr(BufferedRecorder, where)(self, argument)

                setattr(Closer, where, closing)
                protocol = Closer()
                await attach(ours, protocol)
                peer.sendall(bytes(100))
                assert await protocol.until_lost() is None
                await settle()
                assert protocol.events.count("lost") == 1
                peer.close()

    run(factory, main)
