"""Blocking calls that do not block: on clearway the three finish together, and it is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import clearway
from benchmarks import blocking
from clearway.scheduler.preemption import refusal


@pytest.mark.skipif(refusal("on") is not None, reason=str(refusal("on")))
@pytest.mark.parametrize("call", blocking.CALLS)
def test_three_calls_are_in_progress_at_once(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "LASTS_S", 0.2)
    inside = most = 0
    make = blocking.CALLS[call]

    def counted() -> blocking.Call:
        blocking_call = make()

        def counting() -> object:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                return blocking_call()
            finally:
                inside -= 1

        return counting

    clearway.run(blocking.together(counted), preempt="on", quantum=blocking.QUANTUM_S)
    assert most == blocking.TASKS


def test_one_after_the_other_on_asyncio_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "blocking.json"
    assert (
        blocking.main(["--loops=asyncio", "--rounds=1", "--calls=time.sleep", f"--json={out}"]) == 0
    )
    (sample,) = json.loads(out.read_text())["samples"]["asyncio"]
    assert sample["time.sleep"]["took"] >= blocking.TASKS * blocking.LASTS_S
    assert "time.sleep" in capsys.readouterr().out
