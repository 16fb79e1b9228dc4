"""Subprocesses per second: clearway against uvloop and asyncio, one after another and some at a time.

    python -m benchmarks.spawn [--loops uring,epoll,asyncio,threaded,uvloop] [--at-once 1,8] [--count 300] [--rounds 3]

Each sample is a fresh interpreter that starts ``true`` COUNT times and waits for each. asyncio is given its pidfd
watcher, the best it has; "threaded" is asyncio with a thread per process, its default before Python 3.12.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

from benchmarks import stats

ROOT = Path(__file__).parent.parent


async def spawn(count: int, at_once: int, piped: bool) -> float:
    """Start and wait for ``count`` processes, ``at_once`` at a time: the seconds it took."""

    async def worker(share: int) -> None:
        for _ in range(share):
            if piped:
                process = await asyncio.create_subprocess_exec(
                    "true", stdout=asyncio.subprocess.PIPE
                )
                await process.communicate()
            else:
                process = await asyncio.create_subprocess_exec("true")
            if await process.wait():
                raise RuntimeError(f"true ended with {process.returncode}")

    start = time.perf_counter()
    await asyncio.gather(*(worker(count // at_once) for _ in range(at_once)))
    return time.perf_counter() - start


def child(name: str, count: int, at_once: int, piped: bool) -> None:
    """One sample, printed as JSON."""
    from benchmarks.servers.udp import new_loop

    watched = name in ("asyncio", "threaded")
    loop = new_loop("asyncio" if watched else name)
    asyncio.set_event_loop(loop)
    if watched and sys.version_info < (3, 14):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pidfd = name == "asyncio"
            watcher = asyncio.PidfdChildWatcher() if pidfd else asyncio.ThreadedChildWatcher()
            watcher.attach_loop(loop)
            asyncio.set_child_watcher(watcher)
    loop.run_until_complete(spawn(at_once * 4, at_once, piped))
    before = resource.getrusage(resource.RUSAGE_SELF)
    took = loop.run_until_complete(spawn(count, at_once, piped))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    done = count // at_once * at_once
    print(json.dumps({"per_s": done / took, "cpu_us": cpu / done * 1e6}))
    loop.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", default="uring,epoll,asyncio,threaded,uvloop")
    parser.add_argument("--peer", default="asyncio", help="what the ratios are to")
    parser.add_argument("--at-once", default="1,8")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pipes", action="store_true", help="with a pipe for the output")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.count, int(options.at_once), options.pipes)
        return 0
    names = options.loops.split(",")
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    for at_once in options.at_once.split(","):
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in random.sample(names, len(names)):
                command = [sys.executable, "-m", "benchmarks.spawn", "--child", name]
                command += ["--count", str(options.count), "--at-once", at_once]
                command += ["--pipes"] * options.pipes
                out = subprocess.run(command, check=True, capture_output=True, env=env).stdout
                taken[name].append(json.loads(out))
        print(f"{at_once} at a time, {options.count} processes, {options.rounds} rounds")
        for name in names:
            rate = stats.spread([one["per_s"] for one in taken[name]])
            cpu = stats.spread([one["cpu_us"] for one in taken[name]])
            assert rate is not None and cpu is not None
            text = f"  {name:8} {rate.median:8.0f}/s  {cpu.median:7.0f} us CPU each"
            if options.peer in taken and name != options.peer:
                pairs = [
                    (a["per_s"], b["per_s"])
                    for a, b in zip(taken[name], taken[options.peer], strict=True)
                ]
                ratio = stats.paired_ratio(pairs)
                if ratio is not None:
                    text += (
                        f"  {ratio.median:.2f} x {options.peer} [{ratio.low:.2f}, {ratio.high:.2f}]"
                    )
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
