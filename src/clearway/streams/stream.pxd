cimport cython

from clearway.buffers.account cimport Account
from clearway.buffers.lease cimport Lease
from clearway.channels._operation cimport Operation
from clearway.loop.core cimport LoopCore
from clearway.streams._body cimport Body, Front

cdef int _WAITING
cdef int _GRANTED
cdef Py_ssize_t _HIGH_WATER
cdef Py_ssize_t _LOW_WATER

cdef class ByteStream(Front):
    cdef Body _body
    cdef object _loop
    cdef LoopCore _core
    cdef Operation _receiver
    cdef bint _occupied
    cdef list _unread
    cdef bint _ended
    cdef bint _closed
    cdef bint _open
    cdef bint _eof
    cdef bint _eof_told
    cdef bint _error_told
    cdef object _input_error
    cdef object _output_error
    cdef object _senders
    cdef list _drainers
    cdef int _inline
    cpdef object receive(self)
    cpdef Lease receive_nowait(self)
    cpdef object send(self, object data)
    cpdef object send_many(self, object pieces)
    cpdef object input_ready(self)
    cpdef object output_moved(self)
    cpdef object output_failed(self, object exc)
    cpdef object _serve_senders(self)
    cdef bint _must_yield(self) except -1
    cdef object _check_receive(self)
    cdef object _check_send(self)
    cdef Lease _take(self)
    @cython.locals(lease=Lease)
    cdef object _piece(self, object data)
    cdef object _write(self, object message, bint many)
    cdef object _watch_output(self)

cdef class Receive(Operation):
    @cython.locals(stream=ByteStream)
    cpdef bint start(self) except -1
    @cython.locals(stream=ByteStream)
    cpdef object resume(self)
    @cython.locals(stream=ByteStream)
    cpdef object abandon(self)

cdef class Send(Operation):
    @cython.locals(stream=ByteStream)
    cpdef bint start(self) except -1
    @cython.locals(stream=ByteStream)
    cpdef object resume(self)
    @cython.locals(stream=ByteStream, state=int)
    cpdef object abandon(self)
