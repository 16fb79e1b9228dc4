"""TCP echo: clearway's engines beside uvloop, stock asyncio and a C server, in one run.

    python -m benchmarks.echo                      # the whole matrix, about a quarter of an hour
    python -m benchmarks.echo --quick              # about a minute; its verdicts are provisional
    python -m benchmarks.echo --servers uring,epoll,uvloop,c --connections 16 --json out/echo.json
    python -m benchmarks.echo --verify             # every byte compared, nothing timed

Exit code 0 when everything was measured, 1 when something failed, and with --check also when a bar
is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import bars, contestants, machine, native, stats, table
from benchmarks.runner import (
    FIGURES,
    BenchmarkError,
    Progress,
    Results,
    Server,
    Situation,
    interleave,
    measure,
)

QUICK = {"connections": [16, 128], "seconds": 0.5, "warmup": 0.15, "pairs": 5}


def integers(text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError("connections are counted from 1")
    return list(dict.fromkeys(values))


def cores(text: str) -> tuple[int, int]:
    try:
        server, load = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SERVER,LOAD") from None
    return server, load


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.echo", description="TCP echo against peers, as paired ratios"
    )
    add = parser.add_argument
    add("--servers", default="uring,epoll,uvloop,asyncio,c", help="NAME[@PATH][?OPTION=VALUE],...")
    add("--connections", type=integers, default=[1, 16, 128, 1000], metavar="N,N,...")
    add("--size", type=int, default=1024, help="bytes of a request (1024)")
    add("--seconds", type=float, default=2.0, help="length of a measuring window (2)")
    add("--warmup", type=float, default=0.3, help="seconds of load before the window (0.3)")
    add("--pairs", type=int, default=15, help="rounds; parity may be claimed from 15 (15)")
    add("--mode", choices=("protocol", "buffered", "streams", "sock"), default="protocol")
    add("--baseline", default="uvloop", help="the peer of the ratio column (uvloop)")
    add("--python", default=contestants.default_python(), help="interpreter of the servers")
    add("--cores", type=cores, default=machine.default_cores(), metavar="SERVER,LOAD")
    add("--load-engine", choices=("auto", "uring", "epoll"), default="auto")
    add("--seed", type=int, help="fixes the order of the samples")
    add("--json", type=Path, metavar="FILE", help="write every sample and result there")
    add("--quick", action="store_true", help="16 and 128 connections, 5 rounds, short windows")
    add("--verify", action="store_true", help="compare every byte instead of measuring")
    add("--check", action="store_true", help="exit with 1 when a bar is missed")
    args = parser.parse_args(argv)
    if args.quick:
        for name, value in QUICK.items():
            if getattr(args, name) == parser.get_default(name):
                setattr(args, name, value)
    if args.pairs < 1 or args.size < 1 or args.seconds <= 0 or args.warmup < 0:
        parser.error("--pairs, --size and --seconds must be positive, --warmup not negative")
    return args


def situations(args: argparse.Namespace) -> list[Situation]:
    common = (
        f"--size={args.size}",
        f"--seconds={args.seconds}",
        f"--warmup={args.warmup}",
        f"--core={args.cores[1]}",
        f"--engine={args.load_engine}",
    )
    return [Situation(str(n), (*common, f"--connections={n}")) for n in args.connections]


def verify(args: argparse.Namespace, servers: list[Server]) -> bool:
    """Compare every byte through every server; False when one of them lost or changed any."""
    good = True
    for count in args.connections:
        for server in servers:
            situation = Situation(
                str(count),
                (
                    "--verify",
                    f"--size={max(args.size, 100_000)}",
                    f"--seconds={args.seconds}",
                    "--warmup=0",
                    f"--connections={count}",
                    f"--core={args.cores[1]}",
                ),
            )
            try:
                load = [str(native.build("loadgen"))]
                sample = measure(server, load, situation, timeout_s=args.seconds + 60)
                checked = sample.raw["verified_bytes"] / 2**20
                print(f"{server.name:<12} {count:>5} connections: {checked:,.0f} MiB as sent")
            except BenchmarkError as error:
                good = False
                print(f"{server.name:<12} {count:>5} connections: FAILED: {error}")
    return good


# ---- report --------------------------------------------------------------------------------------


def number(value: stats.Spread | None, digits: int) -> str:
    return "-" if value is None else f"{value.median:,.{digits}f}"


def ratio_text(ratio: stats.Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def report_table(results: Results, servers: list[str], situation: str, baseline: str) -> str:
    """One table: the servers in one situation."""
    columns = [
        ("CPU µs/req", "cpu_us", 2),
        ("user", "user_us", 2),
        ("system", "system_us", 2),
        ("p50 µs", "p50_us", 0),
        ("p99 µs", "p99_us", 0),
        ("p99.9 µs", "p99_9_us", 0),
        ("switches/req", "switches", 3),
        ("instr/req", "instructions", 0),
        ("RSS MiB", "rss_mib", 1),
        ("load busy", "load_busy", 2),
    ]
    head = ["server", "req/s", "±", *(name for name, _, _ in columns)]
    rows = [[*head, f"req/s : {baseline}", f"CPU : {baseline}"]]
    for server in servers:
        rate = results.spread(server, situation, "requests_per_s")
        row = [server, number(rate, 0), f"{rate.relative:.0%}" if rate else "-"]
        row += [number(results.spread(server, situation, key), n) for _, key, n in columns]
        for figure in ("requests_per_s", "cpu_us"):
            itself = server == baseline
            row.append(
                "-" if itself else ratio_text(results.ratio(server, baseline, situation, figure))
            )
        rows.append(row)
    return table.render(table.without_empty_columns(rows))


def bars_table(judged: list[bars.Verdict]) -> str:
    rows = [["bar", "connections", "ratio [95 %]", "pairs", ""]]
    for verdict in judged:
        rows.append(
            [
                str(verdict.bar),
                str(verdict.connections),
                ratio_text(verdict.ratio),
                str(verdict.ratio.pairs),
                verdict.state + (" (provisional)" if verdict.provisional else ""),
            ]
        )
    return table.render(rows)


def notes(
    results: Results, servers: list[str], connections: list[str], *, pinned: bool
) -> list[str]:
    """What a reader must know to read the tables right."""
    found = []
    for count in connections:
        full = [name for name in servers if results.load_bound(name, count) > 0.25]
        if full:
            found.append(
                f"{count} connections: the load generator's core was full with {', '.join(full)}: "
                "their req/s may be its limit; compare CPU per request."
            )
    for name in servers:
        if name.partition("@")[0] == "asyncio":
            modes = {count: results.modes(name, count) for count in connections}
            said = "; ".join(
                f"{count}: " + ", ".join(f"{mode} x {n}" for mode, n in found_modes.items())
                for count, found_modes in modes.items()
            )
            found.append(f"{name} ran in mode {said}")
    if pinned and results.disturbed() > 0.1:
        found.append(
            f"other programs used more than 10 % of a measured core in "
            f"{results.disturbed():.0%} of the samples: repeat on a quiet machine."
        )
    some = results.samples[0].raw["server"]
    if some is not None and some["instructions_user"] is None:
        found.append("no instruction counts: this machine offers no hardware counters to perf.")
    return found


def as_json(
    args: argparse.Namespace,
    info: dict[str, Any],
    results: Results,
    servers: list[str],
    judged: list[bars.Verdict],
    refused: dict[str, str],
) -> dict[str, Any]:
    medians: dict[str, Any] = {}
    for count in map(str, args.connections):
        for server in servers:
            figures = {name: results.spread(server, count, name) for name in FIGURES}
            medians.setdefault(count, {})[server] = {
                name: {"median": s.median, "low": s.low, "high": s.high, "relative": s.relative}
                for name, s in figures.items()
                if s is not None
            }
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    return {
        "benchmark": "echo",
        "machine": info,
        "settings": settings,
        "results": medians,
        "bars": [
            {
                "bar": str(v.bar),
                "connections": v.connections,
                "ratio": v.ratio.median,
                "low": v.ratio.low,
                "high": v.ratio.high,
                "pairs": v.ratio.pairs,
                "state": v.state,
                "provisional": v.provisional,
            }
            for v in judged
        ],
        "refused": refused,
        "samples": [
            {
                "server": s.server,
                "situation": s.situation,
                "round": s.round,
                "ready": s.ready,
                **s.raw,
            }
            for s in results.samples
        ],
    }


def run(args: argparse.Namespace) -> int:
    info = machine.describe()
    print(machine.one_line(info))
    wanted = [
        contestants.echo_server(text, mode=args.mode, python=args.python, core=args.cores[0])
        for text in dict.fromkeys(args.servers.split(","))
    ]
    load = [str(native.build("loadgen"))]
    servers, refused = contestants.startable(wanted)
    for name, why in refused.items():
        print(f"left out: {name}: {why}")
    if not servers:
        print("nothing to measure", file=sys.stderr)
        return 1
    if args.verify:
        return 0 if verify(args, servers) and not refused else 1

    progress = Progress()
    began = time.monotonic()
    try:
        samples = interleave(
            servers,
            situations(args),
            load,
            rounds=args.pairs,
            seconds=args.seconds + args.warmup,
            seed=args.seed,
            on_start=progress.start,
            on_sample=progress.sample,
        )
    finally:
        progress.close()
    results = Results(samples)
    names = [server.name for server in servers]
    counts = [str(count) for count in args.connections]
    where = f"server on core {args.cores[0]}, load on core {args.cores[1]}"
    print(
        f"TCP echo by {args.mode}, {args.size} bytes, {args.pairs} rounds of {args.seconds:g} s in "
        f"random order, {where if args.cores[0] >= 0 else 'not pinned'}, load by "
        f"{samples[0].raw.get('engine', 'epoll')}; {time.monotonic() - began:.0f} s in all"
    )
    for count in counts:
        print(f"\n{count} connection{'' if count == '1' else 's'}")
        print(report_table(results, names, count, args.baseline))
    of_issue = args.size == 1024 and args.mode == "protocol"
    judged = bars.verdicts(results, bars.ECHO_BARS, args.connections) if of_issue else []
    if judged:
        print(f"\n{bars_table(judged)}")
    print()
    for note in notes(results, names, counts, pinned=args.cores[0] >= 0):
        print(f"note: {note}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = as_json(args, info, results, names, judged, refused)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {args.json}")
    missed = any(verdict.state == "missed" for verdict in judged)
    return 1 if args.check and (missed or refused) else 0


def main(argv: list[str] | None = None) -> int:
    try:
        return run(arguments(argv))
    except (BenchmarkError, native.BuildError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
