"""SharedChannel: both ends in one process for what needs no other, and real processes for the rest."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clearway import _compiled
from clearway.channels import ChannelClosed, ChannelCorrupt, ChannelEmpty, ChannelFull, PeerDied

from ..support.loops import cancelled, no_descriptor_left, run
from ..support.net import settle
from .test_channel import start

if not sys.platform.startswith("linux") or not _compiled.is_compiled("clearway.channels._ring"):
    pytest.skip("the shared ring exists only compiled, on Linux", allow_module_level=True)

from clearway.channels import SharedChannel

PEER = Path(__file__).with_name("shared_peer.py")


def both(capacity=1 << 16):
    left, link = SharedChannel.pair(capacity)
    return left, SharedChannel.attach(link)


def spawn(what, link):
    process = subprocess.Popen(
        [sys.executable, PEER, what, str(link.fileno())],
        pass_fds=[link.fileno()],
        stdout=subprocess.PIPE,
    )
    link.close()
    return process


def test_objects_go_both_ways(factory):
    async def main():
        left, right = both()
        with left, right:
            for message in (
                None,
                1,
                "text",
                b"",
                b"bytes",
                {"a": [1, (2,)]},
                bytearray(b"mutable"),
            ):
                await left.send(message)
                received = await right.receive()
                assert received == message and type(received) is type(message)
                await right.send(message)
                assert await left.receive() == message

    run(factory, main)


def test_a_reservation_is_filled_in_place_and_received_in_place(factory):
    async def main():
        left, right = both()
        with left, right:
            reservation = await left.reserve(1000)
            with memoryview(reservation) as view:
                view[:5] = b"hello"
            reservation.commit(5)
            with await right.receive() as lease:
                assert bytes(lease) == b"hello" and len(lease) == 5
                assert lease[0] == ord("h")
                with pytest.raises(TypeError):
                    memoryview(lease)[0] = 0
            assert left.statistics().bytes_copied == right.statistics().bytes_copied == 0
            assert left.statistics().bytes_sent == right.statistics().bytes_received == 5

    run(factory, main)


def test_after_release_there_is_an_error_and_never_other_bytes():
    left, right = both()
    with left, right:
        with left.reserve_nowait(8) as reservation:
            reservation[:] = b"12345678"
        lease = right.receive_nowait()
        view = lease[2:4]
        with pytest.raises(BufferError, match="view"):
            lease.release()
        assert bytes(view) == b"34"
        view.release()
        lease.release()
        lease.release()
        with pytest.raises(BufferError, match="released"):
            memoryview(lease)
        with pytest.raises(BufferError):
            reservation.write(b"x")
        with pytest.raises(BufferError):
            reservation.commit()


def test_a_commit_waits_for_the_views_to_be_dropped():
    left, right = both()
    with left, right:
        reservation = left.reserve_nowait(8)
        view = memoryview(reservation)
        with pytest.raises(BufferError, match="view"):
            reservation.commit()
        view.release()
        with pytest.raises(ValueError):
            reservation.commit(9)
        reservation.commit()
        right.receive_nowait().release()


def test_records_become_visible_in_order_of_reservation():
    left, right = both()
    with left, right:
        first, second, third = (left.reserve_nowait(1) for _ in range(3))
        third.write(b"3")
        third.commit()
        second.cancel()
        with pytest.raises(ChannelEmpty):
            right.receive_nowait()
        first.write(b"1")
        first.commit()
        assert [bytes(right.receive_nowait()) for _ in range(2)] == [b"1", b"3"]
        # One that is dropped does not hold up the others.
        dropped = left.reserve_nowait(1)
        left.send_nowait("after")
        del dropped
        assert right.receive_nowait() == "after"


def test_the_space_is_reused_when_leases_end_in_any_order():
    generator = random.Random(1)
    left, right = both(4096 * 4)
    with left, right:
        held, expected = [], []
        for number in range(20000):
            size = generator.randrange(0, 3000)
            try:
                reservation = left.reserve_nowait(size)
            except ChannelFull:
                if held:
                    held.pop(generator.randrange(len(held))).release()
            else:
                content = number.to_bytes(4, "little") * (size // 4)
                reservation.write(content)
                reservation.commit(len(content))
                expected.append(content)
            if generator.random() < 0.6 and expected:
                lease = right.receive_nowait()
                assert bytes(lease) == expected.pop(0)
                if generator.random() < 0.7:
                    lease.release()
                else:
                    held.append(lease)
        assert number and left.statistics().sent > 3000


def test_a_full_ring_holds_the_sender_back(factory):
    async def main():
        left, right = both(4096)
        with left, right:
            sent = [bytes([i % 256]) * 1000 for i in range(50)]

            async def send_all():
                for message in sent:
                    await left.send(message)

            task = asyncio.ensure_future(send_all())
            await settle()
            assert not task.done()
            with pytest.raises(ChannelFull):
                left.reserve_nowait(4000)
            assert [await right.receive() for _ in sent] == sent
            await task

    run(factory, main)


def test_several_tasks_at_each_end(factory):
    async def main():
        left, right = both(4096)
        with left, right:
            received = []

            async def receive():
                while True:
                    message = await right.receive()
                    if message is None:
                        return
                    received.append(message)

            async def send(first):
                for number in range(first, first + 100):
                    await left.send(number)

            receivers = [asyncio.ensure_future(receive()) for _ in range(3)]
            await asyncio.gather(*(send(100 * i) for i in range(4)))
            for _ in receivers:
                await left.send(None)
            await asyncio.gather(*receivers)
            assert sorted(received) == list(range(400))

    run(factory, main)


def test_a_cancelled_wait_takes_and_sends_nothing(factory):
    async def main():
        left, right = both(4096)
        with left, right:
            waiting, other = start(right.receive()), start(right.receive())
            await settle()
            await cancelled(waiting)
            await left.send(1)
            assert await other == 1
            left.reserve_nowait(left.largest).commit()
            waiting, other = start(left.send("never")), start(left.send("sent"))
            await settle()
            await cancelled(waiting)
            (await right.receive()).release()
            await other
            assert await right.receive() == "sent"
            with pytest.raises(ChannelEmpty):
                right.receive_nowait()

    run(factory, main)


def test_a_kept_lease_does_not_strand_a_sender_that_waits(factory):
    """Less room than the wake-up's hysteresis asks for, and a receiver that sleeps."""

    async def main():
        left, right = both(64 * 1024)
        with left, right:
            left.reserve_nowait(63 * 1024 - 128).commit()
            kept = right.receive_nowait()
            left.reserve_nowait(512).commit()
            small = right.receive_nowait()
            sender = start(left.send(b"x" * 900))
            receiver = start(right.receive())
            await settle()
            # In order: the small one cannot be reused before the kept one is given back.
            small.release()
            await settle()
            assert not sender.done()
            kept.release()
            assert await receiver == b"x" * 900
            await sender

    run(factory, main)


