"""Critical sections: regions in which the running step is not suspended.

Entering one costs an increment. It is per thread and not per task: nothing else runs on this thread meanwhile,
so there is nothing to tell apart. At an ``await`` others do run. The loop then puts the count aside and takes it
up again with the task's next step, so that a section never becomes somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clearway.scheduler import guarding
from clearway.scheduler._native import enter_section, leave_section

#: A section longer than this is reported (ns): as long as a stalled step in `report` mode.
MAXIMUM_DEFAULT_NS = 100_000_000

#: Called with (seconds, maximum) after a section that took too long; set by the report module.
on_too_long: Callable[[float, float], None] | None = None


class Section:
    """What ``critical()`` returns: a context manager, which may be entered again while it is, and a decorator."""

    def __init__(self, maximum_ns: int) -> None:
        self._maximum_ns = maximum_ns

    def __enter__(self) -> None:
        enter_section(self._maximum_ns)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        took = leave_section()
        if took and on_too_long is not None:
            on_too_long(took / 1e9, self._maximum_ns / 1e9)

    def __call__(self, function: Callable[..., Any]) -> Any:
        return guarding.guard(function, Section, self._maximum_ns)


def critical(function: Callable[..., Any] | None = None, *, maximum: float | None = None) -> Any:
    """``with clearway.critical():`` or ``@clearway.critical``: run this without being suspended.

    Nests. The decorator is for functions and for coroutine functions. The loop serves nothing else meanwhile, so
    keep a section short; one that takes longer than ``maximum`` is reported. It protects what lies between two
    ``await``s: at one inside, others run as ever, and the section goes on afterwards.

    :param maximum: seconds after which a report is made; None for 0.1. From 0.05 on, exact to 0.01.
    :raises TypeError: the decorator was given a generator function, whose body runs when nobody is protected.
    """
    maximum_ns = MAXIMUM_DEFAULT_NS if maximum is None else int(min(maximum, 1e9) * 1e9)
    if function is None:
        return Section(maximum_ns)
    return guarding.guard(function, Section, maximum_ns)
