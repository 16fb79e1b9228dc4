"""What each way of moving bytes copies in user space: ``python -m benchmarks.copies [--mib 16]``.

Copies per byte that is moved, counted from outside: a library that is preloaded into the process under test takes
the place of memcpy and memmove and adds up what is asked of them, from 256 bytes a piece (``native/copycount.c``). What
the kernel copies between a socket and the process is not in it, nor what a compiler copies inline. Beside it stands
what the loop's own account says, ``loop.statistics().paths``. Counts, not times: a busy machine changes only how the
pieces fall.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import contestants, machine, table
from benchmarks.servers.copies import WAYS

LOOPS = ("uring", "epoll", "uvloop", "asyncio")
#: Ways that only clearway's loops have.
OURS = ("clearway.streams", "clearway.transfer", "pread_lease", "SharedChannel")
#: Bytes of a message, a read or a piece that the peer sends.
PIECES = (1 << 10, 64 << 10, 1 << 20)
#: Copies per byte that count as none: headers, paths, the tail of an unlucky piece.
NONE = 0.01
PROGRAM = Path(__file__).parent / "servers" / "copies.py"


def build(into: Path) -> Path:
    """Compile the counter. :raises subprocess.CalledProcessError: there is no C compiler."""
    library = into / "copycount.so"
    source = Path(__file__).parent / "native" / "copycount.c"
    compiler = os.environ.get("CC", "cc").split()
    flags = ["-O1", "-fno-builtin", "-shared", "-fPIC"]
    subprocess.run([*compiler, *flags, "-o", str(library), str(source)], check=True)
    return library


def is_ours(way: str) -> bool:
    return way.rpartition(", ")[2] in OURS


def measure(
    library: Path, python: str, loop: str, way: str, size: int, piece: int
) -> dict[str, int]:
    source = f"{contestants.ROOT / 'src'}{os.pathsep}{contestants.ROOT}"
    env = {**os.environ, "PYTHONPATH": source, "LD_PRELOAD": str(library)}
    command = [python, str(PROGRAM), "--loop", loop, "--way", way]
    command += ["--size", str(size), "--piece", str(piece)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{loop}, {way}: {done.stderr.strip()}")
    told: dict[str, int] = json.loads(done.stdout)
    return told


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__)
    parser.add_argument("--mib", type=int, default=16, help="MiB that each way moves")
    parser.add_argument("--loops", default=",".join(LOOPS))
    parser.add_argument("--pieces", default=",".join(map(str, PIECES)), help="in bytes")
    parser.add_argument("--only", default="", help="ways whose name contains this")
    parser.add_argument("--python", default=contestants.default_python())
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    loops = options.loops.split(",")
    samples: list[dict[str, Any]] = []
    rows = [["copies per byte; in brackets: by the loop's own account", "piece", *loops, ""]]
    verdict = 0
    with tempfile.TemporaryDirectory() as directory:
        library = build(Path(directory))
        for way in WAYS:
            if options.only not in way:
                continue
            for piece in map(int, options.pieces.split(",")):
                row = [way, f"{piece >> 10} KiB"]
                most = 0.0
                for loop in loops:
                    if is_ours(way) and loop not in ("uring", "epoll"):
                        row.append("")
                        continue
                    size = options.mib << 20
                    told = measure(library, options.python, loop, way, size, piece)
                    samples.append({"way": way, "piece": piece, "loop": loop, **told})
                    row.append(f"{told['copied'] / size:.2f}")
                    most = max(most, told["copied"] / size)
                    if "account" in told:
                        row[-1] += f" ({told['account'] / size:.2f})"
                met = most < NONE
                verdict |= is_ours(way) and not met
                row.append("" if not is_ours(way) else "none: met" if met else "none: missed")
                rows.append(row)
    print(machine.one_line(machine.describe()))
    print(table.render(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"benchmark": "copies", "samples": samples}, indent=1)
        options.json.write_text(text + "\n")
    return verdict


if __name__ == "__main__":
    sys.exit(main())
