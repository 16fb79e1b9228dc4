"""A server for tests of signals: ``python -m tests.programs.interrupted MODE HOG``; says on stdout what happens.

MODE is a mode of preemption, or "default" for the loop that asyncio makes. HOG: "none", "finite" (computes until the
file named by the environment variable GO_ON exists) or "endless". In the environment, STOP_AT=start sends SIGINT to
itself while the loop is being made, and STOP_AT=end while it is being closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

HOG = sys.argv[2]
greeted = asyncio.Event()


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def hog() -> None:
    await greeted.wait()
    say("computing")
    while HOG == "endless" or not os.path.exists(os.environ["GO_ON"]):
        sum(range(100))
    say("computed")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
            greeted.set()
    except asyncio.CancelledError:
        writer.write(b"goodbye\n")
        raise
    finally:
        writer.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    say(f"port {server.sockets[0].getsockname()[1]}")
    tasks = [] if HOG == "none" else [loop.create_task(hog())]
    try:
        await stop.wait()
        say("asked to stop")
    except asyncio.CancelledError:
        say("cancelled")
        raise
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        say("closed")
        if os.environ.get("STOP_AT") == "end":
            loop.call_soon(signal.raise_signal, signal.SIGINT)


if __name__ == "__main__":
    if os.environ.get("STOP_AT") == "start":
        asyncio.get_event_loop_policy()
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
    if sys.argv[1] == "default":
        asyncio.run(main())
    else:
        import clearway

        clearway.run(main(), preempt=sys.argv[1], quantum=0.002)
    say("ended")
