"""Whether steps can be suspended here, and if not why not."""

from __future__ import annotations

import sys
import threading

from clearway.scheduler import _native


def is_compiled() -> bool:
    """Is the native half there? Its stand-in is an ordinary Python file."""
    return not str(_native.__file__).endswith(".py")


def refusal(mode: str) -> str | None:
    """Why this interpreter or thread cannot run ``mode``; None when it can."""
    if mode in ("off", "report"):
        return None
    if hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
        return "the free-threaded build holds a critical section for a whole step"
    if sys.implementation.name != "cpython":
        return "only CPython runs signal handlers between two bytecodes"
    if not is_compiled():
        return (
            "clearway was installed without its compiled modules (CLEARWAY_SKIP_CYTHON); "
            "reinstall with a C compiler, or use preempt='report'"
        )
    return refusal_of_thread(mode)


def refusal_of_thread(mode: str) -> str | None:
    """Why ``mode`` cannot run in this thread but could in the main thread; None when it can."""
    if mode in ("io", "on") and threading.current_thread() is not threading.main_thread():
        return (
            "Python runs signal handlers in the main thread only; run the loop there, "
            "or use preempt='report' in this thread"
        )
    return None
