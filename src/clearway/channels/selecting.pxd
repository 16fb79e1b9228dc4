cimport cython

from clearway.channels.channel cimport Channel, Wait

cdef class Select(Wait):
    @cython.locals(channels=tuple, channel=Channel)
    cpdef bint start(self) except -1
    @cython.locals(channels=tuple, channel=Channel, number=Py_ssize_t, first=Py_ssize_t, offset=Py_ssize_t, ended=Py_ssize_t)
    cdef bint _try(self) except -1
    @cython.locals(source=Channel)
    cpdef object resume(self)
    @cython.locals(state=int, source=Channel)
    cpdef object abandon(self)
    @cython.locals(channels=tuple, channel=Channel)
    cpdef object source_closed(self)
    @cython.locals(channels=tuple, channel=Channel)
    cdef object _leave(self, Channel source)
