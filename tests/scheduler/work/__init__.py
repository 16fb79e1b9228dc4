"""Work of many kinds, whose results must not depend on where it was suspended.

Each function takes a seed and gives something that can be compared; the same seed gives the same result, whatever
else runs in between. ``ALL`` has them by name, as async functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from . import concurrent, language, library

Work = Callable[[int], Awaitable[Any]]


def _collect(*modules: ModuleType) -> dict[str, Work]:
    found: dict[str, Work] = {}
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("with_"):
                found[name] = value if inspect.iscoroutinefunction(value) else _as_async(value)
    return found


def _as_async(function: Callable[[int], Any]) -> Work:
    async def work(seed: int) -> Any:
        return function(seed)

    return work


ALL = _collect(language, library, concurrent)
