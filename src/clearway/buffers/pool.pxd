cimport cython

from clearway.buffers.account cimport Account
from clearway.buffers.lease cimport Lease, Memory

cdef class Block(Memory):
    @cython.locals(pool=Pool)
    cpdef object idle(self)

cdef class Pool:
    cdef readonly str name
    cdef readonly Py_ssize_t block_size
    cdef readonly Py_ssize_t blocks
    cdef readonly Py_ssize_t alignment
    cdef readonly Account account
    cdef readonly bint closed
    cdef Py_ssize_t _lent
    cdef Py_ssize_t _peak
    cdef unsigned long long _takes
    cdef unsigned long long _waits
    cdef object _waiters
    cdef list _free
    cdef object __weakref__
    cpdef Lease take_nowait(self)
    @cython.locals(block=Block)
    cdef Lease _lend(self)
    cdef object _put(self, Block block)
    cdef object _serve(self)
