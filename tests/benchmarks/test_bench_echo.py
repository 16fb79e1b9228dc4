"""The command: measures, reports, and fails honestly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import contestants, echo, runner

FAST = ["--connections=2", "--seconds=0.05", "--warmup=0.02", "--pairs=2"]


def test_a_run_reports_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "echo.json"
    servers = "--servers=asyncio,c"
    assert echo.main([*FAST, servers, "--baseline=c", "--seed=1", f"--json={out}"]) == 0
    printed = capsys.readouterr().out
    assert "2 connections" in printed and "asyncio ran in mode" in printed
    report = json.loads(out.read_text())
    assert set(report["results"]["2"]) == {"asyncio", "c"}
    assert len(report["samples"]) == 4
    assert report["results"]["2"]["c"]["requests_per_s"]["median"] > 0
    assert report["machine"]["kernel"] and report["bars"] == []


def test_a_server_that_cannot_start_is_left_out_and_check_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = runner.Server("uring", (sys.executable, "-c", "raise SystemExit('EPERM')"))
    real = contestants.echo_server

    def pick(text: str, **settings: Any) -> runner.Server:
        return refused if text == "uring" else real(text, **settings)

    monkeypatch.setattr(contestants, "echo_server", pick)
    assert echo.main([*FAST, "--servers=uring,c"]) == 0
    assert "left out: uring: EPERM" in capsys.readouterr().out
    assert echo.main([*FAST, "--servers=uring,c", "--check"]) == 1
    assert echo.main([*FAST, "--servers=uring"]) == 1


def test_bad_requests(capsys: pytest.CaptureFixture[str]) -> None:
    assert echo.main(["--servers=tornado"]) == 1
    assert "unknown server" in capsys.readouterr().err
    for wrong in ("--connections=0", "--connections=a", "--cores=1", "--pairs=0"):
        with pytest.raises(SystemExit):
            echo.main([wrong])


def test_verify_from_the_command_line() -> None:
    root = Path(echo.__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.echo", "--verify", "--servers=c"]
    done = subprocess.run(
        [*command, "--connections=2", "--seconds=0.1"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "as sent" in done.stdout
