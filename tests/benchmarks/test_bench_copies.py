"""Copies, counted from outside: our ways make none, and the loop's own account does not flatter it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import copies

from ..support.loops import Factory

MIB = 1 << 20


def test_leases_are_not_copied_and_bytes_are(
    clearway_factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copies.json"
    few = ["--mib=4", "--pieces=65536", f"--loops={clearway_factory.name}", f"--json={out}"]
    assert copies.main([*few, "--only=echo, clearway.streams"]) == 0
    assert "none: met" in capsys.readouterr().out
    assert copies.main([*few, "--only=echo, Protocol"]) == 0
    samples = json.loads(out.read_text())["samples"]
    assert [told["way"] for told in samples] == ["echo, Protocol", "echo, Protocol over TLS"]
    for told in samples:
        # What is counted from outside is in the account, but for the odd buffer of the interpreter's own.
        assert told["size"] * 0.9 < told["copied"] < told["account"] + MIB // 4