def test_what_is_larger_than_the_ring():
    left, right = both(4096)
    with left, right:
        with pytest.raises(ValueError, match="4032"):
            left.reserve_nowait(4033)
        with pytest.raises(ValueError, match="fit"):
            left.send_nowait(b"x" * 5000)
        left.reserve_nowait(4032).commit()
        with right.receive_nowait() as lease:
            assert len(lease) == 4032
    for capacity in (0, -1, 1 << 40):
        with pytest.raises(ValueError):
            SharedChannel.pair(capacity)


def test_closing(factory):
    async def main():
        left, right = both()
        await left.send("last")
        waiting = start(left.receive())
        await settle()
        left.close()
        left.close()
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(ChannelClosed):
            await left.send(1)
        with pytest.raises(ChannelClosed):
            await left.receive()
        assert await right.receive() == "last"
        with pytest.raises(ChannelClosed):
            await right.receive()
        with pytest.raises(ChannelClosed):
            await right.send(1)
        assert [m async for m in right] == []
        right.close()

    run(factory, main)


def test_a_waiting_peer_hears_of_the_close(factory):
    async def main():
        left, right = both(4096)
        left.reserve_nowait(left.largest).commit()
        receiver, sender = start(left.receive()), start(left.send(1))
        await settle()
        right.close()
        for task in (receiver, sender):
            with pytest.raises(ChannelClosed):
                await task
        left.close()

    run(factory, main)


def test_leases_outlive_the_channel():
    left, right = both()
    left.reserve_nowait(4).commit()
    left.send_nowait(bytearray(b"abc"))
    lease = right.receive_nowait()
    left.close()
    right.close()
    del left, right
    gc.collect()
    assert bytes(lease) == b"\0\0\0\0"
    lease.release()


def test_no_descriptor_is_left():
    with no_descriptor_left():
        for _ in range(50):
            left, right = both()
            left.close()
            right.close()
        left, right = both()
        del left, right


def test_another_end_than_the_socket_of_a_channel():
    a, b = socket.socketpair()
    a.send(b"x" * 16)
    with no_descriptor_left(), pytest.raises(ChannelCorrupt):
        SharedChannel.attach(socket.socket(fileno=os.dup(b.fileno())))
    a.close()
    with no_descriptor_left(), pytest.raises(ConnectionResetError):
        SharedChannel.attach(socket.socket(fileno=os.dup(b.fileno())))
    b.close()


def test_the_memory_cannot_be_shrunk_under_the_reader():
    link, other = socket.socketpair()
    channel = SharedChannel._create(4096, link, 0)
    _, (memory, *rest) = socket.recv_fds(other, 64, 3)[:2]
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)
    for descriptor in (memory, *rest):
        os.close(descriptor)
    other.close()
    channel.close()


