"""What the ready queue holds: a step is one run of a task or callback until its next ``await``.

The engine queues its streams and the loop its handles; the turn only ever calls ``run()``. This module
lies below both so that neither has to know the other.
"""

from __future__ import annotations

import sys
import traceback
from asyncio import Future, constants, events, format_helpers
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from clearway.kernel.sysio import ContextEntered, run_in_context


class Step:
    """Something that can be run once when its turn comes."""

    def run(self) -> None:
        raise NotImplementedError(type(self).__name__)

    def context(self) -> Context | None:
        """The context in which it calls user code; None where it calls none."""
        return None


class Handle(Step):
    """A callback with its arguments and context, as ``call_soon`` returns it (an ``asyncio.Handle``).

    :param context: the ``contextvars.Context`` to run in; None means a copy of the current one.
    """

    # asyncio.Handle has slots of its own, so an extension class cannot derive from it: isinstance() is told
    # through __class__ instead.
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return events.Handle

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: Any,
        context: Context | None = None,
        debug: bool = False,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        if debug:
            self._source_traceback = extract_stack(sys._getframe(0))
        else:
            self._source_traceback = None
        self._repr = None

    def run(self) -> None:
        if self._cancelled:
            return
        try:
            run_in_context(self._context, self._callback, self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except ContextEntered as exc:
            # A suspended step may be what is in it: then this one has to wait, as it would without suspensions.
            if exc.callback is not self._callback or not self._loop._hold(self):
                self._report(exc)
        except BaseException as exc:
            self._report(exc)

    def context(self) -> Context | None:
        return self._context

    def _run(self) -> None:
        """The name asyncio's own handles use for the same."""
        self.run()

    def _report(self, exc: BaseException) -> None:
        source = _describe_callback(self._callback, self._args, self._loop.get_debug())
        context = {
            "message": f"Exception in callback {source}",
            "exception": exc,
            "handle": self,
        }
        if self._source_traceback:
            context["source_traceback"] = self._source_traceback
        self._loop.call_exception_handler(context)

    def cancel(self) -> None:
        """Do not run the callback. Cancelling twice, or after the run, does nothing."""
        if not self._cancelled:
            self._cancelled = True
            if self._loop.get_debug():
                # The repr of a cancelled handle shows what it would have called.
                self._repr = repr(self)
            self._callback = None
            self._args = ()

    def cancelled(self) -> bool:
        return bool(self._cancelled)

    def get_context(self) -> Context:
        return self._context  # type: ignore[no-any-return]

    def _repr_info(self) -> list[str]:
        info = [self.__class__.__name__]
        if self._cancelled:
            info.append("cancelled")
        if self._callback is not None:
            info.append(_describe_callback(self._callback, self._args, self._loop.get_debug()))
        if self._source_traceback:
            frame = self._source_traceback[-1]
            info.append(f"created at {frame[0]}:{frame[1]}")
        return info

    def __repr__(self) -> str:
        if self._repr is not None:
            return str(self._repr)
        return "<" + " ".join(self._repr_info()) + ">"


class FutureStep(Step):
    """Resolves a future with None, unless somebody else has: what a task waits with for the engine."""

    def __init__(self, future: Future[None]) -> None:
        self.future = future

    def run(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def _describe_callback(callback: Any, args: tuple[Any, ...], debug: bool) -> str:
    if sys.version_info >= (3, 13):
        return str(format_helpers._format_callback_source(callback, args, debug=debug))  # type: ignore[attr-defined]
    return str(format_helpers._format_callback_source(callback, args))  # type: ignore[attr-defined]


def extract_stack(frame: Any) -> traceback.StackSummary:
    """The user's stack at and above ``frame``: ``asyncio.constants.DEBUG_STACK_DEPTH`` entries.

    Our own frames are left out: uncompiled there are some, compiled there are none.
    """
    while frame is not None and frame.f_globals.get("__name__", "").startswith("clearway."):
        frame = frame.f_back
    stack = traceback.StackSummary.extract(
        traceback.walk_stack(frame), limit=constants.DEBUG_STACK_DEPTH, lookup_lines=False
    )
    stack.reverse()
    return stack
