"""The outermost Python frames of a runner's stack.

This module is never compiled. A compiled runner would leave its stack without a Python frame below the step,
and code that looks for its caller (asyncio's debug mode, ``warnings``' stacklevel, ``sys._getframe``) would
find none and raise.
"""

from __future__ import annotations

from collections.abc import Callable


def run(life: Callable[[], None]) -> None:
    """Run a runner's life under two frames: as many as ``run_forever`` has under its caller's."""
    _run(life)


def _run(life: Callable[[], None]) -> None:
    life()
