"""Micro-benchmarks: every operation is done as often as it says, and measured."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import micro


def test_everything_is_measured_on_each_loop(tmp_path: Path) -> None:
    out = tmp_path / "micro.json"
    few = ["--loops=epoll,asyncio", "--peer=asyncio", "--rounds=1", "--seconds=0.002"]
    assert micro.main([*few, f"--json={out}"]) == 0
    samples = json.loads(out.read_text())["samples"]
    assert set(samples) == {"epoll", "asyncio"}
    for taken in samples.values():
        assert set(taken[0]) == set(micro.MEASUREMENTS) and min(taken[0].values()) > 0
