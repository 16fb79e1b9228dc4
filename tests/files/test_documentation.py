"""docs/files.md: its code runs as it stands there, from the top down, on every loop."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from clearway import files
from tests.support.loops import Factory, run
from tests.support.programs import ROOT

TEXT = (ROOT / "docs" / "files.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_code_runs(
    factory: Factory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    async def main() -> None:
        for number, block in enumerate(BLOCKS):
            code = compile(block, f"block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result

    run(factory, main)
    assert len(BLOCKS) == 4
    assert "b.txt False 12" in capsys.readouterr().out
    assert (tmp_path / "records").stat().st_size == 5000


def test_every_function_is_mentioned() -> None:
    functions = [name for name in files.__all__ if name[0].islower()]
    missing = [name for name in functions if not re.search(rf"\b{name}\b", TEXT)]
    assert not missing
