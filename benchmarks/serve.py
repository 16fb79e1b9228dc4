"""Serving a file of 1 MiB: ``clearway serve`` beside nginx and aiohttp's FileResponse on uvloop, in one run.

    python -m benchmarks.serve                     # about five minutes
    python -m benchmarks.serve --quick             # a minute and a half; provisional verdicts

nginx is Debian's (``apt-get install nginx-light``), one worker with sendfile. The generator has the kernel drop
the bytes, so that it is never the limit. Exit code 0 when everything was measured, 1 when something failed, and with
--check also when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bars, bodies, echo, machine
from benchmarks.runner import BenchmarkError, Server
from clearway.cli.httpload import HttpLoadError

PROGRAM = Path(__file__).parent / "servers" / "files.py"
KINDS = ("uring", "epoll", "nginx", "aiohttp")
SIZE = 1 << 20

SERVE_BARS = tuple(
    bar
    for engine in ("uring", "epoll")
    for bar in (
        bars.Bar(engine, "nginx", "requests_per_s", (4, 16, 64), at_least=0.9),
        bars.Bar(engine, "nginx", "cpu_us", (4, 16, 64), at_most=1.15),
        bars.Bar(engine, "aiohttp", "requests_per_s", (4, 16, 64), at_least=1.5),
    )
)


def server(kind: str, directory: Path, core: int) -> Server:
    argv = (sys.executable, str(PROGRAM), f"--kind={kind}", f"--directory={directory}")
    return Server(kind, (*argv, f"--core={core}"), bodies.environment())


def run(args: argparse.Namespace) -> int:
    info = machine.describe()
    print(machine.one_line(info))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        bodies.make_files(Path(directory), [args.size])
        wanted = [server(kind, Path(directory), args.cores[0]) for kind in args.servers.split(",")]
        situations = [bodies.situation(str(n), args.size, n, args) for n in args.connections]
        results, servers, refused = bodies.measure(args, wanted, situations)
    for count in args.connections:
        print(f"\n{args.size:,} bytes, {count} connections")
        print(bodies.report_table(results, servers, str(count), args.size, args.baseline))
    judged = []
    if args.size == SIZE:
        for verdict in bars.verdicts(results, SERVE_BARS, args.connections):
            judged.append((f"{verdict.connections} connections", verdict))
    return bodies.finish("serve", args, info, results, servers, judged, refused, began)


def main(argv: Sequence[str] | None = None) -> int:
    parser = bodies.parser("serve", "serving a file against peers, as paired ratios")
    parser.add_argument("--servers", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--connections", type=echo.integers, default=[4, 16], metavar="N,N,...")
    parser.add_argument("--size", type=int, default=SIZE, help="bytes of the file (1 MiB)")
    parser.add_argument("--baseline", default="nginx", help="the peer of the ratio columns (nginx)")
    args = bodies.read(parser, argv)
    unknown = set(args.servers.split(",")) - set(KINDS)
    if unknown:
        parser.error(f"unknown servers: {', '.join(sorted(unknown))}")
    try:
        return run(args)
    except (BenchmarkError, HttpLoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
