"""Memory of idle connections: measured, compared, and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import memory


def test_a_connection_costs_something_and_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory.json"
    few = ["--servers=epoll,asyncio", "--connections=300", "--rounds=1", f"--json={out}"]
    assert memory.main(few) == 0
    printed = capsys.readouterr().out
    assert "300 idle connections, after one request each" in printed
    samples = json.loads(out.read_text())["samples"]
    assert set(samples) == {"epoll", "asyncio"}
    assert all(100 < one["bytes"] < 100_000 for taken in samples.values() for one in taken)


def test_more_connections_than_files_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main(["--connections=2000000000"]) == 1
    assert "open files" in capsys.readouterr().err
