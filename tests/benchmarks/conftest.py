"""The benchmarks compile C programs on demand; without a compiler nothing can be tested."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session", autouse=True)
def _c_compiler() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: the load generators cannot be built")
