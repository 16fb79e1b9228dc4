"""Leases: reference-counted windows on memory, the currency in which buffers change hands.

The problem. Zero-copy means that several parties look at the same bytes: the kernel that still sends them, a task
that parses them, a channel that passes them on. The memory belongs to a pool or to a ring of the kernel and must
go back there exactly once, after the last of them is done, and nobody may look at it afterwards.

A ``Memory`` is a piece of memory that somebody lends; it counts the leases on it and is told (``idle``) when the
last has let go. A ``Lease`` is one holder's window on it. Slices and ``share()`` make further leases on the same
memory; ``retain()`` lets one lease be released once more. A released lease answers ``ValueError`` to everything.

``lease.py`` beside this file is the same in ordinary Python, for installations where nothing is compiled; both must
change together.
"""
import os
import sys
import traceback
import warnings

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memchr

from clearway.buffers.account cimport Account

cdef extern from *:
    """
    #define _GNU_SOURCE 1
    #include <string.h>
    """
    void* memmem(const void* haystack, size_t size, const void* needle, size_t needle_size) nogil

cdef enum:
    # Frames kept of where a lease was taken: enough to get out of a library and into its caller.
    TAKEN_DEPTH = 12

#: Copies made out of leases on memory that belongs to no stream or pool.
wrapped_account = Account("wrapped")

cdef bint _tracking = sys.flags.dev_mode or os.environ.get("PYTHONASYNCIODEBUG", "") not in ("", "0")
cdef char _nothing = 0


def track_leaks(bint enabled):
    """Choose whether leases remember where they were taken, so that one that is dropped can be named.

    On at start with ``-X dev`` or ``PYTHONASYNCIODEBUG``, and turned on by a loop's ``set_debug(True)``.
    """
    global _tracking
    _tracking = enabled


def is_tracking():
    """Whether leases remember where they were taken."""
    return _tracking


