"""Locks that know which *step* owns them.

``threading.RLock`` belongs to a thread. Two steps of one loop share their thread, so once a step can be
suspended inside ``with rlock:`` the next one walks in as if it were the owner. In mode "on" the locks made by
``threading.RLock()`` (``Condition()`` included) are therefore this module's; those made earlier are covered
by rule U8.

A step that must wait blocks in the underlying lock like any other blocked step: the monitor interrupts it,
the holder gets its slice and releases, the waiter goes on. ``about_to_wait`` only makes that quick.
"""

from __future__ import annotations

import functools
import threading
from _thread import allocate_lock, get_ident
from typing import Any

# The scheduler in mode "on" or "io", of which there is one: it lives in the main thread.
_active: Any = None
_active_thread = 0
_saved: list[tuple[Any, str, Any]] = []
_installations = 0


def activate(scheduler: Any) -> Any:
    """Steps of ``scheduler`` run in this thread from now on; None for no more. Returns who was before."""
    global _active, _active_thread
    old = _active
    _active = scheduler
    _active_thread = get_ident()
    return old


def install() -> bool:
    """Have ``threading.RLock()`` make locks that know their step. True if it had not been so."""
    global _installations
    _installations += 1
    if _installations > 1:
        return False
    for module, name in ((threading, "_CRLock"), (functools, "RLock")):
        if hasattr(module, name):
            _saved.append((module, name, getattr(module, name)))
            setattr(module, name, RLock)
    return True


def uninstall() -> None:
    global _installations
    _installations -= 1
    if _installations == 0:
        while _saved:
            module, name, old = _saved.pop()
            setattr(module, name, old)


def _strand(thread: int) -> int:
    if _active is not None and thread == _active_thread:
        return int(_active.strand())
    return 0


class RLock:
    """A re-entrant lock owned by a step, or by a thread where there are no steps.

    A lock that is still held when its step ends (across an ``await``) belongs to the thread, as with
    ``threading.RLock``.
    """

    def __init__(self) -> None:
        self._block = allocate_lock()
        self._owner = 0
        self._step = 0
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.RLock.acquire``."""
        thread = get_ident()
        step = _strand(thread)
        if self._owner == thread and self._is_of(step):
            self._count += 1
            return True
        if not self._block.acquire(False):
            if not blocking:
                if timeout != -1:
                    raise ValueError("can't specify a timeout for a non-blocking call")
                return False
            if step:
                _active.about_to_wait(self._step)
            if not self._block.acquire(True, timeout):
                return False
            step = _strand(thread)
        self._owner = thread
        self._step = step
        self._count = 1
        return True

    def __enter__(self) -> bool:
        return self.acquire()

    def release(self) -> None:
        """As ``threading.RLock.release``."""
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if self._count == 0:
            self._owner = 0
            self._step = 0
            self._block.release()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.release()

    def locked(self) -> bool:
        return bool(self._block.locked())

    def __repr__(self) -> str:
        state = "locked" if self._block.locked() else "unlocked"
        return (
            f"<{state} clearway RLock owner={self._owner} count={self._count} at {hex(id(self))}>"
        )

    def _is_of(self, step: int) -> bool:
        if self._step == step or self._step == 0:
            return True
        # The step that took it has ended without giving it back: it is the thread's now.
        return _active is None or not _active.strand_is_suspended(self._step)

    # What threading.Condition asks of a lock.

    def _is_owned(self) -> bool:
        thread = get_ident()
        return bool(self._owner == thread and self._is_of(_strand(thread)))

    def _recursion_count(self) -> int:
        return int(self._count) if self._is_owned() else 0

    def _release_save(self) -> Any:
        if not self._count:
            raise RuntimeError("cannot release un-acquired lock")
        state = (self._count, self._owner, self._step)
        self._count = 0
        self._owner = 0
        self._step = 0
        self._block.release()
        return state

    def _acquire_restore(self, state: Any) -> None:
        self._block.acquire()
        self._count, self._owner, self._step = state

    def _at_fork_reinit(self) -> None:
        self._block._at_fork_reinit()
        self._owner = 0
        self._step = 0
        self._count = 0


class Lock:
    """A mutual exclusion lock for synchronous code that may be suspended while it holds it.

    Like ``threading.Lock``, with two differences in mode "on": a waiter lends the holder its priority, so
    that an urgent step does not wait for an unimportant one to be chosen; and a step that would wait for
    itself gets an error instead.
    """

    def __init__(self) -> None:
        self._block = allocate_lock()
        self._owner = 0
        self._step = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False if that was not possible (within ``timeout`` seconds).

        :raises RuntimeError: this very step holds it.
        """
        thread = get_ident()
        step = _strand(thread)
        if not self._block.acquire(False):
            if not blocking:
                if timeout != -1:
                    raise ValueError("can't specify a timeout for a non-blocking call")
                return False
            if step and self._owner == thread and self._step == step and timeout < 0:
                raise RuntimeError("this step holds the lock already and would wait for itself")
            if step:
                _active.about_to_wait(self._step)
            if not self._block.acquire(True, timeout):
                return False
            step = _strand(thread)
        self._owner = thread
        self._step = step
        return True

    def __enter__(self) -> bool:
        return self.acquire()

    def release(self) -> None:
        """Give it back; any thread or step may, as with ``threading.Lock``.

        :raises RuntimeError: it is not held.
        """
        if not self._block.locked():
            raise RuntimeError("release unlocked lock")
        self._owner = 0
        self._step = 0
        self._block.release()
        if _active is not None and get_ident() == _active_thread:
            _active.waiting_is_over()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.release()

    def locked(self) -> bool:
        return bool(self._block.locked())
