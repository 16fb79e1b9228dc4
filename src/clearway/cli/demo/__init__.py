"""``clearway demo``: the same HTTP service on asyncio, uvloop and clearway, under load, in one run.

The first act is a race: how many requests each loop answers. In the second two handlers compute or
block for a tenth of a second now and then, and the question is how long everybody else waits.

A server per loop and round, pinned to a core of its own, a load generator on another, both over
loopback. The order within a round is drawn anew each time, so that a machine that slows down for a
while slows down for each of them alike; ratios are taken within a round. A fresh process per round
is deliberate: how memory happens to lie decides whether some loops are fast or slow for a whole
lifetime.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearway.cli.demo.figures import Round, Summary
    from clearway.cli.demo.load import Generator
    from clearway.cli.demo.slow import Outcome

#: What the `demo` extra installs and the demo cannot do without. uvloop is only left out.
_NEEDED = ("rich", "uvicorn", "httptools")

_LOOPS = ("asyncio", "uvloop", "uring", "epoll")

#: Connections: enough to keep the server always busy, few enough that latency is not all queueing.
_CONNECTIONS = 64

#: A generator that takes more of its core than this may have been the limit itself.
_GENERATOR_BUSY = 0.97

#: A loop's fastest round over its slowest, above which its median says little by itself.
_UNSTEADY_RATIO = 1.5


def main(argv: Sequence[str]) -> int:
    """Run the command.

    :returns: 0 when every loop that can run here was measured without an error, 1 otherwise, 130
        and 143 when SIGINT or SIGTERM ended it.
    """
    arguments = _parser().parse_args(argv)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"clearway demo: {', '.join(missing)} not installed: pip install 'clearway[demo]'",
            file=sys.stderr,
        )
        return 1
    from clearway.cli.demo.load import LoadError
    from clearway.cli.demo.probe import ProbeError
    from clearway.cli.demo.process import ServerError

    # SIGTERM and a closed terminal must end the servers too: unwind as for Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return _demonstrate(arguments)
    except (LoadError, ProbeError, ServerError) as error:
        print(f"clearway demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("clearway demo: interrupted; all servers have ended", file=sys.stderr)
        return 128 + signal.SIGINT


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clearway demo",
        description="Serve HTTP with uvicorn on asyncio, uvloop and clearway, load each over "
        "loopback; then again with handlers that compute or block. Prints a table for each.",
    )
    parser.add_argument(
        "--seconds", type=_positive, default=2, metavar="N", help="length of a measurement (2)"
    )
    parser.add_argument(
        "--rounds", type=_positive, default=5, metavar="N", help="measurements of each loop (5)"
    )
    parser.add_argument(
        "--connections", type=_positive, default=_CONNECTIONS, metavar="N", help="clients (64)"
    )
    parser.add_argument(
        "--loops",
        type=_loops,
        default=_LOOPS,
        metavar="LIST",
        help=f"which to compare, separated by commas ({','.join(_LOOPS)})",
    )
    parser.add_argument(
        "--load",
        choices=("auto", "wrk", "builtin"),
        default="auto",
        help="the load generator; auto takes wrk where it is installed",
    )
    parser.add_argument(
        "--act",
        choices=("all", "race", "slow"),
        default="all",
        help="race: the first table; slow: the slow handlers and their picture (all)",
    )
    parser.add_argument(
        "--slow-seconds",
        type=_positive,
        default=6,
        metavar="N",
        help="length of a measurement with slow handlers (6)",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw who ran when into FILE, as HTML"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _loops(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in _LOOPS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; there are {', '.join(_LOOPS)}"
        )
    return names


def _demonstrate(arguments: argparse.Namespace) -> int:
    from clearway.cli.demo import load, machine, picture, screen, slow
    from clearway.cli.demo.figures import summarize

    race, slowly = arguments.act != "slow", arguments.act != "race"
    generator = load.find(arguments.load)
    server_core, load_core = machine.choose_cores()
    if load_core is not None:
        # Inherited by the load generator; a server moves itself to its own core.
        os.sched_setaffinity(0, {load_core})
    total = len(arguments.loops) * (arguments.rounds * race + 1)
    display = screen.Display(arguments.loops, total)
    rounds: list[Round] = []
    outcomes: list[Outcome] = []
    with display.shown():
        loops, absent = _present(arguments.loops, server_core, display)
        for number in range(arguments.rounds if race else 0):
            for loop in random.sample(loops, len(loops)):
                display.begin(f"round {number + 1}/{arguments.rounds}: {screen.title(loop)}")
                rounds.append(_measure(loop, number, generator, server_core, arguments))
                display.add(rounds)
        if slowly:
            who = slow.contestants(loops)
            display.expect(len(who))
            cores = (server_core, load_core)
            outcomes = slow.measure_all(who, arguments.slow_seconds, cores, display)
    summaries = [summary for loop in loops if (summary := summarize(loop, rounds)) is not None]
    context = {
        "machine": machine.describe(),
        "service": _describe_service(),
        "load": generator.name,
        "connections": arguments.connections,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "server_core": server_core,
        "load_core": load_core,
    }
    notes = _notes(context, absent, rounds, summaries)
    output = screen.console()
    heading = (
        f"HTTP over loopback: GET / on {arguments.connections} keep-alive connections, "
        f"{arguments.rounds} rounds of {arguments.seconds} s each, interleaved"
    )
    if race:
        output.print(screen.table(heading, summaries))
    if outcomes:
        output.print(screen.slow_table(_slow_heading(arguments.slow_seconds), outcomes))
        notes += _slow_notes(outcomes)
    for note in notes:
        output.print(note, soft_wrap=True, markup=False)
    if outcomes and arguments.picture is not None:
        picture.write(arguments.picture, outcomes, [_slow_heading(arguments.slow_seconds), *notes])
        output.print(f"who ran when: {arguments.picture}", soft_wrap=True, markup=False)
    if arguments.json is not None:
        _write_json(arguments.json, context, absent, notes, rounds, summaries, outcomes)
    failed = any(summary.errors for summary in summaries) or not (summaries or outcomes)
    failed = failed or any(item.report.errors for item in outcomes)
    return 1 if failed or _is_clearway_absent(absent) else 0


def _present(
    loops: Sequence[str], core: int | None, display: Any
) -> tuple[list[str], dict[str, str]]:
    """Which loops can run here, and why the others cannot; each is started once to find out."""
    from clearway.cli.demo import screen
    from clearway.cli.demo.process import ServerError, ServerProcess

    present: list[str] = []
    absent: dict[str, str] = {}
    for loop in loops:
        display.begin(f"trying {screen.title(loop)}")
        try:
            with ServerProcess(loop, core) as server:
                server.warm_up()
            present.append(loop)
        except ServerError as error:
            absent[loop] = str(error)
        display.tried()
    return present, absent


def _measure(
    loop: str, number: int, generator: Generator, core: int | None, arguments: argparse.Namespace
) -> Round:
    from clearway.cli.demo.figures import Round
    from clearway.cli.demo.load import LoadError
    from clearway.cli.demo.process import ServerProcess

    with ServerProcess(loop, core) as server:
        server.warm_up()
        before = server.usage()
        load = generator.run(server.port, arguments.connections, arguments.seconds)
        usage = server.usage().since(before)
    if load.requests == 0:
        raise LoadError(f"not one request was answered by the server on {loop}")
    return Round(loop, number, load, usage)


def _slow_heading(seconds: int) -> str:
    from clearway.cli.demo import slow

    return (
        f"The wait of {slow.FAST_RATE:,.0f} fast requests/s while {slow.SLOW_RATE:g} slow "
        f"requests/s compute or block, {seconds} s each"
    )


def _slow_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """What one must know to read the second table."""
    from clearway.cli.demo import app, slow

    notes = [
        f"slow handlers: /cpu computes, /block sleeps, each {app.SLOW_S * 1e3:.0f} ms by itself; "
        f"fast requests are sent at a fixed rate and wait from when they are due; quantum "
        f"{slow.QUANTUM_S * 1e3:g} ms",
    ]
    notes += [
        f"{item.contestant.title}: {item.report.errors} requests of the second act FAILED"
        for item in outcomes
        if item.report.errors
    ]
    return notes


def _describe_service() -> str:
    from importlib import metadata

    names = ("uvicorn", "httptools")
    return "an ASGI application under " + " with ".join(
        f"{name} {metadata.version(name)}" for name in names
    )


def _notes(
    context: dict[str, Any],
    absent: dict[str, str],
    rounds: Sequence[Round],
    summaries: Sequence[Summary],
) -> list[str]:
    """What one must know to read the table, one line each."""
    from clearway.cli.demo import screen
    from clearway.cli.doctor import describe_engine

    described = context["machine"]
    engine = describe_engine()
    if context["server_core"] is None:
        pinning = "one core for everything, so server and load disturb each other"
    else:
        pinning = f"server on core {context['server_core']}, load on core {context['load_core']}"
    notes = [
        f"{described['processor']}, {described['cores']} cores ({pinning}); "
        f"{described['system']}; {described['python']}",
        f"{context['service']}; load: {context['load']}, closed loop",
        f"medians; ratios are taken within a round; without a choice clearway takes "
        f"{engine['engine']} here: {engine['reason']}",
    ]
    notes += [f"{screen.title(loop)} is absent: {reason}" for loop, reason in absent.items()]
    for summary in summaries:
        spread = summary.requests_per_s_max / summary.requests_per_s_min
        if spread > _UNSTEADY_RATIO:
            notes.append(
                f"{screen.title(summary.loop)} was unsteady, {summary.requests_per_s_min:,.0f} to "
                f"{summary.requests_per_s_max:,.0f} requests/s: trust CPU per request, "
                "or use more rounds"
            )
        if summary.errors:
            notes.append(f"{screen.title(summary.loop)}: {summary.errors} requests FAILED")
    busy = {screen.title(item.loop) for item in rounds if item.load.cpu_share > _GENERATOR_BUSY}
    if busy:
        notes.append(
            f"the load generator used its whole core against {', '.join(sorted(busy))}: "
            "the server may be faster than shown"
        )
    return notes


def _is_clearway_absent(absent: dict[str, str]) -> bool:
    """epoll works everywhere, so its absence is a failure; io_uring and uvloop may be."""
    return "epoll" in absent


def _write_json(
    path: Path,
    context: dict[str, Any],
    absent: dict[str, str],
    notes: Sequence[str],
    rounds: Sequence[Round],
    summaries: Sequence[Summary],
    outcomes: Sequence[Outcome],
) -> None:
    from clearway.cli.demo import slow

    report = {
        **context,
        "absent": absent,
        "notes": list(notes),
        "summaries": [asdict(summary) for summary in summaries],
        "rounds": [asdict(item) for item in rounds],
        "slow": slow.as_json(outcomes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
