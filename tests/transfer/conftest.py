"""Ends to transfer between, and a `run` that counts the pipes kept for the next transfer as no leak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clearway.transfer.pipes import pool

from ..support import loops


@pytest.fixture
def run() -> Callable[..., Any]:
    def run(factory: Any, main: Any, **options: Any) -> Any:
        async def whole() -> Any:
            try:
                return await main()
            finally:
                pool.trim()

        result = loops.run(factory, whole, **options)
        assert pool.in_use == 0, "pipes that were not given back"
        return result

    return run
