"""A UDP server for benchmarks: one datagram in, the same one or several out. Prints a line of JSON when it listens."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
from typing import Any


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back to where it came from."""

    def connection_made(self, transport: Any) -> None:
        self.sendto = transport.sendto

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.sendto(data, addr)


class Burst(Echo):
    """Answers a datagram with several, as a server of media or of QUIC does."""

    answers = 20
    size = 1200

    def datagram_received(self, data: bytes, addr: Any) -> None:
        payload = bytes(self.size)
        for _ in range(self.answers):
            self.sendto(payload, addr)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """A loop by its name: asyncio, uvloop, or an engine of clearway's."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    import clearway

    return clearway.new_event_loop(engine=name)


async def serve(protocol: type[Echo]) -> None:
    """Serve until SIGTERM, then say what it took: user and system CPU seconds."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    transport, _ = await loop.create_datagram_endpoint(protocol, local_addr=("127.0.0.1", 0))
    print(
        json.dumps({"port": transport.get_extra_info("sockname")[1], "pid": os.getpid()}),
        flush=True,
    )
    await over.wait()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"user_s": used.ru_utime, "system_s": used.ru_stime}), flush=True)
    transport.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="uring")
    parser.add_argument("--core", type=int, default=-1)
    parser.add_argument("--answers", type=int, default=1, help="datagrams per request")
    parser.add_argument("--size", type=int, default=1024, help="of each, with several")
    options = parser.parse_args()
    Burst.answers, Burst.size = options.answers, options.size
    if options.core >= 0:
        os.sched_setaffinity(0, {options.core})
    loop = new_loop(options.loop)
    try:
        loop.run_until_complete(serve(Burst if options.answers > 1 else Echo))
    finally:
        loop.close()


if __name__ == "__main__":
    sys.exit(main())