def test_nonsense_from_the_peer_is_an_error():
    link, other = socket.socketpair()
    channel = SharedChannel._create(4096, link, 0)
    _, (memory, *rest) = socket.recv_fds(other, 64, 3)[:2]
    # The tail of the peer's ring (side 1): after the head of the file and the ring of side 0.
    os.pwrite(memory, (1 << 40).to_bytes(8, "little"), 128 + 128)
    with pytest.raises(ChannelCorrupt):
        channel.receive_nowait()
    for descriptor in (memory, *rest):
        os.close(descriptor)
    other.close()
    channel.close()


def test_with_another_process(factory):
    async def main():
        channel, link = SharedChannel.pair(1 << 16)
        with spawn("echo", link) as process, channel:
            for number in range(500):
                await channel.send({"number": number})
                assert await channel.receive() == {"number": number}
            for size in (0, 1, 63, 64, 65, 60000):
                with await channel.reserve(size) as reservation:
                    reservation.write(b"z" * size)
                assert await channel.receive() == b"z" * size
            channel.close()
            await asyncio.get_running_loop().run_in_executor(None, process.wait)
            assert process.returncode == 0

    run(factory, main)


def test_a_stream_to_another_process_arrives_whole(factory):
    async def main():
        channel, link = SharedChannel.pair(1 << 14)
        process = spawn("sum", link)
        for number in range(5000):
            with await channel.reserve(64) as reservation:
                reservation[:] = bytes([number % 256]) * 64
        channel.close()
        output, _ = await asyncio.get_running_loop().run_in_executor(None, process.communicate)
        assert int(output) == sum(number % 256 for number in range(5000))

    run(factory, main)


def test_a_killed_peer_is_an_error_and_what_it_sent_is_not_lost(factory):
    async def main():
        channel, link = SharedChannel.pair(1 << 14)
        process = spawn("crash", link)
        assert await channel.receive() == "last words"
        # What it had not committed is never seen.
        with pytest.raises(PeerDied):
            await channel.receive()
        with pytest.raises(PeerDied):
            await channel.send(1)
        with process:
            pass
        channel.close()

    run(factory, main)


def test_a_killed_peer_is_noticed_though_its_socket_is_still_open_here(factory):
    async def main():
        channel, link = SharedChannel.pair(1 << 14)
        copy = link.dup()
        process = spawn("crash", link)
        assert await channel.receive() == "last words"
        with pytest.raises(PeerDied):
            await channel.receive()
        copy.close()
        with process:
            pass
        channel.close()

    run(factory, main)


def test_by_name(factory):
    async def main():
        name = f"test-{os.getpid()}"
        with SharedChannel.listen(name, 1 << 14) as listener:
            with pytest.raises(OSError):
                SharedChannel.listen(name)
            with subprocess.Popen([sys.executable, PEER, "echo", name]) as process:
                with await listener.accept() as channel:
                    await channel.send([1, 2])
                    assert await channel.receive() == [1, 2]
                await asyncio.get_running_loop().run_in_executor(None, process.wait)
                assert process.returncode == 0
        with pytest.raises(ConnectionRefusedError):
            await SharedChannel.connect(name)
        for bad in ("", "x" * 65, "a\0b"):
            with pytest.raises(ValueError, match="name"):
                SharedChannel.listen(bad)

    run(factory, main)


def test_another_user_is_refused(factory, monkeypatch):
    async def main():
        name = f"test-uid-{os.getpid()}"
        with SharedChannel.listen(name) as listener:
            accepting = start(listener.accept())
            real = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: real + 1)
            with pytest.raises(PermissionError, match="user"):
                await SharedChannel.connect(name)
            await settle()
            monkeypatch.undo()
            assert not accepting.done()
            await cancelled(accepting)

    run(factory, main)


def test_after_fork_the_child_lets_go():
    left, right = both()
    left.reserve_nowait(4).commit()
    lease = right.receive_nowait()
    pid = os.fork()
    if pid == 0:
        # Whatever the child does with its copies must not release the parent's lease.
        status = 1
        try:
            lease.release()
            left.send_nowait(1)
        except ChannelClosed:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    left.reserve_nowait(left.largest - 256).commit()
    with pytest.raises(ChannelFull):
        left.reserve_nowait(256)
    lease.release()
    left.close()
    right.close()


def test_arrays_arrive_as_views_and_give_the_space_back(factory):
    numpy = pytest.importorskip("numpy", reason="NumPy is not a dependency")

    async def main():
        left, right = both(1 << 16)
        with left, right:
            for number in range(100):
                # Each takes a third of the ring: it works only if each gives its space back.
                await left.send({"n": number, "data": numpy.full(2500, number, dtype=numpy.int64)})
                message = await right.receive()
                data = message["data"]
                assert not data.flags.owndata and data.ctypes.data % 64 == 0
                assert (data == number).all()
                data += 1  # it is ours until we drop it
                del message, data
            assert right.statistics().bytes_copied == 0

    run(factory, main)
