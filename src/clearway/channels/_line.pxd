cimport cython

from clearway.channels._operation cimport Operation

cdef int _COMPACT_FROM

cdef class Line:
    cdef object _queue
    cdef Py_ssize_t _left
    cdef readonly Py_ssize_t size
    cpdef object add(self, Operation operation)
    @cython.locals(operation=Operation)
    cpdef Operation pop(self)
    @cython.locals(operation=Operation)
    cpdef object leave(self)
    @cython.locals(operation=Operation)
    cpdef object waiting(self)
