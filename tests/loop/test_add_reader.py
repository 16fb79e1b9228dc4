"""add_reader and add_writer: level-triggered, on any pollable descriptor."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile

import pytest

from ..support.loops import run
from ..support.net import Recorder, attach, closed, settle, tcp_pair


def test_a_reader_is_called_again_until_the_data_is_taken(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            calls = []
            done = loop.create_future()

            def readable():
                calls.append(1)
                if len(calls) == 5:
                    ours.recv(10)
                    done.set_result(None)

            loop.add_reader(ours, readable)
            await settle()
            assert not calls
            theirs.send(b"x")
            await done
            await settle()
            assert len(calls) == 5, "called although nothing is left to read"
            assert loop.remove_reader(ours) is True
            assert loop.remove_reader(ours) is False

    run(factory, main)


def test_data_that_was_there_before_add_reader_is_seen(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"early")
            seen = loop.create_future()
            loop.add_reader(ours.fileno(), seen.set_result, None)
            await seen
            loop.remove_reader(ours.fileno())

    run(factory, main)


def test_a_writer_is_called_again_while_there_is_room(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            calls = []
            enough = loop.create_future()

            def writable():
                calls.append(1)
                if len(calls) == 5:
                    enough.set_result(None)
                    loop.remove_writer(ours)

            loop.add_writer(ours, writable)
            await enough
            await settle()
            assert len(calls) == 5
            # No room: no call until the peer reads.
            try:
                while True:
                    ours.send(bytes(65536))
            except BlockingIOError:
                pass
            room = loop.create_future()
            loop.add_writer(ours, room.set_result, None)
            await settle()
            assert not room.done()
            theirs.setblocking(False)
            try:
                while theirs.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass
            await room
            loop.remove_writer(ours)

    run(factory, main)


def test_reader_and_writer_of_one_descriptor_are_independent(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            seen = []
            loop.add_reader(ours, lambda: seen.append("r") or ours.recv(9))
            loop.add_writer(ours, lambda: seen.append("w") or loop.remove_writer(ours))
            await settle()
            assert seen == ["w"]
            theirs.send(b"x")
            await settle()
            assert seen == ["w", "r"]
            assert loop.remove_writer(ours) is False
            loop.add_writer(ours, lambda: seen.append("w2") or loop.remove_writer(ours))
            assert loop.remove_reader(ours) is True
            theirs.send(b"y")
            await settle()
            assert seen == ["w", "r", "w2"]
            assert ours.recv(9) == b"y"

    run(factory, main)


def test_adding_again_replaces_the_callback(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            seen = []
            loop.add_reader(ours, seen.append, "old")
            loop.add_reader(ours, lambda: seen.append("new") or ours.recv(9))
            theirs.send(b"x")
            await settle()
            assert seen == ["new"]
            loop.remove_reader(ours)

    run(factory, main)


def test_removed_in_the_same_turn_means_not_called(factory):
    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(2)]
        seen = []

        def readable(me, other):
            seen.append(me)
            loop.remove_reader(pairs[other][0])
            loop.remove_reader(pairs[me][0])

        loop.add_reader(pairs[0][0], readable, 0, 1)
        loop.add_reader(pairs[1][0], readable, 1, 0)
        for _, theirs in pairs:
            theirs.send(b"x")  # both readable before the loop looks
        await settle()
        assert len(seen) == 1, "the reader that was removed first was called nevertheless"
        for ours, theirs in pairs:
            ours.close()
            theirs.close()

    run(factory, main)


def test_remove_and_add_inside_the_callback(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            seen = []

            def first():
                seen.append("first")
                loop.remove_reader(ours)
                loop.add_reader(ours, second)

            def second():
                seen.append("second")
                ours.recv(9)

            loop.add_reader(ours, first)
            theirs.send(b"x")
            await settle()
            await settle()
            assert seen == ["first", "second"]
            loop.remove_reader(ours)

    run(factory, main)


def test_many_descriptors_each_hears_its_own(factory):
    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(300)]
        heard = []

        def readable(number):
            heard.append((number, pairs[number][0].recv(9)))

        for number, (ours, _) in enumerate(pairs):
            loop.add_reader(ours, readable, number)
        for number, (_, theirs) in enumerate(pairs):
            if number % 3 == 0:
                theirs.send(b"%d" % number)
        await settle()
        expected = [(number, b"%d" % number) for number in range(0, 300, 3)]
        assert sorted(heard) == expected
        for ours, theirs in pairs:
            loop.remove_reader(ours)
            ours.close()
            theirs.close()

    run(factory, main)


def test_a_duplicate_descriptor_is_a_descriptor_of_its_own(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        twin = ours.dup()
        with ours, theirs, twin:
            seen = []
            loop.add_reader(ours, seen.append, "ours")
            loop.add_reader(twin, lambda: seen.append("twin") or loop.remove_reader(twin))
            theirs.send(b"x")
            await settle()
            assert seen.count("twin") == 1
            assert "ours" in seen
            assert loop.remove_reader(twin) is False
            loop.remove_reader(ours)
            ours.recv(9)
            # Closing one leaves the other's registration alone.
            heard = loop.create_future()
            loop.add_reader(twin, heard.set_result, None)
            ours.close()
            theirs.send(b"y")
            await heard
            loop.remove_reader(twin)

    run(factory, main)


@pytest.mark.parametrize("order", ["remove, close", "close, remove"])
def test_a_number_that_is_used_again_is_a_new_descriptor(factory, order):
    async def main():
        loop = asyncio.get_running_loop()
        for turn in range(20):
            ours, theirs = socket.socketpair()
            number = ours.fileno()
            stale = []
            loop.add_reader(number, stale.append, 1)
            if turn % 2:
                await settle()
            if order == "remove, close":
                assert loop.remove_reader(number) is True
                ours.close()
            else:
                ours.close()
                assert loop.remove_reader(number) is True
            theirs.close()
            again, peer = socket.socketpair()
            if again.fileno() != number:
                os.dup2(again.fileno(), number)
                again.close()
                again = socket.socket(fileno=number)
            heard = loop.create_future()
            loop.add_reader(number, heard.set_result, None)
            await settle()
            assert not heard.done(), "an event of the closed descriptor reached the new one"
            peer.send(b"x")
            await heard
            assert not stale
            loop.remove_reader(number)
            again.close()
            peer.close()

    run(factory, main)


def test_pipes_report_their_ends(factory):
    async def main():
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        eof = loop.create_future()
        loop.add_reader(reading, eof.set_result, None)
        await settle()
        assert not eof.done()
        os.close(writing)
        await eof
        assert os.read(reading, 9) == b""
        loop.remove_reader(reading)
        os.close(reading)

        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, bytes(4096))
        except BlockingIOError:
            pass
        broken = loop.create_future()
        loop.add_writer(writing, broken.set_result, None)
        await settle()
        assert not broken.done()
        os.close(reading)
        await broken
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"x")
        loop.remove_writer(writing)
        os.close(writing)

    run(factory, main)


def test_what_cannot_be_polled_is_refused_at_once(factory):
    async def main():
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            with pytest.raises(PermissionError):
                loop.add_reader(file, print)
            with pytest.raises(PermissionError):
                loop.add_writer(file, print)
        reading, writing = os.pipe()
        os.close(reading)
        os.close(writing)
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.add_reader(reading, print)
        with pytest.raises((ValueError, TypeError)):
            loop.add_reader("no descriptor", print)
        with pytest.raises(ValueError):
            loop.add_reader(-1, print)
        assert loop.remove_reader(reading) is False
        assert loop.remove_writer(reading) is False

    run(factory, main)


def test_a_transport_s_descriptor_is_not_for_others(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        protocol = Recorder()
        transport = await attach(ours, protocol)
        fd = transport.get_extra_info("socket").fileno()
        with peer:
            for refused in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match="transport"):
                    refused(fd, print)
            for refused in (loop.remove_reader, loop.remove_writer):
                with pytest.raises(RuntimeError, match="transport"):
                    refused(fd)
            await closed(transport, protocol)

    run(factory, main)


def test_the_exception_of_a_reader_is_reported_with_its_name(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        from ..support.loops import caught_errors

        with ours, theirs, caught_errors() as errors:

            def clumsy_reader():
                ours.recv(9)
                raise ZeroDivisionError

            loop.add_reader(ours, clumsy_reader)
            theirs.send(b"x")
            await settle()
            theirs.send(b"y")
            await settle()
            loop.remove_reader(ours)
        assert len(errors) == 2, "the reader must stay after its exception"
        assert all(isinstance(error["exception"], ZeroDivisionError) for error in errors)
        assert all("clumsy_reader" in error["message"] for error in errors)

    run(factory, main)
