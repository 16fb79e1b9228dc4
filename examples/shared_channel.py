"""A producer and a consumer in two processes; the arrays are never copied.

The producer computes frames directly in shared memory, the consumer's arrays are views of the same memory.

    python examples/shared_channel.py [frames]
"""

from __future__ import annotations

import multiprocessing
import socket
import sys

import numpy

import clearway
from clearway.channels import SharedChannel

WIDTH, HEIGHT = 640, 480


def producer(link: socket.socket, frames: int) -> None:
    async def main() -> None:
        with SharedChannel.attach(link) as channel:
            for number in range(frames):
                reservation = await channel.reserve(WIDTH * HEIGHT * 4)
                frame = numpy.frombuffer(reservation, numpy.float32)
                frame[:] = number
                del frame  # a view that is left would let us write into what was sent
                reservation.commit()
            # Any object may be sent, too; the buffers of arrays in it are laid into shared memory.
            await channel.send({"frames": frames, "mean": numpy.arange(frames).mean()})

    clearway.run(main())


async def consumer(frames: int) -> None:
    channel, link = SharedChannel.pair()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=producer, args=(link, frames))
    process.start()
    link.close()
    total = 0.0
    with channel:
        for _ in range(frames):
            with await channel.receive() as lease:
                frame = numpy.frombuffer(lease, numpy.float32).reshape(HEIGHT, WIDTH)
                total += float(frame[0, 0])
                del frame
        summary = await channel.receive()
        figures = channel.statistics()
    process.join()
    print(f"{summary['frames']} frames, mean {total / frames:g} (expected {summary['mean']:g})")
    print(f"{figures.bytes_received:,} bytes received, {figures.bytes_copied:,} copied here")


if __name__ == "__main__":
    clearway.run(consumer(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
