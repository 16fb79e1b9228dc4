"""A TCP proxy by splice (examples/proxy.py) beside the same by Protocol, in one run.

    python -m benchmarks.proxy                     # about six minutes
    python -m benchmarks.proxy --quick             # two minutes; provisional verdicts

The proxy has a core of its own; client and server (``clearway serve``) share another. The client asks for a body
of each size again and again; it has the kernel drop the bytes. What is judged is the proxy's CPU per byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bars, bodies, echo, machine
from benchmarks.runner import BenchmarkError, Server, running
from benchmarks.serve import server as file_server
from clearway.cli.httpload import HttpLoadError

PROGRAM = Path(__file__).parent / "servers" / "proxy.py"
PROXIES = {
    "uring": ("uring", "splice"),
    "epoll": ("epoll", "splice"),
    "uvloop": ("uvloop", "protocol"),
    "asyncio": ("asyncio", "protocol"),
    "uring-protocol": ("uring", "protocol"),
    "epoll-protocol": ("epoll", "protocol"),
    # What the two ways cost without any loop: threads that do nothing but make the system calls.
    "bare-splice": ("threads", "splice"),
    "bare-copy": ("threads", "protocol"),
}
SIZES_KIB = (64, 1024, 16384)

PROXY_BARS = tuple(
    bars.Bar(engine, "uvloop", "cpu_us", SIZES_KIB, at_most=0.5) for engine in ("uring", "epoll")
)


def proxy(name: str, upstream: int, core: int) -> Server:
    loop, way = PROXIES[name]
    argv = (sys.executable, str(PROGRAM), f"--loop={loop}", f"--way={way}")
    return Server(name, (*argv, f"--upstream={upstream}", f"--core={core}"), bodies.environment())


def run(args: argparse.Namespace) -> int:
    info = machine.describe()
    print(machine.one_line(info))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        sizes = [kib * 1024 for kib in args.sizes]
        bodies.make_files(Path(directory), sizes)
        with running(file_server(args.upstream, Path(directory), args.cores[1])) as upstream:
            wanted = [
                proxy(name, upstream["port"], args.cores[0]) for name in args.proxies.split(",")
            ]
            situations = [
                bodies.situation(str(kib), kib * 1024, args.connections, args) for kib in args.sizes
            ]
            results, names, refused = bodies.measure(args, wanted, situations)
    for kib in args.sizes:
        print(f"\n{kib:,} KiB, {args.connections} connections")
        print(bodies.report_table(results, names, str(kib), kib * 1024, args.baseline))
    judged = [
        (f"{verdict.connections:,} KiB", verdict)
        for verdict in bars.verdicts(results, PROXY_BARS, args.sizes)
    ]
    return bodies.finish("proxy", args, info, results, names, judged, refused, began)


def main(argv: Sequence[str] | None = None) -> int:
    parser = bodies.parser("proxy", "proxies by splice and by Protocol, as paired ratios")
    add = parser.add_argument
    add(
        "--proxies",
        default="uring,epoll,uvloop,bare-splice,bare-copy",
        help="of " + ", ".join(PROXIES),
    )
    add("--sizes", type=echo.integers, default=list(SIZES_KIB), metavar="KIB,KIB,...")
    add("--connections", type=int, default=8)
    add("--upstream", choices=("epoll", "uring", "nginx"), default="epoll", help="the file server")
    add("--baseline", default="uvloop", help="the peer of the ratio columns (uvloop)")
    args = bodies.read(parser, argv)
    unknown = set(args.proxies.split(",")) - set(PROXIES)
    if unknown:
        parser.error(f"unknown proxies: {', '.join(sorted(unknown))}")
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
