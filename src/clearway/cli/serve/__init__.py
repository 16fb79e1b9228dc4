"""``clearway serve``: the files of a directory by HTTP/1.1, sent by the kernel from the page cache.

Only GET and HEAD, no TLS (put a proxy in front), one process, one thread and a few that wait for the disk. What is
served lies beneath the directory, always: links are followed as long as they do not lead out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import clearway
from clearway.cli.options import add_loop_options, duration, loop_options

_NEEDED = ("httptools",)


def main(argv: Sequence[str]) -> int:
    """Run the command.

    :returns: 0 when it was ended by SIGINT or SIGTERM and all answers were finished or cut; 1 when it could not start.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    options: dict[str, Any] = loop_options(parser, arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"clearway serve: {', '.join(missing)} not installed: pip install 'clearway[serve]'",
            file=sys.stderr,
        )
        return 1
    try:
        clearway.run(_serve(arguments), **options)
    except OSError as error:
        print(f"clearway serve: {error}", file=sys.stderr)
        return 1
    return 0


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of connections")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clearway serve",
        description="Serve the files beneath a directory by HTTP/1.1.",
        epilog="Times are written like 500ms, 10s or 10 (seconds).",
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="what to serve")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); :: or 0.0.0.0: all")
    add("--port", type=_port, default=8000, help="port to listen on (8000); 0: a free one")
    add("--quiet", action="store_true", help="no log of requests")
    add("--no-listing", action="store_true", help="403 for a directory without index.html")
    add("--hidden", action="store_true", help="serve names that begin with a dot, too")
    add("--charset", default="utf-8", help="of text files (utf-8)")
    add(
        "--max-connections",
        type=_count,
        metavar="N",
        help="default: what descriptors are there for",
    )
    limits = parser.add_argument_group("how long a client is waited for")
    add = limits.add_argument
    add("--head-timeout", type=duration, default=10.0, metavar="TIME", help="a whole request (10s)")
    add("--idle-timeout", type=duration, default=60.0, metavar="TIME", help="the next one (60s)")
    add("--send-timeout", type=duration, default=30.0, metavar="TIME", help="taking anything (30s)")
    add("--grace", type=duration, default=10.0, metavar="TIME", help="when it is ended (10s)")
    add_loop_options(parser)
    return parser


async def _serve(arguments: argparse.Namespace) -> None:
    from clearway.cli.serve.answers import Site
    from clearway.cli.serve.log import AccessLog
    from clearway.cli.serve.lookup import Root
    from clearway.cli.serve.mediatypes import MediaTypes
    from clearway.cli.serve.server import Limits, Server, raise_descriptor_limit

    root = Root(arguments.directory)
    try:
        enough = raise_descriptor_limit()
        limits = Limits(
            arguments.head_timeout,
            arguments.idle_timeout,
            arguments.send_timeout,
            arguments.grace,
            min(arguments.max_connections or enough, enough),
        )
        site = Site(
            root,
            MediaTypes(arguments.charset),
            listings=not arguments.no_listing,
            hidden=arguments.hidden,
        )
        log = None if arguments.quiet else AccessLog()
        try:
            server = Server(site, limits, log)
            addresses = await server.start(arguments.host or None, arguments.port)
            where = " and ".join(f"http://{_quoted(host)}:{port}/" for host, port in addresses)
            print(f"serving {os.fspath(root.path)} at {where}", flush=True)
            await _until_told(server)
        finally:
            if log is not None:
                log.close()
    finally:
        root.close()


def _quoted(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _until_told(server: object) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for what is on its way."""
    from clearway.cli.serve.server import Server

    assert isinstance(server, Server)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def tell() -> None:
        if told.is_set():
            server.cut()
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, tell)
    try:
        await told.wait()
        await server.stop()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
