"""Callbacks that cancel a task: they wait until the task's step is over, if it is suspended in the middle of one.

asyncio's time-outs and groups cancel the task they belong to from a callback, and take the cancellation back when
their block ends. Both rely on what holds where no step is ever suspended: that the task stands at an ``await`` then,
inside of the block. In the middle of a step it may leave the block without another ``await``. The cancellation would
come out of some later one, outside, where nobody expects it (before Python 3.13, whose ``uncancel()`` takes back what
has not been delivered), or a result that was in time for its own block would be lost.

So such a callback keeps its place at the front of the queue until the step has come to its ``await``, where it cancels
as ever, or to the end of the block, which cancels the callback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def _of_timeout(timeout: Any) -> Iterable[Any]:
    return (timeout._task,)


def _of_group(group: Any) -> Iterable[Any]:
    return (group._parent_task,)


def _of_aiohttp(timer: Any) -> Iterable[Any]:
    return (
        task
        for callback, _, _ in timer._callbacks
        for task in getattr(getattr(callback, "__self__", None), "_tasks", ())
    )


def _of_anyio(scope: Any) -> Iterable[Any]:
    return (scope._host_task,)


#: By module and qualified name of the method: what it cancels.
CANCELLERS: dict[tuple[str, str], Callable[[Any], Iterable[Any]]] = {
    ("asyncio.timeouts", "Timeout._on_timeout"): _of_timeout,
    ("asyncio.taskgroups", "TaskGroup._on_task_done"): _of_group,
    ("aiohttp.helpers", "TimeoutHandle.__call__"): _of_aiohttp,
    ("anyio._backends._asyncio", "CancelScope._timeout"): _of_anyio,
}


def tasks_to_cancel(method: Any) -> Iterable[Any]:
    """The tasks that a bound method cancels; none if it is not known to cancel any.

    :param method: a ``types.MethodType``.
    """
    function = method.__func__
    name = getattr(function, "__qualname__", None)
    find = CANCELLERS.get((getattr(function, "__module__", ""), name or ""))
    return () if find is None else find(method.__self__)
