"""``clearway copy``: files and directories, copied within the kernel, with a progress bar.

A file is in place whole or not at all: it is copied under another name and renamed. Mode, times and extended
attributes are kept; owners and hard links are not.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import clearway
from clearway.cli.copying.plan import CopyRefused, make_plan
from clearway.cli.copying.work import Account, Copier
from clearway.cli.options import add_loop_options, loop_options

_SHOWN_MAX = 20


def main(argv: Sequence[str]) -> int:
    """Run the command.

    :returns: 0 when everything was copied, 1 when something was not, 130 and 143 when SIGINT or SIGTERM ended it.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    options: dict[str, Any] = loop_options(parser, arguments)
    account = Account()
    began = time.monotonic()
    stopped_by: list[int] = []
    try:
        clearway.run(_copy(arguments, account, stopped_by), **options)
    except CopyRefused as refused:
        print(f"clearway copy: {refused}", file=sys.stderr)
        return 1
    except OSError as error:
        if not account.failed:
            print(f"clearway copy: {error}", file=sys.stderr)
            return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        stopped_by = stopped_by or [signal.SIGINT]
    _report(account, time.monotonic() - began, bool(stopped_by), arguments.quiet)
    if stopped_by:
        return 128 + stopped_by[0]
    return 1 if account.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clearway copy",
        description="Copy a file, or a directory with all that is in it. A file is in place whole or not at all.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="a file or a directory")
    add("target", type=Path, metavar="DST", help="its copy, or a directory to copy it into")
    add("--verify", action="store_true", help="read each copy back from the disk and compare")
    add("--sync", action="store_true", help="have each file on the disk before it is in place")
    add("--quiet", action="store_true", help="say nothing unless something is not copied")
    add_loop_options(parser)
    return parser


async def _copy(arguments: argparse.Namespace, account: Account, stopped_by: list[int]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        stopped_by.append(signal.SIGTERM)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        plan = await make_plan(arguments.source, arguments.target)
        with _bar(plan.size, arguments.quiet) as update:
            copier = Copier(
                plan, account, verify=arguments.verify, sync=arguments.sync, on_progress=update
            )
            await copier.run()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _bar(size: int, quiet: bool) -> AbstractContextManager[Callable[[Account], object]]:
    """The progress bar: on a terminal, where rich is installed."""
    if quiet or not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        return nullcontext(lambda _: None)
    from clearway.cli.copying.display import Bar

    return Bar(size)


def _report(account: Account, took_s: float, stopped: bool, quiet: bool) -> None:
    """What was done, on standard output, and what was not, on standard error."""
    for path, why in account.failed[:_SHOWN_MAX]:
        print(f"clearway copy: {path}: {why}", file=sys.stderr)
    if len(account.failed) > _SHOWN_MAX:
        print(f"clearway copy: and {len(account.failed) - _SHOWN_MAX} more", file=sys.stderr)
    done = f"{account.files:,} files with {account.size:,} bytes"
    if account.links:
        done += f", {account.links:,} links"
    if account.directories:
        done += f", {account.directories:,} directories"
    if stopped:
        text = f"interrupted: {done} are in place"
        if account.unfinished:
            names = ", ".join(map(str, account.unfinished))
            text += f"; not finished, and nothing left of: {names}"
        print(text, file=sys.stderr)
    elif not quiet:
        rate = account.size / took_s / 1e6 if took_s > 0 else 0.0
        print(f"copied {done} in {took_s:.1f} s ({rate:,.0f} MB/s)")
