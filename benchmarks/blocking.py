"""Blocking calls that do not block: ``python -m benchmarks.blocking [--rounds 3]``.

Three tasks make the same blocking call, which by itself takes half a second, without a thread and without an
``await``, while a fourth task ticks every 10 ms. With ``preempt="on"`` the three finish together, the ticker goes on,
and nobody burns the core; on asyncio they take one after the other, 1.5 s, and nothing ticks. Calls: ``time.sleep``,
``socket.recv``, ``Lock.acquire``, ``select.select``, ``subprocess.run``, ``os.read`` of a pipe, ``queue.Queue.get``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import contestants, machine, table
from benchmarks.servers.echo import new_loop

Call = Callable[[], object]
LASTS_S = 0.5
TICK_S = 0.01
TASKS = 3
#: Three calls may take so much of one, and the ticker may be late by so many quanta at the 99th percentile.
TOGETHER_BOUND = 1.2
CPU_BOUND = 0.25
QUANTUM_S = 0.005


def later(call: Callable[[], object]) -> None:
    """Have another thread do it when the time has come."""
    timer = threading.Timer(LASTS_S, call)
    timer.daemon = True
    timer.start()


def sleep() -> Call:
    return lambda: time.sleep(LASTS_S)


def receive() -> Call:
    ours, peer = socket.socketpair()
    later(lambda: peer.send(b"x"))
    return lambda: ours.recv(1)


def acquire() -> Call:
    lock = threading.Lock()
    lock.acquire()
    later(lock.release)
    return lambda: lock.acquire()


def wait_for_input() -> Call:
    ours, peer = socket.socketpair()
    later(lambda: peer.send(b"x"))
    return lambda: select.select([ours], [], [])


def run_program() -> Call:
    return lambda: subprocess.run(["sleep", str(LASTS_S)], check=True)


def read_pipe() -> Call:
    reader, writer = os.pipe()
    later(lambda: os.write(writer, b"x"))
    return lambda: os.read(reader, 1)


def get() -> Call:
    items: queue.Queue[int] = queue.Queue()
    later(lambda: items.put(1))
    return items.get


CALLS: dict[str, Callable[[], Call]] = {
    "time.sleep": sleep,
    "socket.recv": receive,
    "Lock.acquire": acquire,
    "select.select": wait_for_input,
    "subprocess.run": run_program,
    "os.read of a pipe": read_pipe,
    "queue.Queue.get": get,
}


async def together(make: Callable[[], Call]) -> dict[str, float]:
    """Seconds that the three calls took, CPU seconds meanwhile, and how late the ticker was (p99, seconds)."""
    late: list[float] = []

    async def tick() -> None:
        due = time.monotonic()
        while True:
            due += TICK_S
            await asyncio.sleep(due - time.monotonic())
            late.append(time.monotonic() - due)

    async def task(call: Callable[[], object]) -> None:
        call()

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(5 * TICK_S)
    late.clear()
    calls = [make() for _ in range(TASKS)]
    start, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(task(call) for call in calls))
    took, cpu = time.monotonic() - start, time.process_time() - cpu
    await asyncio.sleep(0)
    ticker.cancel()
    late = late or [took]
    return {"took": took, "cpu": cpu, "late": sorted(late)[int(len(late) * 0.99)]}


def child(loop_name: str, calls: list[str]) -> None:
    options = {"preempt": "on", "quantum": QUANTUM_S} if loop_name in ("uring", "epoll") else {}
    loop = new_loop(loop_name, options)
    asyncio.set_event_loop(loop)
    print(json.dumps({name: loop.run_until_complete(together(CALLS[name])) for name in calls}))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocking", description=__doc__)
    parser.add_argument("--loops", default="uring,epoll,asyncio")
    parser.add_argument("--calls", default=",".join(CALLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=contestants.default_python())
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    calls = options.calls.split(",")
    if unknown := set(calls) - set(CALLS):
        parser.error(f"no such call: {', '.join(sorted(unknown))}; there are {', '.join(CALLS)}")
    if options.child:
        child(options.child, calls)
        return 0
    source = f"{contestants.ROOT / 'src'}{os.pathsep}{contestants.ROOT}"
    loops = options.loops.split(",")
    taken: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name in loops:
            done = subprocess.run(
                [
                    options.python,
                    "-m",
                    "benchmarks.blocking",
                    "--child",
                    name,
                    "--calls",
                    options.calls,
                ],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": source},
            )
            if done.returncode:
                print(f"error: {name}: {done.stderr.strip()}", file=sys.stderr)
                return 1
            taken[name].append(json.loads(done.stdout))
    rows = [["three at once", "loop", "seconds", "CPU s", "ticker late, p99 ms", ""]]
    missed = False
    for call in calls:
        for name in loops:
            figures = {
                key: statistics.median(one[call][key] for one in taken[name])
                for key in ("took", "cpu", "late")
            }
            verdict = ""
            if name in ("uring", "epoll"):
                met = (
                    figures["took"] <= TOGETHER_BOUND * LASTS_S
                    and figures["cpu"] <= CPU_BOUND * LASTS_S
                )
                missed |= not met
                verdict = "together: " + ("met" if met else "missed")
            rows.append(
                [
                    call,
                    name,
                    f"{figures['took']:.2f}",
                    f"{figures['cpu']:.3f}",
                    f"{figures['late'] * 1e3:,.1f}",
                    verdict,
                ]
            )
    print(machine.one_line(machine.describe()))
    print(table.render(rows, left=2))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"benchmark": "blocking", "samples": taken}, indent=1)
        options.json.write_text(text + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
