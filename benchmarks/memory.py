"""Memory of a server with many idle connections: ``python -m benchmarks.memory [--connections 10000]``.

Each sample is a fresh echo server (Protocol) to which so many clients connect over loopback, send one request, have
it answered, and then keep silent, as clients of a server with keep-alive do; ``--fresh`` leaves out the request.
What is counted is the server's own memory (PSS, ``/proc/PID/smaps_rollup``) after it minus before it, per connection;
the total stands beside it. The kernel's memory for a socket, the same for all and some more for io_uring's
receives, is in neither.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import contestants, machine, runner, stats, table

LOOPS = "uring,epoll,uvloop,asyncio"
#: Connections that are being established at a time: below any backlog.
BURST = 250
REQUEST = b"x" * 64
#: The bar: so many times stock asyncio's memory per connection, at most.
AT_MOST = 0.5
BARRED = ("uring", "epoll")


def memory(pid: int) -> int:
    """Bytes of memory that are ``pid``'s: its own pages and its share of the shared ones."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise runner.BenchmarkError(f"/proc/{pid}/smaps_rollup has no Pss")


def settled(pid: int) -> int:
    """The memory once it stands still: the server may still be at work on what it was sent."""
    before = -1
    while (now := memory(pid)) != before:
        before = now
        time.sleep(0.1)
    return now


def connect(port: int, count: int, request: bytes) -> list[socket.socket]:
    """So many connections, each of which has had ``request`` answered."""
    clients: list[socket.socket] = []
    while len(clients) < count:
        burst = []
        for _ in range(min(BURST, count - len(clients))):
            client = socket.socket()
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
            if request:
                client.sendall(request)
            burst.append(client)
        for client in burst:
            left = len(request)
            while left:
                data = client.recv(left)
                if not data:
                    raise runner.BenchmarkError("the server closed a connection")
                left -= len(data)
        clients += burst
    return clients


def sample(server: runner.Server, count: int, request: bytes) -> dict[str, float]:
    """One server: bytes per connection, and its memory in all in MiB."""
    with runner.running(server) as ready:
        # What the first connection needs once (imports, buffers) belongs to the server.
        first = connect(ready["port"], 1, REQUEST)
        before = settled(ready["pid"])
        clients = connect(ready["port"], count, request)
        after = settled(ready["pid"])
        for client in first + clients:
            client.close()
    return {"bytes": (after - before) / count, "total_mib": after / 2**20}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description="memory of idle connections"
    )
    add = parser.add_argument
    add("--servers", default=LOOPS, help="NAME[@PATH][?OPTION=VALUE],...")
    add("--peer", default="asyncio", help="what the ratios are to")
    add("--mode", choices=("protocol", "buffered", "streams"), default="protocol")
    add("--connections", type=int, default=10_000)
    add("--rounds", type=int, default=3)
    add("--fresh", action="store_true", help="connect only: no request")
    add("--python", default=contestants.default_python(), help="interpreter of the servers")
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add("--check", action="store_true", help="exit with 1 when the bar is missed")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = options.connections + 64
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise runner.BenchmarkError(
            f"{options.connections} connections need {needed} open files here and in the server; "
            f"the limit is {hard}: raise it or pass --connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    wanted = [
        contestants.echo_server(name, mode=options.mode, python=options.python, core=-1)
        for name in dict.fromkeys(options.servers.split(","))
    ]
    servers, refused = contestants.startable(wanted)
    for name, why in refused.items():
        print(f"left out: {name}: {why}")
    taken: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in servers:
            print(f"\rround {number + 1}: {server.name:12}", end="", file=sys.stderr, flush=True)
            request = b"" if options.fresh else REQUEST
            taken[server.name].append(sample(server, options.connections, request))
    print(file=sys.stderr)
    info = machine.describe()
    print(machine.one_line(info))
    state = "just connected" if options.fresh else "after one request each"
    print(f"{options.connections:,} idle connections, {state}, by {options.mode}; medians")
    head = ["server", "KiB/connection", "MiB in all", f": {options.peer}", "95 %", "bar", ""]
    rows = [head]
    met = True
    for name, samples in taken.items():
        each = stats.spread([one["bytes"] for one in samples])
        total = stats.spread([one["total_mib"] for one in samples])
        assert each is not None and total is not None
        row = [name, f"{each.median / 1024:.2f}", f"{total.median:.1f}", "", "", "", ""]
        if options.peer in taken and name != options.peer:
            pairs = [
                (a["bytes"], b["bytes"]) for a, b in zip(samples, taken[options.peer], strict=True)
            ]
            ratio = stats.paired_ratio(pairs)
            assert ratio is not None
            row[3:5] = f"{ratio.median:.2f}", f"{ratio.low:.2f}..{ratio.high:.2f}"
            if name in BARRED and options.peer == "asyncio" and options.mode == "protocol":
                reached = ratio.median <= AT_MOST
                met = met and reached
                row[5:] = f"<= {AT_MOST:g}", "met" if reached else "MISSED"
        rows.append(row)
    print(table.render(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"benchmark": "memory", "machine": info, "samples": taken}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if options.check and not met else 0


def main(argv: list[str] | None = None) -> int:
    try:
        return run(arguments(argv))
    except (runner.BenchmarkError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
