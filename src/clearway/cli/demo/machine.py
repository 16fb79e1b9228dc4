"""The machine: which cores to use, and what to say about it beside the figures."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def choose_cores() -> tuple[int | None, int | None]:
    """A core for the server and one for the load generator.

    :returns: two cores that share no hardware if there are such, else any two; (None, None) when
        this process may use only one, because pinning both to it would starve one of them at
        random.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None, None
    server = allowed[0]
    siblings = _siblings(server)
    load = next((core for core in allowed[1:] if core not in siblings), allowed[1])
    return server, load


def _siblings(core: int) -> set[int]:
    """The hardware threads of the core that ``core`` is one of."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        text = path.read_text()
    except OSError:
        return {core}
    siblings: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings.update(range(int(first), int(last or first) + 1))
    return siblings


def describe() -> dict[str, str]:
    """Processor, cores, kernel and Python, as text."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
