"""What a name on the command line stands for: ``uring``, ``c``, ``epoll@/old/src?x=y``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import parse_qsl

from benchmarks import native
from benchmarks.runner import ROOT, BenchmarkError, Server, running

#: Loops that benchmarks/servers can serve on, besides the C program.
LOOPS = ("uring", "epoll", "selector", "uvloop", "asyncio")
CLEARWAY = ("uring", "epoll", "selector")
ECHO_PROGRAM = Path(__file__).parent / "servers" / "echo.py"


def echo_server(text: str, *, mode: str, python: str, core: int) -> Server:
    """Turn ``NAME[@PATH][?OPTION=VALUE&...]`` into a server.

    Args:
        text: NAME is one of LOOPS or ``c``; ``@PATH`` is a directory to import clearway from, to
            compare two checkouts; the options go to ``clearway.new_event_loop``.
        mode: how the server is written: protocol, buffered, streams or sock. The C program has one.
        python: the interpreter.
        core: the core it runs on; -1 for any.

    Raises:
        ValueError: the name is unknown, or has options it cannot take.
    """
    rest, _, query = text.partition("?")
    name, _, path = rest.partition("@")
    if name == "c":
        if path or query:
            raise ValueError(f"{text}: the C server takes neither a path nor options")
        return Server(text, (str(native.build("epoll_echo")), f"--core={core}"))
    if name not in LOOPS:
        raise ValueError(f"{text}: unknown server; there are {', '.join(LOOPS)} and c")
    if query and name not in CLEARWAY:
        raise ValueError(f"{text}: only clearway's loops take options")
    options = [f"--option={key}={value}" for key, value in parse_qsl(query, strict_parsing=True)]
    source = path or (str(ROOT / "src") if (ROOT / "src" / "clearway").is_dir() else "")
    search = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))
    # Options that set the loop apart from its defaults must come from the command line alone.
    env = {"PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "", "CLEARWAY_ENGINE": "auto"}
    argv = (python, str(ECHO_PROGRAM), f"--loop={name}", f"--mode={mode}", f"--core={core}")
    return Server(text, (*argv, *options), env)


def startable(servers: list[Server]) -> tuple[list[Server], dict[str, str]]:
    """Start each server once: those that run, and why the others do not."""
    good, refused = [], {}
    for server in servers:
        try:
            with running(server):
                good.append(server)
        except BenchmarkError as error:
            refused[server.name] = str(error).strip().splitlines()[-1]
    return good, refused


def default_python() -> str:
    """The interpreter the servers run on unless told otherwise: this one."""
    return sys.executable
