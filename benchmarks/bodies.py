"""What the benchmarks of serving and of proxying share: large bodies over HTTP, judged by CPU per byte."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import bars, contestants, echo, machine, stats, table
from benchmarks.runner import (
    ROOT,
    BenchmarkError,
    Progress,
    Results,
    Sample,
    Server,
    Situation,
    interleave,
)
from clearway.cli import httpload

WRAPPER = Path(__file__).parent / "httpload.py"


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The options of both commands."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=description)
    add = made.add_argument
    add("--seconds", type=float, default=1.0, help="length of a measuring window (1)")
    add("--warmup", type=float, default=0.3, help="seconds of load before the window (0.3)")
    add("--pairs", type=int, default=15, help="rounds; parity may be claimed from 15 (15)")
    add("--cores", type=echo.cores, default=machine.default_cores(), metavar="SERVER,LOAD")
    add("--seed", type=int, help="fixes the order of the samples")
    add("--json", type=Path, metavar="FILE", help="write every sample and result there")
    add("--quick", action="store_true", help="5 rounds; provisional verdicts")
    add("--check", action="store_true", help="exit with 1 when a bar is missed")
    return made


def read(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """:raises SystemExit: wrong usage."""
    args = made.parse_args(argv)
    if args.quick and args.pairs == made.get_default("pairs"):
        args.pairs = 5
    if args.pairs < 1 or args.seconds <= 0 or args.warmup < 0:
        made.error("--pairs and --seconds must be positive, --warmup not negative")
    return args


def make_files(directory: Path, sizes: Sequence[int]) -> None:
    """Files of ``sizes`` bytes, each named by its size."""
    for size in sizes:
        (directory / str(size)).write_bytes(random.Random(size).randbytes(size))


def environment() -> dict[str, str]:
    """What a server's environment adds: this checkout's clearway."""
    search = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": search, "CLEARWAY_ENGINE": "auto"}


def situation(name: str, size: int, connections: int, args: argparse.Namespace) -> Situation:
    """``connections`` that ask for the file of ``size`` bytes, again and again."""
    return Situation(
        name,
        (
            f"--path=/{size}",
            f"--connections={connections}",
            f"--seconds={args.seconds}",
            f"--warmup={args.warmup}",
            f"--core={args.cores[1]}",
        ),
    )


def measure(
    args: argparse.Namespace, wanted: Sequence[Server], situations: Sequence[Situation]
) -> tuple[Results, list[str], dict[str, str]]:
    """Results, the names of the servers that ran, and why the others did not.

    :raises BenchmarkError: none of them runs, or one failed under load.
    """
    servers, refused = contestants.startable(list(wanted))
    for name, why in refused.items():
        print(f"left out: {name}: {why}")
    if not servers:
        raise BenchmarkError("nothing to measure")
    progress = Progress()
    load = [sys.executable, str(WRAPPER), str(httpload.build()), "--discard"]
    try:
        samples = interleave(
            servers,
            situations,
            load,
            rounds=args.pairs,
            seconds=args.seconds + args.warmup,
            seed=args.seed,
            on_start=progress.start,
            on_sample=progress.sample,
        )
    finally:
        progress.close()
    return Results(samples), [server.name for server in servers], refused


def _spread(samples: Sequence[Sample], per: float, figure: str) -> stats.Spread | None:
    values = [sample.figure(figure) for sample in samples]
    return stats.spread([value * per for value in values if value is not None])


def report_table(
    results: Results, servers: Sequence[str], situation: str, size: int, baseline: str
) -> str:
    """One situation: throughput, and CPU per MiB of body split user/system."""
    mib = size / 2**20
    head = ["server", "MiB/s", "±", "CPU µs/MiB", "user", "system", "p50 µs", "p99 µs", "load busy"]
    rows = [[*head, f"MiB/s : {baseline}", f"CPU : {baseline}"]]
    for server in servers:
        samples = results.of(server, situation)
        rate = _spread(samples, mib, "requests_per_s")
        row = [server, echo.number(rate, 0), f"{rate.relative:.0%}" if rate else "-"]
        row += [
            echo.number(_spread(samples, 1 / mib, figure), 1)
            for figure in ("cpu_us", "user_us", "system_us")
        ]
        row += [
            echo.number(_spread(samples, 1, figure), digits)
            for figure, digits in (("p50_us", 0), ("p99_us", 0), ("load_busy", 2))
        ]
        for figure in ("requests_per_s", "cpu_us"):
            ratio = results.ratio(server, baseline, situation, figure)
            row.append("-" if server == baseline else echo.ratio_text(ratio))
        rows.append(row)
    return table.render(rows)


def finish(
    name: str,
    args: argparse.Namespace,
    info: dict[str, Any],
    results: Results,
    servers: Sequence[str],
    judged: Sequence[tuple[str, bars.Verdict]],
    refused: dict[str, str],
    began: float,
) -> int:
    """Print verdicts and notes, write the JSON; the exit code.

    :param judged: (situation, verdict) pairs.
    """
    if judged:
        rows = [["bar", "situation", "ratio [95 %]", "pairs", ""]]
        for where, verdict in judged:
            state = verdict.state + (" (provisional)" if verdict.provisional else "")
            ratio = echo.ratio_text(verdict.ratio)
            rows.append([str(verdict.bar), where, ratio, str(verdict.ratio.pairs), state])
        print(f"\n{table.render(rows)}")
    print()
    if args.cores[0] >= 0 and results.disturbed() > 0.1:
        print(
            "note: other programs used more than 10 % of a measured core in "
            f"{results.disturbed():.0%} of the samples: repeat on a quiet machine."
        )
    print(f"{time.monotonic() - began:.0f} s in all")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "benchmark": name,
            "machine": info,
            "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
            "bars": [
                {
                    "bar": str(verdict.bar),
                    "situation": where,
                    **asdict(verdict.ratio),
                    "state": verdict.state,
                }
                for where, verdict in judged
            ],
            "refused": refused,
            "samples": [
                {"server": s.server, "situation": s.situation, "round": s.round, **s.raw}
                for s in results.samples
            ],
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {args.json}")
    missed = any(verdict.state == "missed" for _, verdict in judged)
    return 1 if args.check and (missed or refused) else 0
