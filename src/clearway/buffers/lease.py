"""The stand-in for ``lease.pyx`` where nothing is compiled: the same leases in ordinary Python.

Python code can offer the buffer protocol since 3.12 (PEP 688). On 3.11 a lease could be neither viewed nor
guarded, so there it says at once that it needs the compiled modules.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from types import TracebackType
from typing import Any, overload

from clearway.buffers.account import Account

# Frames kept of where a lease was taken: enough to get out of a library and into its caller.
TAKEN_DEPTH = 12

#: Copies made out of leases on memory that belongs to no stream or pool.
wrapped_account = Account("wrapped")

_tracking = bool(sys.flags.dev_mode) or os.environ.get("PYTHONASYNCIODEBUG", "") not in ("", "0")


def track_leaks(enabled: bool) -> None:
    """Choose whether leases remember where they were taken, so that one that is dropped can be named.

    On at start with ``-X dev`` or ``PYTHONASYNCIODEBUG``, and turned on by a loop's ``set_debug(True)``.
    """
    global _tracking
    _tracking = enabled


def is_tracking() -> bool:
    """Whether leases remember where they were taken."""
    return _tracking


class Memory:
    """A piece of memory that is lent: ``lend`` makes leases on it, ``idle`` hears when all are back.

    :param obj: an object with the buffer protocol, contiguous; it is held until nobody has a lease any more.
    :param scarce: whether somebody runs short when a lease on it is forgotten; leak detection looks at these.
    :raises TypeError: ``obj`` has no buffer. :raises BufferError: its memory is not contiguous.
    :raises RuntimeError: clearway is not compiled and Python is older than 3.12.
    """

    def __init__(self, obj: Any, *, scarce: bool = False, account: Account | None = None) -> None:
        _require_buffer_protocol()
        view = memoryview(obj)
        if not view.c_contiguous:
            raise BufferError("memoryview: underlying buffer is not C-contiguous")
        self._view: memoryview | None = view.cast("B") if view.nbytes else memoryview(b"")
        self.size = view.nbytes
        self.holds = 0
        self.readonly = view.readonly
        self.scarce = scarce
        self.account = account
        # Set while it is lent only: memory at rest must not keep its home alive in a circle.
        self.home: Any = None
        self._taken_at: traceback.StackSummary | None = None

    def lend(self, start: int = 0, stop: int = -1) -> Lease:
        """A lease on bytes ``start`` to ``stop`` (default: the end)."""
        if stop < 0:
            stop = self.size
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"bytes {start} to {stop} are not within {self.size}")
        if self._view is None:
            raise ValueError("this memory has been given back")
        if _tracking and self.holds == 0 and self.scarce:
            self._taken_at = traceback.extract_stack(limit=TAKEN_DEPTH)
        return _make(self, self._view[start:stop])

    def idle(self) -> None:
        """Called once each time the last lease has let go. Here: lets go of the object."""
        if self._view is not None:
            self._view.release()
            self._view = None

    def _drop(self) -> None:
        self.holds -= 1
        if self.holds == 0:
            self._taken_at = None
            self.idle()


class Lease:
    """A window on memory that is on loan: it speaks the buffer protocol, and is given back by ``release()``.

    ``len(lease)`` and ``lease.nbytes`` are its bytes, ``lease[i]`` is one, ``lease[a:b]`` a further lease on the
    same memory. ``lease.view`` and ``memoryview(lease)`` give access without a copy, ``bytes(lease)`` copies, and
    the copy is counted. An empty lease is false. Used as a context manager it is released at the end of the block.

    Whoever receives a lease has to release it. One that is dropped instead goes back to its pool when it is
    collected; in debug mode (``track_leaks``) a ResourceWarning then says where it was taken.
    """

    __slots__ = ("_claims", "_exports", "_memory", "_window")

    _memory: Memory | None
    _window: memoryview
    _claims: int
    _exports: int

    def __init__(self) -> None:
        raise TypeError(
            "leases come from a pool, a stream or a file; Lease.of(buffer) wraps a buffer of your own"
        )

    @staticmethod
    def of(obj: Any) -> Lease:
        """A lease on memory of your own. It is shared, not copied: leave it alone until the lease is released.

        :param obj: bytes, bytearray, memoryview, array, mmap, ndarray, ...: contiguous, of any format.
        :raises TypeError: it has no buffer. :raises BufferError: its memory is not contiguous.
        """
        return Memory(obj, account=wrapped_account).lend()

    def __del__(self) -> None:
        memory = getattr(self, "_memory", None)
        if memory is None:
            return
        self._memory = None
        self._window.release()
        taken_at = memory._taken_at if memory.holds == 1 else None
        memory._drop()
        if taken_at is not None:
            where = "".join(traceback.format_list(taken_at)).rstrip()
            warnings.warn(
                f"a lease on {memory.size} bytes of {type(memory).__name__} was dropped, not released; "
                f"it was taken at:\n{where}",
                ResourceWarning,
                stacklevel=1,
            )

    def _held(self) -> Memory:
        if self._memory is None:
            raise ValueError(
                "the lease has been released: its memory may hold something else by now"
            )
        return self._memory

    @property
    def released(self) -> bool:
        """Whether it was released."""
        return self._memory is None

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        self._held()
        return len(self._window)

    @property
    def readonly(self) -> bool:
        """Whether views on it are read-only."""
        return self._held().readonly

    @property
    def view(self) -> memoryview:
        """A memoryview of it: release the view before the lease."""
        return memoryview(self)

    def __len__(self) -> int:
        self._held()
        return len(self._window)

    def __repr__(self) -> str:
        if self._memory is None:
            return "<Lease released>"
        return (
            f"<Lease {len(self._window)} bytes of {type(self._memory).__name__}"
            f"{f' retained={self._claims - 1}' if self._claims > 1 else ''}"
            f"{f' views={self._exports}' if self._exports else ''}>"
        )

    def __buffer__(self, flags: int) -> memoryview:
        self._held()
        self._exports += 1
        return self._window[:]

    def __release_buffer__(self, view: memoryview) -> None:
        self._exports -= 1
        view.release()

    def __bytes__(self) -> bytes:
        memory = self._held()
        if memory.account is not None:
            memory.account.add(0, len(self._window))
        return bytes(self._window)

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> Lease: ...
    def __getitem__(self, key: int | slice) -> int | Lease:
        memory = self._held()
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self._window))
            if step != 1:
                raise ValueError("a slice of a lease has no step")
            return _make(memory, self._window[start : max(start, stop)])
        try:
            return self._window[key]
        except IndexError:
            raise IndexError("lease index out of range") from None

    def share(self) -> Lease:
        """A further lease on the same bytes, for another holder, released on its own."""
        return _make(self._held(), self._window[:])

    def retain(self) -> Lease:
        """Let this lease be released once more before it counts as released; returns it."""
        self._held()
        self._claims += 1
        return self

    def release(self) -> None:
        """Let go. The memory goes back when nobody has a lease on it any more.

        :raises ValueError: it has been released already.
        :raises BufferError: views of it are in use; it stays as it is.
        """
        memory = self._held()
        if self._claims > 1:
            self._claims -= 1
            return
        self._refuse_views()
        self._claims = 0
        self._memory = None
        self._window.release()
        memory._drop()

    def _refuse_views(self) -> None:
        if self._exports:
            raise BufferError(
                f"{self._exports} view(s) of the lease are in use: release them first"
            )

    def truncate(self, size: int) -> None:
        """Keep the first ``size`` bytes, e.g. of a block that was not filled to its end.

        :raises ValueError: it has fewer. :raises BufferError: views of it are in use.
        """
        self._held()
        if not 0 <= size <= len(self._window):
            raise ValueError(f"cannot truncate {len(self._window)} bytes to {size}")
        self._refuse_views()
        whole = self._window
        self._window = whole[:size]
        whole.release()

    def find(self, separator: bytes, start: int = 0, stop: int = -1) -> int:
        """Where ``separator`` (bytes) begins between ``start`` and ``stop`` (default: the end); -1: nowhere."""
        self._held()
        if start < 0:
            raise ValueError("find() counts from the front: start must not be negative")
        if not len(separator):
            raise ValueError("an empty separator is everywhere")
        if stop < 0 or stop > len(self._window):
            stop = len(self._window)
        # Searching a view needs a copy in Python; the compiled module searches in place.
        return bytes(self._window[:stop]).find(separator, start)

    def __enter__(self) -> Lease:
        self._held()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._memory is not None:
            self.release()


def _require_buffer_protocol() -> None:
    if sys.version_info < (3, 12):
        raise RuntimeError(
            "leases need Python 3.12, or compiled clearway: install it with a C compiler at hand "
            "and without CLEARWAY_SKIP_CYTHON"
        )


def _make(memory: Memory, window: memoryview) -> Lease:
    lease = object.__new__(Lease)
    lease._memory = memory
    lease._window = window
    lease._claims = 1
    lease._exports = 0
    memory.holds += 1
    return lease
