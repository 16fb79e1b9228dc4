"""Timeouts that work on code that computes or blocks.

``asyncio.timeout`` cancels a task at its next ``await``; a loop that never awaits is never cancelled. Here
the loop owns the stack of a step it can suspend, so it can also go on with it *by an exception*: the handler
that interrupted the step raises instead of returning.

Held back at unsafe points (the rules U1 to U8), inside ``finally`` and ``except`` bodies and inside
``__exit__`` and ``__aexit__``, where an exception would skip the cleaning up: it is raised as soon as the code
has left them. What an exception out of nowhere can break is what Ctrl-C can break; keep such regions small.
"""

from __future__ import annotations

import ast
import asyncio
import linecache
from types import CodeType, FrameType, TracebackType
from typing import Any

from clearway.scheduler import _native

_EXITS = frozenset({"__exit__", "__aexit__", "__del__", "__enter__", "__aenter__"})
_COROUTINE_FLAGS = 0x0080 | 0x0100 | 0x0200

#: Source files whose cleaning-up lines are remembered.
_FILES_MAX = 512
_cleanup_lines: dict[str, frozenset[int]] = {}


class Interrupt:
    """An exception that is to be raised at ``when_ns`` in ``task``, wherever it stands then; without a
    task, in the step ``strand``."""

    def __init__(self, task: Any, strand: int, when_ns: int, error: BaseException) -> None:
        self.task = task
        self.strand = strand
        self.when_ns = when_ns
        self.error = error
        self.delivered = False


class hard_timeout:
    """``async with clearway.hard_timeout(s):`` or ``with clearway.hard_timeout(s):``

    Raises ``TimeoutError`` in the block when it has taken ``seconds``, also while it computes or blocks.
    In the asynchronous form an ``await`` is cut short as well, as with ``asyncio.timeout``.

    :param seconds: how long the block may take; None for ever.
    :raises RuntimeError: on entering, when the running loop cannot interrupt a step; the text says why.
    """

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None:
            seconds = float(seconds)
            if not seconds >= 0.0:
                raise ValueError(f"a timeout must not be negative, got {seconds!r}")
        self._seconds = seconds
        self._interrupt: Interrupt | None = None
        self._scheduler: Any = None
        self._timer: Any = None
        self._task: Any = None
        self._expired_at_await = False
        self._cancelling = 0

    @property
    def expired(self) -> bool:
        """The block was cut short."""
        interrupt = self._interrupt
        return self._expired_at_await or (interrupt is not None and interrupt.delivered)

    def _arm(self) -> None:
        if self._interrupt is not None:
            raise RuntimeError("a hard_timeout cannot be entered twice")
        loop = asyncio.get_running_loop()
        scheduler = getattr(loop, "_scheduler", None)
        if scheduler is None:
            raise RuntimeError("hard_timeout works on clearway's event loop only")
        self._scheduler = scheduler
        self._task = asyncio.current_task()
        if self._seconds is None:
            return
        when_ns = _native.now_ns() + int(self._seconds * 1e9)
        self._interrupt = Interrupt(
            self._task,
            scheduler.strand(),
            when_ns,
            TimeoutError(f"took longer than {self._seconds:g} s"),
        )
        scheduler.add_interrupt(self._interrupt)

    def _disarm(self) -> None:
        if self._interrupt is not None:
            self._scheduler.remove_interrupt(self._interrupt)

    def __enter__(self) -> hard_timeout:
        self._arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disarm()

    async def __aenter__(self) -> hard_timeout:
        self._arm()
        if self._task is None:
            raise RuntimeError("async with hard_timeout() works in a task only")
        if self._seconds is not None:
            self._cancelling = self._task.cancelling()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(loop.time() + self._seconds, self._cut_await)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disarm()
        if self._timer is not None:
            self._timer.cancel()
        if (
            self._expired_at_await
            # As asyncio.timeout: the cancellation was ours unless somebody else asked for one as well.
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError(f"took longer than {self._seconds:g} s") from error

    def _cut_await(self) -> None:
        """The time is over while the task waits at an ``await`` (or is suspended: the other half acts)."""
        interrupt = self._interrupt
        if interrupt is None or interrupt.delivered:
            return
        if self._scheduler.is_suspended(self._task):
            return
        self._scheduler.remove_interrupt(interrupt)
        self._expired_at_await = True
        self._task.cancel()


def interrupt(task: Any, error: BaseException | type[BaseException]) -> None:
    """Raise ``error`` in ``task`` where it stands: at once if one of its steps is suspended, and at its
    next ``await`` or safe point otherwise.

    :param error: an exception, or a class of exceptions that needs no arguments.
    :raises TypeError: not an exception. :raises RuntimeError: the task is done, or its loop cannot do it.
    """
    if isinstance(error, type) and issubclass(error, BaseException):
        error = error()
    if not isinstance(error, BaseException):
        raise TypeError(f"an exception is needed, not {error!r}")
    if task.done():
        raise RuntimeError(f"{task!r} is done: nothing to interrupt")
    loop = task.get_loop()
    scheduler = getattr(loop, "_scheduler", None)
    if scheduler is None:
        raise RuntimeError("interrupt() works on tasks of clearway's event loop only")
    if scheduler.is_suspended(task):
        scheduler.add_interrupt(Interrupt(task, 0, _native.now_ns(), error))
    elif asyncio.current_task() is task:
        raise error
    else:
        # It waits at an await (no other step can be running): asyncio's own way in.
        _throw_at_await(task, error)


def _throw_at_await(task: Any, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        task.cancel(*error.args)
        return
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        raise RuntimeError(
            f"{task!r} is about to run and stands at no point where an exception could be raised; "
            "cancel() it instead"
        )
    if waiter.done():
        raise RuntimeError(f"what {task!r} waits for has already happened; cancel() it instead")
    if isinstance(waiter, asyncio.Task):
        interrupt(waiter, error)
    else:
        waiter.set_exception(error)


# -- where an exception must wait -----------------------------------------------------------------------------


def is_cleaning_up(frame: FrameType | None) -> bool:
    """Is a ``finally`` or ``except`` body or an ``__exit__`` being run at ``frame`` or in one of the plain
    calls above the nearest coroutine frame?"""
    while frame is not None:
        code = frame.f_code
        if code.co_name in _EXITS:
            return True
        if frame.f_lineno in _cleanup_lines_of(code, frame):
            return True
        if code.co_flags & _COROUTINE_FLAGS:
            return False
        frame = frame.f_back
    return False


def _cleanup_lines_of(code: CodeType, frame: FrameType) -> frozenset[int]:
    """The lines of ``finally`` and ``except`` bodies of a file. The compiler copies the body of a
    ``finally`` into each way out of the ``try``, so the bytecode cannot tell; the source can."""
    name = code.co_filename
    lines = _cleanup_lines.get(name)
    if lines is None:
        if len(_cleanup_lines) >= _FILES_MAX:
            _cleanup_lines.clear()
        lines = _find_cleanup_lines("".join(linecache.getlines(name, frame.f_globals)))
        _cleanup_lines[name] = lines
    return lines


def _find_cleanup_lines(source: str) -> frozenset[int]:
    found: set[int] = set()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Try, getattr(ast, "TryStar", ast.Try))):
            for part in (node.finalbody, *[handler.body for handler in node.handlers]):
                for statement in part:
                    found.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return frozenset(found)
