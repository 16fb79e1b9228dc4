"""What a step brings along from its task: domain, priority, weight, whether it may be suspended.

All of it lives in context variables, so that child tasks, task groups and callbacks inherit it the way they
inherit every other context, and reading it in the handler costs one look-up in the context of the step that
was interrupted.

A *domain* keeps run-to-completion among the steps that share it: while a step of the domain is suspended no
other step of that domain is started, the rest of the program goes on.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any
from weakref import WeakKeyDictionary

domain_var: ContextVar[Any] = ContextVar("clearway_domain", default=None)
priority_var: ContextVar[int] = ContextVar("clearway_priority", default=0)
weight_var: ContextVar[float] = ContextVar("clearway_weight", default=1.0)
preemptible_var: ContextVar[bool] = ContextVar("clearway_preemptible", default=True)

#: What ``set_priority`` said about a task that already exists; it wins over the context.
_priorities: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_weights: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

# Whether there ever was any: a look-up there is Python code, and it would run at each suspension.
_are_set = False


@contextmanager
def domain(name: Any) -> Iterator[None]:
    """Tasks made inside belong to the domain ``name`` (any hashable), and so does the code inside.

    While a step of a domain is suspended, no other step of it runs.
    """
    hash(name)
    token = domain_var.set(name)
    try:
        yield
    finally:
        domain_var.reset(token)


def set_priority(task: Any, priority: int, *, weight: float | None = None) -> None:
    """Change how urgent ``task`` is from now on.

    :param priority: higher is more urgent (policy "priority"). :param weight: its share (policy "fair").
    :raises TypeError: not an int. :raises ValueError: a weight that is not positive.
    """
    global _are_set
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority must be an int, not {type(priority).__name__}")
    if weight is not None and not weight > 0:
        raise ValueError(f"weight must be positive, not {weight!r}")
    _are_set = True
    _priorities[task] = priority
    if weight is not None:
        _weights[task] = float(weight)


def priority_of(task: Any) -> int:
    """Priority of ``task``, when its own context is the current one (as in the handler)."""
    if _are_set and task is not None and task in _priorities:
        return _priorities[task]
    return priority_var.get()


def task_of_step(step: Any) -> Future[Any] | None:
    """The task whose next step that is; None for a plain callback."""
    task = getattr(getattr(step, "_callback", None), "__self__", None)
    return task if isinstance(task, Future) else None


def priority_of_step(step: Any) -> int:
    """Priority of a step that is not running: its task's if that was set, else its context's."""
    if _are_set:
        task = task_of_step(step)
        if task is not None and task in _priorities:
            return _priorities[task]
    context = getattr(step, "_context", None)
    return 0 if context is None else context.get(priority_var, 0)


def weight_of(task: Any) -> float:
    if _are_set and task is not None and task in _weights:
        return _weights[task]
    return weight_var.get()


def prepare_context(
    context: Context,
    *,
    priority: int | None = None,
    weight: float | None = None,
    preemptible: bool | None = None,
) -> None:
    """Write a new task's options into the context it will run in."""
    if priority is not None:
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TypeError(f"priority must be an int, not {type(priority).__name__}")
        context.run(priority_var.set, priority)
    if weight is not None:
        if not weight > 0:
            raise ValueError(f"weight must be positive, not {weight!r}")
        context.run(weight_var.set, float(weight))
    if preemptible is not None:
        context.run(preemptible_var.set, bool(preemptible))
