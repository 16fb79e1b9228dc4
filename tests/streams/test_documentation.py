"""docs/zero-copy.md: its code runs as it stands there, on every loop."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest

from clearway import streams
from tests.support.loops import Factory, run
from tests.support.programs import ROOT

TEXT = (ROOT / "docs" / "zero-copy.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_code_runs(factory: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}

    async def main() -> None:
        for number, block in enumerate(BLOCKS):
            code = compile(block, f"block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result

    run(factory, main)
    assert capsys.readouterr().out.split("\n")[:3] == ["4", "b'DATA'", "4"]


def test_every_function_is_mentioned() -> None:
    functions = [name for name in streams.__all__ if name[0].islower()]
    missing = [name for name in functions if not re.search(rf"\b{name}\b", TEXT)]
    assert not missing
