"""Large transfers over one connection: ``python -m benchmarks.bulk [--tls] [--mib 256] [--rounds 5]``.

The server sends (written in pieces of 1 MiB, and all in one write, larger than every buffer) or receives; the client is
a thread of this process with blocking calls, on the other core. MiB/s is what the two manage together; the server's
CPU per MiB, read from ``/proc``, is what tells the loops apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import socket
import ssl
import sys
import time
from pathlib import Path

from benchmarks import contestants, machine, runner, stats, table

PROGRAM = Path(__file__).parent / "servers" / "bulk.py"
MIB = 1 << 20
Taken = dict[str, list[dict[str, float]]]
READ = 256 * 1024
LOOPS = "uring,epoll,uvloop,asyncio"


def cpu_s(pid: int) -> float:
    """Seconds that all threads of ``pid`` have had a core."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def connect(port: int, tls: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    if not tls:
        return sock
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def prepare(sock: socket.socket, what: str, size: int, write: int) -> None:
    """Tell the server what it is to do; it has its memory ready when it answers."""
    verb = what.partition(",")[0]
    sock.sendall(f"{verb} {size} {write}\n".encode())
    if sock.recv(1) != b"!":
        raise runner.BenchmarkError("the server said something else")


def receive(sock: socket.socket, size: int, write: int) -> None:
    """Take ``size`` bytes that the server sends."""
    sock.sendall(b"go\n")
    buffer = bytearray(READ)
    while size:
        got = sock.recv_into(buffer)
        if not got:
            raise runner.BenchmarkError("the server closed the connection")
        size -= got


def send(sock: socket.socket, size: int, write: int) -> None:
    """Send ``size`` bytes to the server and wait until it has them."""
    piece = os.urandom(1024) * (write // 1024)
    for _ in range(size // write):
        sock.sendall(piece)
    if sock.recv(1) != b".":
        raise runner.BenchmarkError("the server did not get it all")


def sample(server: runner.Server, what: str, size: int, tls: bool) -> dict[str, float]:
    """One fresh server, one transfer after a small one: MiB/s and microseconds of its CPU per MiB."""
    direction = send if what == "receive" else receive
    write = size if what == "send, one write" else MIB
    with runner.running(server) as ready, connect(ready["port"], tls) as sock:
        prepare(sock, what, 8 * MIB, MIB)
        direction(sock, 8 * MIB, MIB)
        prepare(sock, what, size, write)
        before, start = cpu_s(ready["pid"]), time.perf_counter()
        direction(sock, size, write)
        took, used = time.perf_counter() - start, cpu_s(ready["pid"]) - before
        peak = 0
        for line in Path(f"/proc/{ready['pid']}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1])
    return {
        "mib_s": size / MIB / took,
        "cpu_us": used / (size / MIB) * 1e6,
        "peak_mib": peak / 1024,
    }


def bulk_server(name: str, options: argparse.Namespace) -> runner.Server:
    core = machine.default_cores()[0]
    plain = contestants.echo_server(name, mode="protocol", python=options.python, core=core)
    program = str(contestants.ECHO_PROGRAM)
    argv = tuple(str(PROGRAM) if part == program else part for part in plain.argv)
    env = {**plain.env, **({"BULK_TLS": "1"} if options.tls else {})}
    return dataclasses.replace(plain, argv=argv, env=env)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("--servers", default=LOOPS, help="NAME[@PATH][?OPTION=VALUE],...")
    parser.add_argument("--peer", default="uvloop", help="what the ratios are to")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--mib", type=int, default=256, help="MiB of a transfer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=contestants.default_python())
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    servers, refused = contestants.startable(
        [bulk_server(name, options) for name in options.servers.split(",")]
    )
    for name, why in refused.items():
        print(f"left out: {name}: {why}")
    print(machine.one_line(machine.describe()))
    everywhere, core = os.sched_getaffinity(0), machine.default_cores()[1]
    if core >= 0:
        os.sched_setaffinity(0, {core})
    try:
        report = compare(servers, options)
    finally:
        os.sched_setaffinity(0, everywhere)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"benchmark": "bulk", "samples": report}, indent=1)
        options.json.write_text(text + "\n")
    return 0


def compare(servers: list[runner.Server], options: argparse.Namespace) -> dict[str, Taken]:
    """Measure all three transfers in interleaved rounds and print their tables."""
    report: dict[str, Taken] = {}
    for what in ("send", "send, one write", "receive"):
        taken: Taken = {server.name: [] for server in servers}
        for _ in range(options.rounds):
            for server in random.sample(servers, len(servers)):
                taken[server.name].append(sample(server, what, options.mib * MIB, options.tls))
        report[what] = taken
        kind = "TLS" if options.tls else "TCP"
        print(f"\n{kind}, the server's part: {what}; {options.mib} MiB, {options.rounds} rounds")
        peer = options.peer
        rows = [["server", "MiB/s", "CPU us/MiB", "peak MiB", f"MiB/s : {peer}", f"CPU : {peer}"]]
        for name, samples in taken.items():
            row = [name]
            for figure in ("mib_s", "cpu_us", "peak_mib"):
                spread = stats.spread([one[figure] for one in samples])
                assert spread is not None
                row.append(f"{spread.median:,.0f}")
            for figure in ("mib_s", "cpu_us"):
                text = ""
                if peer in taken and name != peer:
                    pairs = [
                        (a[figure], b[figure]) for a, b in zip(samples, taken[peer], strict=True)
                    ]
                    ratio = stats.paired_ratio(pairs)
                    assert ratio is not None
                    text = f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
                row.append(text)
            rows.append(row)
        print(table.render(rows), flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main())
