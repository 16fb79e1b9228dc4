"""The process under load: uvicorn with httptools on one loop, pinned to one core.

``python -m clearway.cli.demo.server --loop uring`` prints one line of JSON when it listens and
serves until SIGTERM. uvicorn is driven through its own ``Server`` inside ``asyncio.Runner``, in the
same way for every loop, so that nothing but the loop differs.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearway.cli.demo import app

LOOPS = ("asyncio", "uvloop", "uring", "epoll")

#: prctl(2) option, from linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until SIGTERM; the line printed is ``{"port", "loop"}``.

    :raises SystemExit: with a one-line reason when the loop cannot be had here.
    """
    parser = argparse.ArgumentParser(prog="python -m clearway.cli.demo.server")
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--cpu", type=int, help="the core to run on")
    parser.add_argument("--parent", type=int, help="end when this process does")
    parser.add_argument("--preempt", choices=("off", "on"), default="off", help="clearway only")
    parser.add_argument("--quantum", type=float, default=0.005, help="time slice, seconds")
    parser.add_argument("--work", type=int, help="rounds that the handler /cpu computes")
    parser.add_argument("--timeline", type=Path, help="on ending, write who ran when to this file")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        _die_with(arguments.parent)
    if arguments.cpu is not None:
        os.sched_setaffinity(0, {arguments.cpu})
    try:
        factory = loop_factory(arguments.loop, preempt=arguments.preempt, quantum=arguments.quantum)
        factory().close()
    except Exception as error:
        sys.exit(f"{arguments.loop} cannot run here: {type(error).__name__}: {error}")
    if arguments.work is not None:
        app.rounds = arguments.work
    if arguments.preempt == "on":
        import clearway

        # They stand for a user's code; whatever else bears clearway's name is never suspended.
        for function in app.HANDLERS:
            clearway.allow(app.__name__, function)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(arguments.timeline))


def loop_factory(name: str, **options: Any) -> Callable[[], asyncio.AbstractEventLoop]:
    """The factory of one of :data:`LOOPS`.

    :param options: for ``clearway.new_event_loop``; the others have none.
    :raises ImportError: when the package it comes from is not installed.
    """
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    import clearway

    return functools.partial(clearway.new_event_loop, engine=name, **options)


async def _serve(timeline: Path | None) -> None:
    import uvicorn

    class Announcing(uvicorn.Server):
        """Says where it listens, once it does."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            loop = type(asyncio.get_running_loop())
            line = {
                "port": self.servers[0].sockets[0].getsockname()[1],
                "loop": f"{loop.__module__}.{loop.__qualname__}",
            }
            print(json.dumps(line), flush=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets=sockets)
            # Here, because uvicorn ends the process by the signal that it was ended by.
            if timeline is not None:
                timeline.write_text(json.dumps(_recorded()))

    options: dict[str, Any] = {
        # The loop makes the listener, as with `uvicorn --port`. One handed in with protocol number
        # 0 keeps asyncio from setting TCP_NODELAY, and then each answer waits 40 ms for an
        # acknowledgement.
        "host": "127.0.0.1",
        "port": 0,
        "backlog": 4096,
        "http": "httptools",
        "ws": "none",
        "lifespan": "off",
        "log_level": "warning",
        "access_log": False,
        # The load generator's connections are to last the whole round.
        "timeout_keep_alive": 60,
        "timeout_graceful_shutdown": 1,
    }
    if timeline is not None:
        app.timeline.attach(asyncio.get_running_loop())
    config = uvicorn.Config("clearway.cli.demo.app:app", **options)
    await Announcing(config).serve()


def _recorded() -> dict[str, Any]:
    """The slices of the slow handlers, and how often the scheduler suspended a step."""
    statistics = getattr(asyncio.get_running_loop(), "statistics", None)
    scheduler = statistics().scheduler if statistics is not None else None
    slices = [(s.name, s.number, s.began_ns, s.ended_ns, s.waits) for s in app.timeline.slices]
    return {"slices": slices, "suspensions": getattr(scheduler, "suspensions", None)}


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends, however it ends: no orphans."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have ended before the request was made.
    if os.getppid() != parent:
        sys.exit("the demo that started this server is gone")


if __name__ == "__main__":
    main()
