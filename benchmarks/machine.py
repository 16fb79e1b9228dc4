"""What a reader must know of the machine before believing a figure."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def describe() -> dict[str, Any]:
    """Kernel, processor, cores, frequency governor, virtual or not, load, and limits that matter.

    Fields the machine does not tell are absent.
    """
    info = _read("/proc/cpuinfo")

    def cpu(name: str) -> str:
        for line in info.splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
        return ""

    memory_kib = 0
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            memory_kib = int(line.split()[1])
    found: dict[str, Any] = {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": cpu("model name") or cpu("CPU part"),
        "cores": len(os.sched_getaffinity(0)),
        "cores_online": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "virtual": "hypervisor" in cpu("flags").split(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clocksource": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "somaxconn": _read("/proc/sys/net/core/somaxconn"),
        "io_uring_disabled": _read("/proc/sys/kernel/io_uring_disabled"),
        "perf_event_paranoid": _read("/proc/sys/kernel/perf_event_paranoid"),
        "libc": " ".join(platform.libc_ver()),
        "python": sys.version.split()[0],
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def one_line(info: dict[str, Any]) -> str:
    """The description for the head of a table."""
    kind = "virtual" if info.get("virtual") else "bare metal"
    load = info.get("load_average", [0.0])[0]
    return (
        f"{info.get('processor', 'unknown processor')}, {info.get('cores', '?')} cores ({kind}), "
        f"Linux {info.get('kernel', '?')}, CPython {info.get('python', '?')}, "
        f"load average {load} at the start"
    )


def default_cores() -> tuple[int, int]:
    """The cores for server and load generator; (-1, -1), not pinned, when there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (-1, -1)
