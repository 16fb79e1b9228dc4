cimport cython

from clearway.steps cimport Step

cdef class Notice(Step):
    cdef public object holder
    cdef public list pieces
    cdef bint leased
    cpdef object run(self)
    cpdef object keep(self)

@cython.locals(total=Py_ssize_t, pieces=list)
cpdef object choose(list out, Py_ssize_t head, Py_ssize_t offset)

cpdef bint is_remote(int fd) except -1
