"""Pipes: every byte in order, flow control both ways, and an end that is heard of once."""

from __future__ import annotations

import asyncio
import os
import tempfile

import pytest

from ..support.loops import caught_errors, in_thread, run
from ..support.net import PEER_TIMEOUT_S, pattern, settle


class Notes(asyncio.Protocol):
    """Notes everything a pipe says."""

    def __init__(self):
        self.data = bytearray()
        self.events = []
        self.changed = asyncio.Event()

    def note(self, event):
        self.events.append(event)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.data += data
        self.changed.set()

    def eof_received(self):
        self.note("eof")

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

    async def lost(self):
        await self.until(lambda: self.events[-1] == "lost")


async def reader(pipe=None):
    """(transport, protocol, the other end's descriptor)."""
    loop = asyncio.get_running_loop()
    read_fd, write_fd = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Notes, os.fdopen(read_fd, "rb", 0))
    return transport, protocol, write_fd


async def writer():
    loop = asyncio.get_running_loop()
    read_fd, write_fd = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Notes, os.fdopen(write_fd, "wb", 0))
    return transport, protocol, read_fd


def write_all(fd, data):
    with os.fdopen(fd, "wb", 0) as stream:
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]


def read_all(fd):
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 65_537, 3_000_001])
def test_reading_to_the_end(factory, size):
    async def main():
        transport, notes, fd = await reader()
        assert transport.is_reading() if hasattr(transport, "is_reading") else True
        data = pattern(size)
        await in_thread(write_all, fd, data)
        await notes.lost()
        assert notes.data == data
        assert notes.events == ["made", "eof", "lost"]
        assert notes.reason is None
        assert transport.is_closing()

    run(factory, main)


@pytest.mark.parametrize("size", [1, 4096, 65_536, 65_537, 3_000_001])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_writing_to_the_end(factory, size, kind):
    async def main():
        transport, notes, fd = await writer()
        data = pattern(size)
        block = bytearray(data)
        transport.write(kind(block))
        block[:] = bytes(len(block))
        transport.write(b"tail")
        transport.write_eof()
        assert transport.is_closing()
        assert await in_thread(read_all, fd) == data + b"tail"
        await notes.lost()
        assert notes.reason is None
        assert notes.events.count("lost") == 1

    run(factory, main)


def test_a_paused_reader_takes_nothing(factory):
    async def main():
        transport, notes, fd = await reader()
        transport.pause_reading()
        os.write(fd, b"later")
        await settle()
        assert notes.data == b""
        transport.resume_reading()
        await notes.until(lambda: notes.data == b"later")
        transport.pause_reading()
        os.close(fd)
        await settle()
        assert "eof" not in notes.events
        transport.resume_reading()
        await notes.lost()
        assert notes.events == ["made", "eof", "lost"]

    run(factory, main)


def test_a_slow_reader_pauses_the_writer(factory):
    async def main():
        transport, notes, fd = await writer()
        transport.set_write_buffer_limits(high=100_000, low=20_000)
        for turn in range(3):
            transport.write(bytes(1_000_000))
            assert notes.events[-1] == "pause"
            assert transport.get_write_buffer_size() > 100_000
            await settle()
            assert notes.events.count("resume") == turn

            def drain():
                left = 1_000_000
                while left:
                    left -= len(os.read(fd, left))

            await in_thread(drain)
            await notes.until(lambda turn=turn: notes.events.count("resume") == turn + 1)
            assert transport.get_write_buffer_size() <= 20_000
        os.close(fd)
        await notes.lost()

    run(factory, main)


def test_the_reader_s_end_is_heard_of(factory):
    async def main():
        transport, notes, fd = await writer()
        os.close(fd)
        await notes.lost()
        assert notes.reason is None
        transport.write(b"too late")

        transport, notes, fd = await writer()
        transport.write(bytes(1_000_000))
        os.close(fd)
        await notes.lost()
        assert isinstance(notes.reason, BrokenPipeError)

    run(factory, main)


def test_abort_forgets_what_is_pending(factory):
    async def main():
        transport, notes, fd = await writer()
        transport.write(bytes(1_000_000))
        transport.close()
        await settle()
        assert notes.events[-1] != "lost"
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        await notes.lost()
        assert len(await in_thread(read_all, fd)) < 1_000_000
        assert notes.events.count("lost") == 1

    run(factory, main)


def test_closing_a_reader_early(factory):
    async def main():
        transport, notes, fd = await reader()
        transport.close()
        transport.close()
        await notes.lost()
        assert notes.events == ["made", "lost"]
        with pytest.raises(BrokenPipeError):
            os.write(fd, b"x")
        os.close(fd)

    run(factory, main)


def test_regular_files_are_refused(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError):
                await loop.connect_read_pipe(Notes, file)
            with pytest.raises(ValueError):
                await loop.connect_write_pipe(Notes, file)

    run(factory, main)


def test_both_halves_of_one_terminal(clearway_factory):
    """Two transports of one descriptor."""

    async def main():
        loop = asyncio.get_running_loop()
        master, slave = os.openpty()
        import tty

        tty.setraw(slave)
        incoming = os.fdopen(master, "rb", 0)
        outgoing = os.fdopen(master, "wb", 0, closefd=False)
        read_transport, notes = await loop.connect_read_pipe(Notes, incoming)
        write_transport, write_notes = await loop.connect_write_pipe(Notes, outgoing)
        write_transport.write(b"to the slave")
        assert await in_thread(os.read, slave, 100) == b"to the slave"
        os.write(slave, b"back")
        await notes.until(lambda: notes.data == b"back")
        write_transport.close()
        await write_notes.lost()
        os.close(slave)
        await notes.lost()  # a terminal says EIO where a pipe says end of file
        read_transport.close()

    run(clearway_factory, main)


def test_an_exception_in_the_protocol_is_reported(factory):
    async def main():
        transport, notes, fd = await reader()

        def bad(data):
            raise ZeroDivisionError("on purpose")

        notes.data_received = bad
        transport.set_protocol(notes)
        with caught_errors() as errors:
            os.write(fd, b"x")
            while not errors:
                await settle(1)
            assert isinstance(errors[0]["exception"], ZeroDivisionError)
        assert not transport.is_closing()
        transport.close()
        await notes.lost()
        os.close(fd)

    run(factory, main)
