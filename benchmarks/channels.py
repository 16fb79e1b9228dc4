"""Channels against their peers, in interleaved rounds: ``python -m benchmarks.channels [--rounds 7]``.

- ``Channel`` against ``asyncio.Queue``, on the same loop: by await (a producer and a consumer task), at once, in
  batches, and ping-pong (two channels, one message under way).
- ``SharedChannel`` against ``multiprocessing.Pipe`` and, where installed, pyzmq over ``ipc://``: one process fills
  and sends, this one receives and reads one byte of every cache line; 1 MiB and 64 B messages.

Ratios are medians of the ratios within rounds, with the 95 % interval of that median (``stats``). Every figure is
messages per second. NumPy does the reading (a Python loop would be all that is measured).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy

import clearway
from clearway.channels import Channel, ChannelClosed, SharedChannel

from . import stats, table

#: Messages of one sample: 0.1 to 0.5 s here, long beside the clock and short beside the noise.
TASK_MESSAGES = 100_000
PING_PONGS = 20_000
SIZES = {"1 MiB": (1 << 20, 600), "64 B": (64, 60_000)}
CAPACITY = 128
BATCH = 64

#: name of the measurement -> (ours, theirs, the bar of the ratio or None).
BARS: list[tuple[str, str, str, float | None]] = [
    ("tasks, by await", "Channel await", "Queue await", 1.6),
    ("tasks, at once", "Channel nowait", "Queue nowait", None),
    ("tasks, at once / by await", "Channel nowait", "Queue await", 5.0),
    ("tasks, in batches", "Channel batches", "Queue await", 5.0),
    ("tasks, ping-pong", "Channel ping-pong", "Queue ping-pong", None),
    ("processes, 1 MiB", "SharedChannel 1 MiB", "Pipe 1 MiB", 5.0),
    ("processes, 1 MiB", "SharedChannel 1 MiB", "zmq 1 MiB", 1.0),
    ("processes, 64 B", "SharedChannel 64 B", "Pipe 64 B", 3.0),
]


# -- between tasks ----------------------------------------------------------------------------------------------


async def by_await(
    put: Callable[[Any], Awaitable[Any]], get: Callable[[], Awaitable[Any]]
) -> float:
    async def produce() -> None:
        for number in range(TASK_MESSAGES):
            await put(number)

    task = asyncio.ensure_future(produce())
    start = time.perf_counter()
    for _ in range(TASK_MESSAGES):
        await get()
    took = time.perf_counter() - start
    await task
    return TASK_MESSAGES / took


async def at_once(put: Callable[[Any], Any], get: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(TASK_MESSAGES // CAPACITY):
        for number in range(CAPACITY):
            put(number)
        for _ in range(CAPACITY):
            get()
    return TASK_MESSAGES // CAPACITY * CAPACITY / (time.perf_counter() - start)


async def in_batches(channel: Channel) -> float:
    messages = list(range(BATCH))
    rounds = TASK_MESSAGES // BATCH

    async def produce() -> None:
        for _ in range(rounds):
            await channel.send_many(messages)
        channel.close()

    task = asyncio.ensure_future(produce())
    received = 0
    start = time.perf_counter()
    try:
        while True:
            received += len(await channel.receive_many(BATCH))
    except ChannelClosed:
        pass
    took = time.perf_counter() - start
    await task
    return received / took


async def ping_pong(there: tuple[Any, Any], back: tuple[Any, Any]) -> float:
    async def answer() -> None:
        for _ in range(PING_PONGS):
            await back[0](await there[1]())

    task = asyncio.ensure_future(answer())
    start = time.perf_counter()
    for number in range(PING_PONGS):
        await there[0](number)
        await back[1]()
    took = time.perf_counter() - start
    await task
    return PING_PONGS / took


def between_tasks(name: str, engine: str) -> float:
    kind, _, how = name.partition(" ")

    async def main() -> float:
        ends = []
        for _ in range(2):
            if kind == "Queue":
                queue: asyncio.Queue[Any] = asyncio.Queue(CAPACITY)
                ends.append((queue.put, queue.get, queue.put_nowait, queue.get_nowait))
            else:
                channel = Channel(CAPACITY)
                ends.append(
                    (channel.send, channel.receive, channel.send_nowait, channel.receive_nowait)
                )
        if how == "await":
            return await by_await(*ends[0][:2])
        if how == "nowait":
            return await at_once(*ends[0][2:])
        if how == "batches":
            return await in_batches(Channel(CAPACITY))
        return await ping_pong(ends[0][:2], ends[1][:2])

    return clearway.run(main(), engine=engine, preempt="off")


# -- between processes --------------------------------------------------------------------------------------------


def touch(buffer: Any) -> int:
    """Read every cache line; of 64 bytes there is but one, and NumPy would cost more than the message."""
    if len(buffer) <= 64:
        return int(buffer[0])
    return int(numpy.frombuffer(buffer, numpy.uint8)[::64].sum())


def _shared_writer(link: Any, size: int, count: int, engine: str) -> None:
    source = random.Random(1).randbytes(size)

    async def main() -> None:
        with SharedChannel.attach(link) as channel:
            for _ in range(count):
                reservation = await channel.reserve(size)
                reservation.write(source)
                reservation.commit()

    clearway.run(main(), engine=engine, preempt="off")


def shared(size: int, count: int, engine: str) -> float:
    async def main() -> float:
        channel, link = SharedChannel.pair()
        process = multiprocessing.get_context("spawn").Process(
            target=_shared_writer, args=(link, size, count, engine)
        )
        process.start()
        link.close()
        lease = await channel.receive()
        lease.release()
        start = time.perf_counter()
        for _ in range(count - 1):
            lease = await channel.receive()
            touch(lease)
            lease.release()
        took = time.perf_counter() - start
        channel.close()
        process.join()
        return (count - 1) / took

    return clearway.run(main(), engine=engine, preempt="off")


def _pipe_writer(pipe: Any, size: int, count: int) -> None:
    source = random.Random(1).randbytes(size)
    memory = bytearray(size)
    for _ in range(count):
        memory[:] = source
        pipe.send_bytes(memory)


def pipe(size: int, count: int, engine: str) -> float:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_pipe_writer, args=(sender, size, count)
    )
    process.start()
    sender.close()
    receiver.recv_bytes()
    start = time.perf_counter()
    for _ in range(count - 1):
        touch(receiver.recv_bytes())
    took = time.perf_counter() - start
    process.join()
    receiver.close()
    return (count - 1) / took


def _zmq_writer(address: str, size: int, count: int) -> None:
    import zmq

    source = random.Random(1).randbytes(size)
    context = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.connect(address)
    for _ in range(count):
        # A fresh buffer for each: zmq holds a message that is not copied until it was sent.
        memory = bytearray(source)
        sender.send(memory, copy=size < 4096)
    sender.close(linger=-1)  # until all of it is sent
    context.term()


def zmq(size: int, count: int, engine: str) -> float:
    import zmq

    with tempfile.TemporaryDirectory() as directory:
        address = "ipc://" + os.path.join(directory, "s")
        context = zmq.Context()
        with context.socket(zmq.PULL) as receiver:
            receiver.bind(address)
            process = multiprocessing.get_context("spawn").Process(
                target=_zmq_writer, args=(address, size, count)
            )
            process.start()
            receiver.setsockopt(zmq.RCVTIMEO, 20_000)  # ms: a lost message is an error and no hang
            receiver.recv()
            start = time.perf_counter()
            for _ in range(count - 1):
                message = receiver.recv(copy=size < 4096)
                touch(message if size < 4096 else message.buffer)
            took = time.perf_counter() - start
            process.join()
        context.term()
    return (count - 1) / took


BETWEEN_PROCESSES = {"SharedChannel": shared, "Pipe": pipe, "zmq": zmq}


def measure(name: str, engine: str) -> float:
    kind, _, how = name.partition(" ")
    if kind in BETWEEN_PROCESSES:
        return BETWEEN_PROCESSES[kind](*SIZES[how], engine)
    return between_tasks(name, engine)


# -- the command --------------------------------------------------------------------------------------------------


def contestants(only: str) -> list[str]:
    names = {name for bar in BARS if only in bar[0] for name in bar[1:3]}
    try:
        import zmq  # noqa: F401
    except ImportError:
        names = {name for name in names if not name.startswith("zmq")}
    return sorted(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--only", default="", help="measurements whose name contains this")
    parser.add_argument("--json", help="write all samples to this file")
    arguments = parser.parse_args()
    names = contestants(arguments.only)
    samples: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for number in range(arguments.rounds):
        print(f"\rround {number + 1}/{arguments.rounds}", end="", file=sys.stderr, flush=True)
        order.shuffle(names)
        for name in names:
            samples[name].append(measure(name, arguments.engine))
    print(file=sys.stderr)
    rows = [["measurement", "ours", "msgs/s", "theirs", "msgs/s", "ratio", "95 %", "bar", ""]]
    met = True
    for title, ours, theirs, bar in BARS:
        if ours not in samples or theirs not in samples:
            continue
        ratio = stats.paired_ratio(list(zip(samples[ours], samples[theirs], strict=True)))
        mine, other = stats.spread(samples[ours]), stats.spread(samples[theirs])
        assert ratio and mine and other
        reached = bar is None or ratio.median >= bar
        met = met and reached
        rows.append(
            [
                *(title, ours, f"{mine.median:,.0f}", theirs, f"{other.median:,.0f}"),
                *(f"{ratio.median:.2f}", f"{ratio.low:.2f}..{ratio.high:.2f}"),
                f">= {bar:g}" if bar else "-",
                "" if bar is None else "met" if reached else "MISSED",
            ]
        )
    print(table.render(rows))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"engine": arguments.engine, "samples": samples}, file, indent=1)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
