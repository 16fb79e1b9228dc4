"""``with`` blocks that change something for the whole process are critical sections in mode ``on``.

Between ``await``s a block of ``warnings.catch_warnings()`` or ``redirect_stdout()`` belongs to its step alone as
long as steps run to their end. Were the step suspended in it, others would print into its buffer, and what it puts
back at the end would undo what they have set. Not compiled: it wraps methods of classes that are written in Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

from clearway.scheduler.critical import critical

_SECTION = critical()
_OPEN = (
    "_clearway_sections"  # the attribute of a context manager with the tasks that it was entered by
)
_saved: list[tuple[type, str, Any]] = []
_installations = 0


def blocks() -> list[type]:
    """The classes of such context managers; those of ``unittest.mock`` if it has been imported."""
    found: list[type] = [
        warnings.catch_warnings,
        contextlib.redirect_stdout.__mro__[1],  # of all three streams
        contextlib.chdir,
    ]
    mock = sys.modules.get("unittest.mock")
    if mock is not None:
        found += [mock._patch, mock._patch_dict]
    return found


def install() -> None:
    """Have the step that enters one of ``blocks()`` run it as a critical section."""
    global _installations
    _installations += 1
    if _installations > 1:
        return
    for cls in blocks():
        for name, make in (("__enter__", _entering), ("__exit__", _leaving)):
            method = cls.__dict__[name]
            _saved.append((cls, name, method))
            setattr(cls, name, make(method))


def uninstall() -> None:
    """Put the methods back, when the last that installed has asked for it."""
    global _installations
    _installations -= 1
    if _installations == 0:
        while _saved:
            cls, name, method = _saved.pop()
            setattr(cls, name, method)


def _entering(enter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(enter)
    def entering(self: Any) -> Any:
        if asyncio._get_running_loop() is None:
            return enter(self)
        _SECTION.__enter__()
        try:
            value = enter(self)
            self.__dict__.setdefault(_OPEN, []).append(asyncio.current_task())
        except BaseException:
            _SECTION.__exit__(None, None, None)
            raise
        return value

    return entering


def _leaving(leave: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(leave)
    def leaving(self: Any, *error: Any) -> Any:
        try:
            return leave(self, *error)
        finally:
            # Only the task that entered it has the section: a fixture may be left by another one.
            tasks = self.__dict__.get(_OPEN)
            if tasks and asyncio._get_running_loop() is not None:
                if tasks.pop() is asyncio.current_task():
                    _SECTION.__exit__(None, None, None)

    return leaving
