"""Critical sections: regions in which the running step is not suspended.

Entering one costs an increment. It is per thread and not per task on purpose: the point is that nothing else
runs on this thread meanwhile, so there is nothing to tell apart. That is also why a section must not contain
an ``await``: across one it would forbid the suspension of everybody else's steps.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: A section longer than this is reported (seconds): as long as a stalled step in `report` mode.
MAXIMUM_DEFAULT_S = 0.1


class _State(threading.local):
    depth = 0
    since = 0.0
    maximum_s = MAXIMUM_DEFAULT_S


_state = _State()

#: Called with (seconds, maximum) after a section that took too long; set by the report module.
on_too_long: Callable[[float, float], None] | None = None


class critical:
    """``with clearway.critical():`` or ``@clearway.critical``: run this without being suspended.

    Nests. The loop serves nothing else meanwhile, so keep it short; one that takes longer than ``maximum``
    is reported.

    :param maximum: seconds after which a report is made; None for ``MAXIMUM_DEFAULT_S`` (0.1).
    """

    def __init__(self, function: Callable[..., Any] | None = None, *, maximum: float | None = None):
        self._maximum = MAXIMUM_DEFAULT_S if maximum is None else float(maximum)
        self._function = function
        if function is not None:
            functools.update_wrapper(self, function)

    def __enter__(self) -> critical:
        state = _state
        state.depth += 1
        if state.depth == 1:
            state.since = time.monotonic()
            state.maximum_s = self._maximum
        return self

    def __exit__(self, *exc_info: object) -> None:
        state = _state
        state.depth -= 1
        if state.depth == 0:
            took = time.monotonic() - state.since
            if took > state.maximum_s and on_too_long is not None:
                on_too_long(took, state.maximum_s)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._function is None:
            # @critical(maximum=...): the call brings the function.
            (function,) = args
            return critical(function, maximum=self._maximum)
        with critical(maximum=self._maximum):
            return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if self._function is None or instance is None:
            return self
        return functools.partial(self, instance)


def depth() -> int:
    """How many critical sections the calling thread is in."""
    return _state.depth
