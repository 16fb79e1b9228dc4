"""A function that must stay bytecode: how the interpreter calls C from it is what the shuffler learns."""

from __future__ import annotations

from collections.abc import Callable


def call(function: Callable[[], object]) -> None:
    """Call ``function``, and nothing else."""
    function()
