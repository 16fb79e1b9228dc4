"""What the loop itself costs, no input or output: ``python -m benchmarks.micro [--rounds 7]``.

Nanoseconds per operation, on each loop in fresh processes, pinned, in interleaved rounds:

- ``call_soon``: scheduled from a callback and run, one at a time, and 1,000 in a batch;
- ``call_later+cancel``: a timer of 10 s, cancelled at once, beside 1,000 that wait (what a time-out costs);
- ``timers that fire``: 1,000 timers that are due at once, scheduled and run;
- ``call_soon_threadsafe``: from another thread, until it has run, 1,000 in a batch (and one at a time: the wake-up);
- ``task switch``: ``await asyncio.sleep(0)`` in a task, alone and among 100;
- ``task``: created, run and awaited;
- ``future``: awaited by one task and resolved by another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import contestants, machine, stats, table
from benchmarks.servers.echo import new_loop

BATCH = 1000
#: Seconds that one measurement lasts, about: long beside the clock, short beside the noise.
LASTS_S = 0.15

Measurement = Callable[[int], Awaitable[None]]


def _nothing() -> None:
    pass


async def soon_in_turn(count: int) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    left = count

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(again)
        else:
            over.set_result(None)

    loop.call_soon(again)
    await over


async def soon_in_batches(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            loop.call_soon(_nothing)
        await asyncio.sleep(0)


async def later_and_cancel(count: int) -> None:
    loop = asyncio.get_running_loop()
    waiting = [loop.call_later(1000 + n, _nothing) for n in range(BATCH)]
    for number in range(count):
        loop.call_later(10, _nothing).cancel()
        if number % BATCH == 0:
            await asyncio.sleep(0)
    for handle in waiting:
        handle.cancel()


async def timers_that_fire(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        over = loop.create_future()
        now = loop.time()
        for _ in range(BATCH - 1):
            loop.call_at(now, _nothing)
        loop.call_at(now, over.set_result, None)
        await over


async def threadsafe_in_batches(count: int) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def thread() -> None:
        for _ in range(count - 1):
            loop.call_soon_threadsafe(_nothing)
        loop.call_soon_threadsafe(over.set_result, None)

    threading.Thread(target=thread).start()
    await over


async def threadsafe_in_turn(count: int) -> None:
    loop = asyncio.get_running_loop()
    arrived = threading.Event()
    over = loop.create_future()

    def thread() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(arrived.set)
            arrived.wait()
            arrived.clear()
        loop.call_soon_threadsafe(over.set_result, None)

    threading.Thread(target=thread).start()
    await over


async def switch(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def switch_among_100(count: int) -> None:
    await asyncio.gather(*(switch(count // 100) for _ in range(100)))


async def task(count: int) -> None:
    async def small() -> None:
        pass

    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.create_task(small())


async def future(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        waiter = loop.create_future()
        loop.call_soon(waiter.set_result, None)
        await waiter


MEASUREMENTS: dict[str, Measurement] = {
    "call_soon, in turn": soon_in_turn,
    "call_soon, 1,000 at once": soon_in_batches,
    "call_later+cancel": later_and_cancel,
    "timers that fire": timers_that_fire,
    "call_soon_threadsafe, many": threadsafe_in_batches,
    "call_soon_threadsafe, in turn": threadsafe_in_turn,
    "task switch": switch,
    "task switch among 100": switch_among_100,
    "task, from begin to end": task,
    "future, awaited": future,
}


def measure(loop: asyncio.AbstractEventLoop, measurement: Measurement, lasts_s: float) -> float:
    """Nanoseconds per operation; how many operations that takes is found first."""
    count = BATCH
    while True:
        start = time.perf_counter()
        loop.run_until_complete(measurement(count))
        took = time.perf_counter() - start
        if took >= lasts_s:
            return took / count * 1e9
        count = int(count * min(10.0, 1.3 * lasts_s / took) / BATCH + 1) * BATCH


def child(name: str, core: int, only: str, lasts_s: float) -> None:
    """One sample of everything, printed as JSON."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    loop = new_loop(name, {})
    asyncio.set_event_loop(loop)
    figures = {}
    for title, measurement in MEASUREMENTS.items():
        if only in title:
            figures[title] = measure(loop, measurement, lasts_s)
    loop.close()
    print(json.dumps(figures))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument("--loops", default="uring,epoll,uvloop,asyncio")
    parser.add_argument("--peer", default="uvloop", help="what the ratios are to")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=LASTS_S, help="of one measurement")
    parser.add_argument("--only", default="", help="measurements whose name contains this")
    parser.add_argument("--python", default=contestants.default_python())
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    core = machine.default_cores()[0]
    if options.child:
        child(options.child, core, options.only, options.seconds)
        return 0
    names = options.loops.split(",")
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in random.sample(names, len(names)):
            command = [options.python, "-m", "benchmarks.micro", "--child", name]
            command += ["--only", options.only, "--seconds", str(options.seconds)]
            source = f"{contestants.ROOT / 'src'}{os.pathsep}{contestants.ROOT}"
            env = {**os.environ, "PYTHONPATH": source}
            done = subprocess.run(command, capture_output=True, text=True, env=env)
            if done.returncode:
                print(f"error: {name}: {done.stderr.strip()}", file=sys.stderr)
                return 1
            taken[name].append(json.loads(done.stdout))
    print(machine.one_line(machine.describe()))
    print(f"ns per operation, medians of {options.rounds} rounds; in brackets: to {options.peer}")
    rows = [["", *names]]
    for title in MEASUREMENTS:
        if options.only not in title:
            continue
        row = [title]
        for name in names:
            spread = stats.spread([one[title] for one in taken[name]])
            assert spread is not None
            text = f"{spread.median:,.0f}"
            if options.peer in taken and name != options.peer:
                pairs = [
                    (a[title], b[title])
                    for a, b in zip(taken[name], taken[options.peer], strict=True)
                ]
                ratio = stats.paired_ratio(pairs)
                assert ratio is not None
                text += f" ({ratio.median:.2f})"
            row.append(text)
        rows.append(row)
    print(table.render(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"benchmark": "micro", "samples": taken}, indent=1)
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
