"""UDP echo: server CPU per datagram, clearway against uvloop and asyncio in interleaved pairs.

    python -m benchmarks.udp [--servers uring,epoll,uvloop] [--sockets 1,16,128] [--size 1024] [--rounds 5]
        [--answers 20]   datagrams that answer one, for servers that send more than they receive

Each sample is a fresh server on core 0 and a C load generator on core 1 that keeps one datagram in flight on each
of its sockets. Loopback's kernel work (about three quarters of the time) is the same for all, so judge by ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import native, stats

ROOT = Path(__file__).parent.parent
SERVER = Path(__file__).parent / "servers" / "udp.py"


def sample(
    loop: str, sockets: int, size: int, seconds: float, python: str, answers: int = 1
) -> dict[str, float]:
    """One server, one window: its CPU per request and the requests per second.

    :param seconds: length of the window; warming up comes before it.
    :raises RuntimeError: the server did not start.
    """
    cores = sorted(os.sched_getaffinity(0))
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    server = subprocess.Popen(
        [
            *(python, str(SERVER), f"--loop={loop}", f"--core={cores[0]}"),
            *(f"--answers={answers}", f"--size={size}"),
        ],
        stdout=subprocess.PIPE,
        env=env,
        text=True,
    )
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"the server on {loop} did not start")
        ready = json.loads(line)
        report = json.loads(
            subprocess.run(
                [
                    str(native.build("udpload")),
                    *("--port", str(ready["port"]), "--pid", str(ready["pid"])),
                    *("--sockets", str(sockets), "--size", str(size if answers == 1 else 64)),
                    *("--answers", str(answers)),
                    *("--seconds", str(seconds), "--core", str(cores[-1])),
                ],
                check=True,
                capture_output=True,
            ).stdout
        )
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=10)
    answered = max(report["answered"], 1)
    ticks = max(report["user_s"] + report["system_s"], 1e-9)
    cpu_us = report["cpu_s"] / answered * 1e6
    return {
        "requests_per_s": answered / report["seconds"],
        "cpu_us": cpu_us,
        "user_us": cpu_us * report["user_s"] / ticks,
        "lost": report["lost"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", default="uring,epoll,uvloop,asyncio")
    parser.add_argument("--peer", default="uvloop", help="what the ratios are to")
    parser.add_argument("--sockets", default="1,16,128")
    parser.add_argument("--size", type=int, default=1024, help="bytes of a datagram")
    parser.add_argument("--answers", type=int, default=1, help="datagrams that answer one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    names = options.servers.split(",")
    for sockets in map(int, options.sockets.split(",")):
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in random.sample(names, len(names)):
                taken[name].append(
                    sample(
                        *(name, sockets, options.size, options.seconds),
                        *(options.python, options.answers),
                    )
                )
        print(f"{sockets} sockets, {options.size} bytes, {options.rounds} rounds")
        for name in names:
            row = taken[name]
            text = [f"  {name:8}"]
            for figure, unit in (
                ("requests_per_s", "/s"),
                ("cpu_us", "us"),
                ("user_us", "us user"),
            ):
                spread = stats.spread([one[figure] for one in row])
                assert spread is not None
                text.append(f"{spread.median:10.2f} {unit} ±{spread.relative:4.0%}")
            if options.peer in taken and name != options.peer:
                pairs = [
                    (b["cpu_us"], a["cpu_us"])
                    for a, b in zip(row, taken[options.peer], strict=True)
                ]
                ratio = stats.paired_ratio(pairs)
                if ratio is not None:
                    text.append(
                        f"{ratio.median:5.2f} x {options.peer} [{ratio.low:.2f}, {ratio.high:.2f}]"
                    )
            lost = sum(one["lost"] for one in row)
            text.append(f"lost {lost:.0f}" if lost else "")
            print("  ".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
