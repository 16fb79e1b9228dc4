"""Random reads of 4 KiB, 64 at a time: ``open_file`` beside aiofiles from the cache, and beside fio from the disk.

    python -m benchmarks.files                     # about two minutes
    python -m benchmarks.files --engine epoll --only cached

aiofiles has no reads at an offset and its files have one position each, so each of the 64 tasks has a file of its own,
seeks and reads. From the disk (O_DIRECT) both we and fio (``apt-get install fio``, its io_uring engine) read the same
file at the same depth; `--directory` must be on a file system that has O_DIRECT. Rounds are interleaved; the figure is
reads per second.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import clearway
from clearway.buffers import Pool

from . import machine, stats, table

SIZE = 4096
DEPTH = 64
#: Bytes of the file: in the cache of any machine, and far beyond a disk's own.
CACHED_BYTES = 256 << 20
DIRECT_BYTES = 1 << 30

#: (measurement, ours, theirs, the bar of the ratio)
BARS = [
    ("cached, depth 64", "open_file cached", "aiofiles cached", 20.0),
    ("O_DIRECT, depth 64", "open_file direct", "fio direct", 0.7),
]

Read = Callable[[int], Awaitable[Any]]


async def _rate(reads: list[Read], size: int, seconds: float) -> float:
    """Reads per second of as many tasks as there are ``reads``, each at random places."""
    # Drawn before, and the clock read once a batch: neither is to be measured.
    rng = random.Random(1)
    places = [rng.randrange(size // SIZE) * SIZE for _ in range(65536)]
    end = time.perf_counter() + seconds

    async def one(read: Read, number: int) -> int:
        start = number * 1024
        count = 0
        while time.perf_counter() < end:
            for offset in places[start : start + 16]:
                await read(offset)
            count += 16
            start = (start + 16) % len(places)
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*(one(read, number) for number, read in enumerate(reads)))
    return sum(counts) / (time.perf_counter() - began)


async def ours_cached(path: Path, seconds: float) -> float:
    async with clearway.open_file(path, "rb") as file:
        return await _rate([functools.partial(file.pread, SIZE)] * DEPTH, CACHED_BYTES, seconds)


async def ours_direct(path: Path, seconds: float) -> float:
    pool = Pool(SIZE, DEPTH, alignment=4096)
    async with clearway.open_file(path, "rb", direct=True, pool=pool) as file:

        async def read(offset: int) -> None:
            (await file.pread_lease(SIZE, offset)).release()

        return await _rate([read] * DEPTH, DIRECT_BYTES, seconds)


async def aiofiles_cached(path: Path, seconds: float) -> float:
    import aiofiles

    files = [await aiofiles.open(path, "rb", buffering=0) for _ in range(DEPTH)]

    def reader(file: Any) -> Read:
        async def read(offset: int) -> None:
            await file.seek(offset)
            await file.read(SIZE)

        return read

    try:
        return await _rate([reader(file) for file in files], CACHED_BYTES, seconds)
    finally:
        for file in files:
            await file.close()


def fio_direct(path: Path, seconds: float) -> float:
    options = [
        "--name=read",
        f"--filename={path}",
        f"--size={DIRECT_BYTES}",
        "--rw=randread",
        f"--bs={SIZE}",
        f"--iodepth={DEPTH}",
        "--ioengine=io_uring",
        "--direct=1",
        "--time_based",
        f"--runtime={seconds}",
        "--output-format=json",
    ]
    done = subprocess.run(["fio", *options], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["jobs"][0]["read"]["iops"])


def measure(name: str, path: Path, seconds: float, engine: str) -> float:
    if name == "fio direct":
        return fio_direct(path, seconds)
    if name == "aiofiles cached":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(aiofiles_cached(path, seconds))
    work = ours_cached if name == "open_file cached" else ours_direct
    return clearway.run(work(path, seconds), engine=engine)


def make_file(path: Path, size: int) -> None:
    block = random.Random(1).randbytes(1 << 20)
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one sample (1)")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--only", default="", help="measurements whose name contains this")
    parser.add_argument("--directory", default=".", help="where the files are made (here)")
    parser.add_argument("--json", type=Path, help="write all samples to this file")
    args = parser.parse_args()
    info = machine.describe()
    print(machine.one_line(info))
    chosen = [bar for bar in BARS if args.only in bar[0]]
    if not shutil.which("fio"):
        print("left out: fio is not installed: apt-get install fio")
        chosen = [bar for bar in chosen if bar[2] != "fio direct"]
    names = [name for bar in chosen for name in bar[1:3]]
    samples: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        path = Path(directory) / "data"
        make_file(path, DIRECT_BYTES if any("direct" in name for name in names) else CACHED_BYTES)
        for number in range(args.rounds):
            print(f"\rround {number + 1}/{args.rounds}", end="", file=sys.stderr, flush=True)
            for name in order.sample(names, len(names)):
                if "cached" in name:
                    with path.open("rb") as file:
                        while file.tell() < CACHED_BYTES and file.read(1 << 20):
                            pass
                samples[name].append(measure(name, path, args.seconds, args.engine))
    print(file=sys.stderr)
    rows = [["reads of 4 KiB", "ours", "per s", "theirs", "per s", "ratio", "95 %", "bar", ""]]
    met = True
    for title, ours, theirs, bar in chosen:
        ratio = stats.paired_ratio(list(zip(samples[ours], samples[theirs], strict=True)))
        mine, other = stats.spread(samples[ours]), stats.spread(samples[theirs])
        assert ratio and mine and other
        met = met and ratio.median >= bar
        rows.append(
            [
                *(title, ours, f"{mine.median:,.0f}", theirs, f"{other.median:,.0f}"),
                *(f"{ratio.median:.2f}", f"{ratio.low:.2f}..{ratio.high:.2f}", f">= {bar:g}"),
                "met" if ratio.median >= bar else "MISSED",
            ]
        )
    print(table.render(rows))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": info, "engine": args.engine, "samples": samples}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
