cimport cython

from clearway.buffers.account cimport Account
from clearway.engine.interface cimport Feed, FeedOwner
from clearway.kernel.sysio cimport run_method1

cdef int _READ_SIZE
cdef int _READS_PER_STEP
cdef int _WRITES_AT_ONCE

cdef class PipeTransport(FeedOwner):
    cdef object __weakref__
    cdef dict __dict__         # programs put methods of their own on pipe transports
    cdef public object _loop
    cdef public object _pipe
    cdef public int _fileno
    cdef unsigned int _mode
    cdef public dict _extra
    cdef public object _protocol
    cdef public bint _closing
    cdef bint _ending
    cdef object _context
    cdef Feed _feed
    cdef Account _account
    cpdef object context(self)

cdef class ReadPipeTransport(PipeTransport):
    cdef public bint _paused
    cdef bint _made
    @cython.locals(feed=Feed, data=bytes)
    cdef object readable(self)

cdef class WritePipeTransport(PipeTransport):
    cdef int _lost_writes
    cdef public bint _protocol_paused
    cdef Py_ssize_t _high_water
    cdef Py_ssize_t _low_water
    cdef list _out
    cdef object _output_context
    cdef Py_ssize_t _pending
    @cython.locals(size=Py_ssize_t, sent=Py_ssize_t)
    cpdef object write(self, object data)
    cdef object readable(self)
    @cython.locals(out=list, sent=Py_ssize_t, taken=Py_ssize_t)
    cdef object writable(self)
