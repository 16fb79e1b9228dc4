"""Reading and writing files: what is in the page cache at once, the rest without the GIL.

``fileio.py`` beside this file is the same interface in ordinary Python: it stands in where nothing is compiled.

preadv2(2) with RWF_NOWAIT returns what it can without waiting for a disk: a read of cached data costs one system
call on the spot, several times less than any hand-over to a thread or a ring. It is made with the GIL held: giving
that up and taking it back costs as much as the call, and callers limit how much they ask for.
"""
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.string cimport memcpy
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOSYS, EOPNOTSUPP, errno

from clearway.kernel.uring cimport (
    CW_OP_FSYNC, CW_OP_LINKAT, CW_OP_MKDIRAT, CW_OP_OPENAT, CW_OP_READ, CW_OP_RENAMEAT,
    CW_OP_SYMLINKAT, CW_OP_UNLINKAT, CW_OP_WRITE,
)

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int, const iovec*, int, long long, int)
    ssize_t pwritev2(int, const iovec*, int, long long, int)
    enum: RWF_NOWAIT
    ssize_t c_read "read"(int, void*, size_t)
    ssize_t c_write "write"(int, const void*, size_t)
    ssize_t c_pread "pread"(int, void*, size_t, long long)
    ssize_t c_pwrite "pwrite"(int, const void*, size_t, long long)

cdef extern from "Python.h":
    PyObject* PyErr_SetFromErrno(object)
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1
    PyObject* raw_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    char* raw_address "PyBytes_AS_STRING"(PyObject*)
    void Py_DECREF(PyObject*)

#: Operations of the ring, by their numbers in the kernel's interface.
READ = CW_OP_READ
WRITE = CW_OP_WRITE
FSYNC = CW_OP_FSYNC
OPENAT = CW_OP_OPENAT
RENAMEAT = CW_OP_RENAMEAT
UNLINKAT = CW_OP_UNLINKAT
MKDIRAT = CW_OP_MKDIRAT
SYMLINKAT = CW_OP_SYMLINKAT
LINKAT = CW_OP_LINKAT

#: What ``read_now`` and ``write_now`` say where no byte can be moved without waiting, and where the file system
#: has no way to say.
WOULD_WAIT = -1
NO_WAY = -2


cdef int _fail() except -3:
    PyErr_SetFromErrno(OSError)
    return -3


