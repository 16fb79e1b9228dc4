"""What preemption costs a step that does not overrun: ``python -m benchmarks.step_cost [--pairs 15]``.

- **Instructions** of the loop's thread per step, mode "on" to mode "off", counted by callgrind: the difference of two
  runs that differ only in how many steps they make. Exact, and the same on every machine. The monitor is another
  thread, and not in it.
- **Time** per step, in fresh processes, pairs interleaved; here the monitor's share is in it. Each sample is the best
  of some repetitions, because what disturbs a process only ever makes it slower.

Both modes run in a process that has another thread, which does nothing. A process without any is 3 % faster, in every
mode and on every loop (the C library locks nothing then), but no server stays so: the first name that is resolved, file
that is read or executor that is used ends it, and so does the monitor. ``--alone`` shows that.

A step is ``await asyncio.sleep(0)`` in one of a hundred tasks, and a callback that schedules itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import contestants, machine, stats, table

INSTRUCTIONS_BOUND = 1.01
TIME_BOUND = 1.03
FEW, MANY = 2_000, 12_000

PROGRAM = """
import asyncio, sys, threading, time
import clearway

async def task(count):
    for _ in range(count):
        await asyncio.sleep(0)

async def main(count, repeat):
    loop = asyncio.get_running_loop()
    best = 1e9
    for _ in range(repeat):
        left = count // 2
        def again():
            nonlocal left
            left -= 1
            if left > 0:
                loop.call_soon(again)
        start = time.perf_counter()
        again()
        await asyncio.gather(*(task(count // 200) for _ in range(100)))
        while left > 0:
            await asyncio.sleep(0)
        best = min(best, time.perf_counter() - start)
    return best

if sys.argv[5] == "beside":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
count, repeat = int(sys.argv[2]), int(sys.argv[3])
print(clearway.run(main(count, repeat), preempt=sys.argv[1], engine=sys.argv[4]) / count * 1e9)
"""


def environment() -> dict[str, str]:
    source = f"{contestants.ROOT / 'src'}{os.pathsep}{contestants.ROOT}"
    # The order of a set or a dict must not decide how much is done.
    return {**os.environ, "PYTHONPATH": source, "PYTHONHASHSEED": "0"}


def instructions(python: str, mode: str, count: int) -> int:
    """Of the thread that runs the loop, from beginning to end; on epoll, since valgrind has no io_uring."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes"]
        command += [f"--callgrind-out-file={directory}/out", python, "-c", PROGRAM]
        done = subprocess.run(
            [*command, mode, str(count), "1", "epoll", "beside"],
            capture_output=True,
            text=True,
            env=environment(),
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        for line in Path(directory, "out-01").read_text().splitlines():
            if line.startswith(("summary:", "totals:")):
                return int(line.split()[1])
    raise RuntimeError("callgrind has written no total")


def time_ns(python: str, mode: str, engine: str, core: int, alone: bool) -> float:
    """Nanoseconds per step."""
    done = subprocess.run(
        [python, "-c", PROGRAM, mode, "40000", "7", engine, "alone" if alone else "beside"],
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cost", description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="of the timing; 0: only count")
    parser.add_argument("--engine", default="epoll", help="of the timing")
    parser.add_argument("--alone", action="store_true", help="time without another thread")
    parser.add_argument("--python", default=contestants.default_python())
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    rows = [["per step", "off", "on", "on : off", "bound", ""]]
    told: dict[str, object] = {"benchmark": "step_cost"}
    missed = False

    def judge(name: str, off: float, on: float, ratio: float, text: str, bound: float) -> None:
        nonlocal missed
        missed |= ratio > bound
        verdict = "met" if ratio <= bound else "missed"
        rows.append([name, f"{off:,.0f}", f"{on:,.0f}", text, f"<= {bound}", verdict])

    if shutil.which("valgrind") is None:
        print("instructions are not counted: there is no valgrind (Debian: valgrind)")
    else:
        counted = {}
        for mode in ("off", "on"):
            few, many = (instructions(options.python, mode, count) for count in (FEW, MANY))
            counted[mode] = (many - few) / (MANY - FEW)
        ratio = counted["on"] / counted["off"]
        judge(
            "instructions", counted["off"], counted["on"], ratio, f"{ratio:.4f}", INSTRUCTIONS_BOUND
        )
        told["instructions"] = counted
    core = machine.default_cores()[0]
    pairs: list[tuple[float, float]] = []
    for _ in range(options.pairs):
        taken = {}
        for mode in random.sample(["off", "on"], 2):
            taken[mode] = time_ns(options.python, mode, options.engine, core, options.alone)
        pairs.append((taken["on"], taken["off"]))
    if pairs:
        spread = stats.paired_ratio(pairs)
        assert spread is not None
        off, on = (sorted(pair[index] for pair in pairs)[len(pairs) // 2] for index in (1, 0))
        text = f"{spread.median:.3f} [{spread.low:.3f}, {spread.high:.3f}]"
        judge(f"ns, {options.engine}, {len(pairs)} pairs", off, on, spread.median, text, TIME_BOUND)
        told["pairs"] = pairs
    print(machine.one_line(machine.describe()))
    print(table.render(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
