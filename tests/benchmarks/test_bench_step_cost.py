"""What preemption costs a step: both modes are timed, and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import step_cost
from clearway.scheduler.preemption import refusal


@pytest.mark.skipif(refusal("on") is not None, reason=str(refusal("on")))
def test_both_modes_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # counting takes half a minute
    out = tmp_path / "cost.json"
    assert step_cost.main(["--pairs=1", f"--json={out}"]) in (0, 1)
    ((on, off),) = json.loads(out.read_text())["pairs"]
    assert on > 0 and off > 0
    printed = capsys.readouterr().out
    assert "no valgrind" in printed and "1 pairs" in printed
