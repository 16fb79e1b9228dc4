from cpython.buffer cimport Py_buffer

from clearway.buffers.account cimport Account


cdef class Memory:
    cdef char* start            # what is lent; set by __init__, or by a subclass that owns other memory
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t holds   # leases on it that have not let go
    cdef readonly bint readonly
    cdef readonly bint scarce
    cdef public Account account
    cdef public object home     # where it goes when it is idle, if it has a home
    cdef object _taken_at
    cdef Py_buffer _buffer
    cdef bint _exported
    cpdef Lease lend(self, Py_ssize_t start=?, Py_ssize_t stop=?)
    cpdef object idle(self)
    cdef object drop(self)


cdef class Lease:
    cdef Memory memory          # None once released
    cdef char* start
    cdef Py_ssize_t length
    cdef Py_ssize_t claims
    cdef Py_ssize_t exports
    cdef Lease window(self, Py_ssize_t start, Py_ssize_t stop)
    cdef object check(self)
    cpdef Lease share(self)
    cpdef Lease retain(self)
    cpdef object release(self)
    cpdef object truncate(self, Py_ssize_t size)
    cpdef Py_ssize_t find(self, object separator, Py_ssize_t start=?, Py_ssize_t stop=?) except -2
