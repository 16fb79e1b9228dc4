"""The other process of the tests of SharedChannel: `python shared_peer.py WHAT (fd|name) [loop]`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from clearway.channels import SharedChannel


async def main(what: str, where: str) -> None:
    if where.isdigit():
        channel = SharedChannel.attach(int(where))
    else:
        channel = await SharedChannel.connect(where)
    if what == "echo":
        with channel:
            async for message in channel:
                await channel.send(bytes(message) if hasattr(message, "release") else message)
                del message
    elif what == "crash":
        await channel.send("last words")
        reservation = await channel.reserve(100)
        reservation[:4] = b"torn"
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "sum":
        total = 0
        with channel:
            async for lease in channel:
                with lease:
                    total += sum(memoryview(lease)[::64])
            # The sender closed; what it said last is in `total`, which goes out by exit status.
        print(total)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
