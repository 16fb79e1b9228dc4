"""Large transfers: each direction is measured, and the process may run everywhere again afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import bulk


@pytest.mark.parametrize("kind", [[], ["--tls"]], ids=["tcp", "tls"])
def test_all_three_transfers_are_measured(kind: list[str], tmp_path: Path) -> None:
    out, everywhere = tmp_path / "bulk.json", os.sched_getaffinity(0)
    few = ["--servers=epoll,asyncio", "--peer=asyncio", "--mib=4", "--rounds=1", f"--json={out}"]
    assert bulk.main([*few, *kind]) == 0
    assert os.sched_getaffinity(0) == everywhere
    samples = json.loads(out.read_text())["samples"]
    assert set(samples) == {"send", "send, one write", "receive"}
    for taken in samples.values():
        assert set(taken) == {"epoll", "asyncio"}
        assert all(
            one["mib_s"] > 0 and one["cpu_us"] > 0 for many in taken.values() for one in many
        )