# Neither memory nor leases are seen by the cyclic collector: it would clear a memoryview in a circle before the
# buffer taken of it is given back, which crashes CPython, and untracked leases are cheaper. The price: an object
# that wraps itself in ``Lease.of`` and keeps that lease as an attribute is not collected.
@cython.no_gc
cdef class Memory:
    """A piece of memory that is lent: ``lend`` makes leases on it, ``idle`` hears when all are back.

    :param obj: an object with the buffer protocol, contiguous; it is held until nobody has a lease any more.
    :param scarce: whether somebody runs short when a lease on it is forgotten; leak detection looks at these.
    :raises TypeError: ``obj`` has no buffer. :raises BufferError: its memory is not contiguous.
    """

    def __init__(self, obj, *, bint scarce=False, Account account=None):
        if self._exported:
            raise RuntimeError("this memory has its buffer already")
        PyObject_GetBuffer(obj, &self._buffer, PyBUF_SIMPLE)
        self._exported = True
        self.start = <char*>self._buffer.buf
        self.size = self._buffer.len
        self.readonly = self._buffer.readonly
        self.scarce = scarce
        self.account = account

    def __dealloc__(self):
        if self._exported:
            PyBuffer_Release(&self._buffer)

    cpdef Lease lend(self, Py_ssize_t start=0, Py_ssize_t stop=-1):
        """A lease on bytes ``start`` to ``stop`` (default: the end)."""
        cdef Lease lease
        if stop < 0:
            stop = self.size
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"bytes {start} to {stop} are not within {self.size}")
        if self.start == NULL and self.size:
            raise ValueError("this memory has been given back")
        lease = Lease.__new__(Lease)
        lease.memory = self
        lease.start = self.start + start if self.start != NULL else &_nothing
        lease.length = stop - start
        lease.claims = 1
        if _tracking and self.holds == 0 and self.scarce:
            self._taken_at = traceback.extract_stack(limit=TAKEN_DEPTH)
        self.holds += 1
        return lease

    cpdef object idle(self):
        """Called once each time the last lease has let go. Here: lets go of the object."""
        self.start = NULL
        if self._exported:
            self._exported = False
            PyBuffer_Release(&self._buffer)

    cdef object drop(self):
        self.holds -= 1
        if self.holds == 0:
            self._taken_at = None
            self.idle()


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class Lease:
    """A window on memory that is on loan: it speaks the buffer protocol, and is given back by ``release()``.

    ``len(lease)`` and ``lease.nbytes`` are its bytes, ``lease[i]`` is one, ``lease[a:b]`` a further lease on the
    same memory. ``lease.view`` and ``memoryview(lease)`` give access without a copy, ``bytes(lease)`` copies, and
    the copy is counted. An empty lease is false. Used as a context manager it is released at the end of the block.

    Whoever receives a lease has to release it. One that is dropped instead goes back to its pool when it is
    collected; in debug mode (``track_leaks``) a ResourceWarning then says where it was taken.

    :ivar released: whether it was released. :ivar readonly: whether views on it are read-only.
    """

    def __init__(self):
        raise TypeError("leases come from a pool, a stream or a file; Lease.of(buffer) wraps a buffer of your own")

    @staticmethod
    def of(obj):
        """A lease on memory of your own. It is shared, not copied: leave it alone until the lease is released.

        :param obj: bytes, bytearray, memoryview, array, mmap, ndarray, ...: contiguous, of any format.
        :raises TypeError: it has no buffer. :raises BufferError: its memory is not contiguous.
        """
        return Memory(obj, account=wrapped_account).lend()

    def __dealloc__(self):
        cdef Memory memory = self.memory
        if memory is None:
            return
        taken_at = memory._taken_at if memory.holds == 1 else None
        memory.drop()
        if taken_at is not None:
            warn_leak(memory, taken_at)

    cdef object check(self):
        if self.memory is None:
            raise ValueError("the lease has been released: its memory may hold something else by now")

    @property
    def released(self):
        return self.memory is None

    @property
    def nbytes(self):
        self.check()
        return self.length

    @property
    def readonly(self):
        self.check()
        return self.memory.readonly

    @property
    def view(self):
        """A memoryview of it: release the view before the lease."""
        return memoryview(self)

    def __len__(self):
        self.check()
        return self.length

    def __repr__(self):
        if self.memory is None:
            return "<Lease released>"
        return (f"<Lease {self.length} bytes of {type(self.memory).__name__}"
                f"{f' retained={self.claims - 1}' if self.claims > 1 else ''}"
                f"{f' views={self.exports}' if self.exports else ''}>")

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        self.check()
        PyBuffer_FillInfo(buffer, self, self.start, self.length, self.memory.readonly, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.exports -= 1

    def __bytes__(self):
        self.check()
        if self.memory.account is not None:
            self.memory.account.add(0, self.length)
        return PyBytes_FromStringAndSize(self.start, self.length)

    def __getitem__(self, key):
        cdef Py_ssize_t index
        self.check()
        if isinstance(key, slice):
            start, stop, step = key.indices(self.length)
            if step != 1:
                raise ValueError("a slice of a lease has no step")
            return self.window(start, max(start, stop))
        index = key
        if index < 0:
            index += self.length
        if not 0 <= index < self.length:
            raise IndexError("lease index out of range")
        return <unsigned char>self.start[index]

    cdef Lease window(self, Py_ssize_t start, Py_ssize_t stop):
        cdef Lease lease = Lease.__new__(Lease)
        lease.memory = self.memory
        lease.start = self.start + start
        lease.length = stop - start
        lease.claims = 1
        self.memory.holds += 1
        return lease

    cpdef Lease share(self):
        """A further lease on the same bytes, for another holder, released on its own."""
        self.check()
        return self.window(0, self.length)

    cpdef Lease retain(self):
        """Let this lease be released once more before it counts as released; returns it."""
        self.check()
        self.claims += 1
        return self

    cpdef object release(self):
        """Let go. The memory goes back when nobody has a lease on it any more.

        :raises ValueError: it has been released already.
        :raises BufferError: views of it are in use; it stays as it is.
        """
        cdef Memory memory = self.memory
        self.check()
        if self.claims > 1:
            self.claims -= 1
            return
        if self.exports:
            raise BufferError(f"{self.exports} view(s) of the lease are in use: release them first")
        self.claims = 0
        self.memory = None
        self.start = &_nothing
        self.length = 0
        memory.drop()

    cpdef object truncate(self, Py_ssize_t size):
        """Keep the first ``size`` bytes, e.g. of a block that was not filled to its end.

        :raises ValueError: it has fewer. :raises BufferError: views of it are in use.
        """
        self.check()
        if not 0 <= size <= self.length:
            raise ValueError(f"cannot truncate {self.length} bytes to {size}")
        if self.exports:
            raise BufferError(f"{self.exports} view(s) of the lease are in use: release them first")
        self.length = size

    cpdef Py_ssize_t find(self, object separator, Py_ssize_t start=0, Py_ssize_t stop=-1) except -2:
        """Where ``separator`` (bytes) begins between ``start`` and ``stop`` (default: the end); -1: nowhere."""
        cdef const unsigned char[::1] needle = separator
        cdef void* found
        self.check()
        if stop < 0 or stop > self.length:
            stop = self.length
        if start < 0:
            raise ValueError("find() counts from the front: start must not be negative")
        if needle.shape[0] == 0:
            raise ValueError("an empty separator is everywhere")
        if stop - start < needle.shape[0]:
            return -1
        if needle.shape[0] == 1:
            found = memchr(self.start + start, needle[0], stop - start)
        else:
            found = memmem(self.start + start, stop - start, &needle[0], needle.shape[0])
        return -1 if found == NULL else <char*>found - self.start

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *exc):
        if self.memory is not None:
            self.release()


cdef object warn_leak(Memory memory, object taken_at):
    where = "".join(traceback.format_list(taken_at)).rstrip()
    warnings.warn(
        f"a lease on {memory.size} bytes of {type(memory).__name__} was dropped, not released; it was taken at:\n{where}",
        ResourceWarning,
        stacklevel=1,
    )
