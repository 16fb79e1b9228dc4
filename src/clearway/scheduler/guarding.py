"""Functions that are critical sections from their first line to their last.

Not compiled: only a coroutine function of Python's own is one to ``inspect.iscoroutinefunction``, by which
frameworks choose how to call it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def guard(function: Callable[..., Any], section: Callable[[int], Any], maximum_ns: int) -> Any:
    """``function`` wrapped in ``with section(maximum_ns)``.

    :raises TypeError: it is a generator function: what it returns would run outside.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__}() is a generator function, whose body runs after the call: "
            "use `with critical():` in it, or decorate what consumes it"
        )
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            with section(maximum_ns):
                return await function(*args, **kwargs)

        return guarded
    if not callable(function):
        raise TypeError(f"critical() decorates functions, not {function!r}")

    @functools.wraps(function)
    def guarded_call(*args: Any, **kwargs: Any) -> Any:
        with section(maximum_ns):
            return function(*args, **kwargs)

    return guarded_call
