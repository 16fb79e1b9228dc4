"""Who goes on after a suspension, drawn instead of deserved."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


class Drawn:
    """A scheduling policy that draws lots; the same random numbers give the same order.

    :param draws: where the numbers come from.
    """

    name = "drawn"

    def __init__(self, draws: random.Random) -> None:
        self._draws = draws

    def suspended_first(self) -> bool:
        """Asked at each suspension: shall a suspended step go on, or one that has not begun?"""
        return self._draws.random() < 0.5

    def suspended(self, step: Any) -> None:
        pass

    def choose(self, candidates: Sequence[Any], now_ns: int) -> int:
        return int(self._draws.random() * len(candidates))

    def slice_ns(self, step: Any, quantum_ns: int) -> int:
        return quantum_ns

    def charge(self, step: Any, used_ns: int) -> None:
        pass

    def finished(self, step: Any) -> None:
        pass
