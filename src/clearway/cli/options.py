"""The options that choose a loop, once for every command that takes them."""

from __future__ import annotations

import argparse
import re

from clearway.loop.options import ENGINES, MODES, read_options

#: Suffix -> seconds. A bare number is seconds, as in the Python API.
_UNITS_S = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)\s*(us|ms|s|)")


def duration(text: str) -> float:
    """Read a length of time such as ``5ms``, ``0.5s``, ``500us`` or ``0.005``.

    :returns: seconds, greater than 0.
    :raises argparse.ArgumentTypeError: when the text is not such a length of time.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if seconds <= 0.0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a length of time: write for example 5ms, 500us or 0.005 (seconds)"
        )
    return seconds


def add_loop_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`clearway.new_event_loop` to ``parser``.

    None has a default here: what is not given is left to the environment (``CLEARWAY_ENGINE`` and
    the like) and to the loop itself, so that each default is written in one place.
    """
    group = parser.add_argument_group("the loop")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        help="how I/O is done; auto takes io_uring where it is allowed, else epoll",
    )
    group.add_argument(
        "--debug", action="store_true", default=None, help="asyncio's debug mode for every loop"
    )
    group.add_argument(
        "--preempt",
        choices=MODES,
        help="what happens to a step that overruns its quantum",
    )
    group.add_argument(
        "--quantum",
        type=duration,
        metavar="TIME",
        help="the time slice, e.g. 5ms or 0.005 (seconds)",
    )
    group.add_argument("--policy", metavar="NAME", help="who runs next, e.g. fair")
    group.add_argument(
        "--report-after",
        type=duration,
        metavar="TIME",
        help="with --preempt report: how long a step may run before it is reported, e.g. 100ms",
    )


def loop_options(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> dict[str, object]:
    """The keyword arguments for :func:`clearway.new_event_loop` that were given.

    :raises SystemExit: when they, or what the environment adds to them, make no loop; said as
        wrong usage now rather than as a traceback out of the user's program later.
    """
    names = ("engine", "debug", "preempt", "quantum", "policy", "report_after")
    given = {name: getattr(arguments, name) for name in names}
    options = {name: value for name, value in given.items() if value is not None}
    try:
        read_options(options)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return options