cdef class Block:
    """Memory that a read fills or a write takes from; it stays where it is as long as this object lives.

    Made by ``Block.fresh``, ``Block.into`` and ``Block.of``.

    :ivar size: bytes.
    :ivar pins: operations in flight that use it.
    """

    @staticmethod
    def fresh(Py_ssize_t size):
        """New memory that becomes a bytes object by ``finish``, without a copy."""
        cdef Block self = Block.__new__(Block)
        if size < 0:
            raise ValueError("negative size")
        cdef PyObject* raw = raw_bytes(NULL, max(size, 1))
        self.raw = raw
        self.memory = raw_address(raw)
        self.size = size
        return self

    @staticmethod
    def into(buffer):
        """The caller's own memory, to be filled. It cannot be resized meanwhile.

        :raises BufferError: it is read-only or not contiguous.
        """
        return _export(buffer, PyBUF_WRITABLE)

    @staticmethod
    def of(data):
        """The caller's own memory, to be written."""
        return _export(data, PyBUF_SIMPLE)

    def __dealloc__(self):
        if self.view != NULL:
            PyBuffer_Release(<Py_buffer*>self.view)
            PyMem_Free(self.view)
        if self.raw != NULL:
            Py_DECREF(<PyObject*>self.raw)

    @property
    def address(self):
        """Where the memory begins."""
        return <size_t>self.memory

    cdef int check(self, Py_ssize_t start, Py_ssize_t length) except -1:
        if start < 0 or length < 0 or start > self.size - length:
            raise IndexError(f"{length} bytes from {start} on are not within {self.size} bytes")
        return 0

    cpdef Py_ssize_t read_now(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except -3:
        """Fill [start:start + length] from ``offset`` of the file with what is cached.

        :returns: the count, 0 at the end of the file; WOULD_WAIT; NO_WAY.
        :raises OSError: reading fails.
        """
        cdef iovec vector
        cdef ssize_t n
        self.check(start, length)
        vector.iov_base = self.memory + start
        vector.iov_len = length
        while True:
            n = preadv2(fd, &vector, 1, offset, RWF_NOWAIT)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return WOULD_WAIT_
            if errno == EOPNOTSUPP or errno == ENOSYS or errno == EINVAL:
                return NO_WAY_
            if errno != EINTR:
                _fail()

    cpdef Py_ssize_t write_now(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except -3:
        """Write [start:start + length] at ``offset`` as far as that needs no waiting; as ``read_now``."""
        cdef iovec vector
        cdef ssize_t n
        self.check(start, length)
        vector.iov_base = self.memory + start
        vector.iov_len = length
        while True:
            n = pwritev2(fd, &vector, 1, offset, RWF_NOWAIT)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return WOULD_WAIT_
            if errno == EOPNOTSUPP or errno == ENOSYS or errno == EINVAL:
                return NO_WAY_
            if errno != EINTR:
                _fail()

    cpdef Py_ssize_t read(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except? -1:
        """Fill [start:start + length], waiting for the disk without the GIL: the count, or minus the errno.

        :param offset: negative: at the descriptor's own position.
        """
        cdef ssize_t n
        cdef char* to = self.memory + start
        self.check(start, length)
        with nogil:
            while True:
                n = c_read(fd, to, length) if offset < 0 else c_pread(fd, to, length, offset)
                if n < 0:
                    n = -errno
                if n != -EINTR:
                    break
        return n

    cpdef Py_ssize_t write(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except? -1:
        """Write [start:start + length] without the GIL; as ``read``."""
        cdef ssize_t n
        cdef char* source = self.memory + start
        self.check(start, length)
        with nogil:
            while True:
                n = c_write(fd, source, length) if offset < 0 else c_pwrite(fd, source, length, offset)
                if n < 0:
                    n = -errno
                if n != -EINTR:
                    break
        return n

    cpdef object release(self):
        """Give the caller's memory back now, unless an operation has it: then when this object goes."""
        if self.view != NULL and self.pins == 0:
            self.memory = NULL
            self.size = 0
            PyBuffer_Release(<Py_buffer*>self.view)
            PyMem_Free(self.view)
            self.view = NULL

    cpdef object copy(self, Py_ssize_t start, Block source, Py_ssize_t source_start, Py_ssize_t length):
        """Copy ``length`` bytes of ``source`` to ``start``."""
        self.check(start, length)
        source.check(source_start, length)
        memcpy(self.memory + start, source.memory + source_start, length)

    cpdef bytes finish(self, Py_ssize_t count):
        """The first ``count`` bytes of fresh memory as a bytes object; the block is empty after that."""
        cdef PyObject* raw = <PyObject*>self.raw
        if raw == NULL:
            raise ValueError("only fresh memory becomes a bytes object, and only once")
        self.check(0, count)
        self.raw = NULL
        self.memory = NULL
        self.size = 0
        return _shrunk(raw, count)


cdef Py_ssize_t WOULD_WAIT_ = WOULD_WAIT
cdef Py_ssize_t NO_WAY_ = NO_WAY


cdef object _export(object buffer, int flags):
    cdef Block self = Block.__new__(Block)
    cdef Py_buffer* view = <Py_buffer*>PyMem_Malloc(sizeof(Py_buffer))
    if view == NULL:
        raise MemoryError()
    try:
        PyObject_GetBuffer(buffer, view, flags)
    except BaseException:
        PyMem_Free(view)
        raise
    self.view = view
    self.memory = <char*>view.buf
    self.size = view.len
    return self


cdef bytes _shrunk(PyObject* raw, Py_ssize_t count):
    """A bytes object of the first ``count`` bytes of ``raw``, whose reference is taken over."""
    if count == 0:
        Py_DECREF(raw)
        return b""
    _PyBytes_Resize(&raw, count)
    result = <bytes><object>raw
    Py_DECREF(raw)
    return result


cpdef object pread_now(int fd, Py_ssize_t size, long long offset):
    """``size`` bytes from ``offset`` of a file if they are all cached, else None.

    :raises OSError: reading fails.
    """
    cdef iovec vector
    cdef ssize_t n
    cdef PyObject* raw
    if size <= 0:
        return b"" if size == 0 else None
    raw = raw_bytes(NULL, size)
    vector.iov_base = raw_address(raw)
    vector.iov_len = size
    n = preadv2(fd, &vector, 1, offset, RWF_NOWAIT)
    if n == size:
        result = <object>raw
        Py_DECREF(raw)
        return result
    if n == 0:
        Py_DECREF(raw)
        return b""
    if n > 0:
        # The end of the file, or of what is cached: nothing behind it says which.
        vector.iov_base = raw_address(raw) + n
        vector.iov_len = size - n
        if preadv2(fd, &vector, 1, offset + n, RWF_NOWAIT) == 0:
            return _shrunk(raw, n)
        Py_DECREF(raw)
        return None
    Py_DECREF(raw)
    if errno == EAGAIN or errno == EOPNOTSUPP or errno == ENOSYS or errno == EINVAL or errno == EINTR:
        return None
    _fail()
