cimport cython

from clearway.buffers.account cimport Account
from clearway.engine.interface cimport Feed, FeedOwner
from clearway.kernel.dgram cimport Datagrams
from clearway.kernel.sysio cimport run_in_context
from clearway.loop.core cimport LoopCore

cdef Py_ssize_t _HEADER_SIZE
cdef Py_ssize_t _CORK_ENTRIES
cdef bint _SENDS_EMPTY

cdef class DatagramTransport(FeedOwner):
    cdef object __weakref__
    cdef public LoopCore _loop
    cdef public object _sock
    cdef public int _sock_fd
    cdef int _family
    cdef public dict _extra
    cdef public object _protocol
    cdef public object _address
    cdef bint _connected
    cdef public bint _closing
    cdef bint _made
    cdef public bint _paused
    cdef list _received
    cdef public int _conn_lost
    cdef public bint _protocol_paused
    cdef Py_ssize_t _high_water
    cdef Py_ssize_t _low_water
    cdef object _queue
    cdef Py_ssize_t _pending
    cdef bint _corked
    cdef int _alone
    cdef bint _cuts
    cdef unsigned long long _cork_epoch
    cdef list _out
    cdef unsigned long long _call_epoch
    cdef list _held
    cdef object _context
    cdef object _output_context
    cdef Datagrams _datagrams
    cdef Account _received_account
    cdef Account _sent_account
    cdef Feed _feed
    cpdef object context(self)
    cpdef object sendto(self, object data, object addr=*)
    @cython.locals(feed=Feed, batch=list, count=Py_ssize_t, index=Py_ssize_t)
    cdef object readable(self)
    @cython.locals(sent=cython.int)
    cdef object writable(self)
    @cython.locals(sent=cython.int)
    cdef object _send_now(self, object data, object addr)
    @cython.locals(chunk=bytes)
    cdef object _enqueue(self, object data, object addr)
    cpdef object uncork(self)
    cpdef object flush_corked(self)
    @cython.locals(start=Py_ssize_t, total=Py_ssize_t, sent=Py_ssize_t)
    cdef object _send_list(self, list out)
    @cython.locals(index=Py_ssize_t, size=Py_ssize_t)
    cdef object _enter_received(self, list batch)
    @cython.locals(index=Py_ssize_t, size=Py_ssize_t)
    cdef object _enter_sent(self, list out, Py_ssize_t start, Py_ssize_t end)
    cdef bytes _own(self, object data)
    cdef object _error_received(self, object exc)

cdef Py_ssize_t _size(object data) except -1
