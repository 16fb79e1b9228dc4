cimport cython

from clearway.buffers.account cimport Account
from clearway.loop.core cimport LoopCore
from clearway.loop.transports.stream cimport StreamTransport

cdef int _UNWRAPPED
cdef int _HANDSHAKE
cdef int _WRAPPED
cdef int _FLUSHING
cdef int _SHUTDOWN
cdef int _RECORD_MAX
cdef int _SLICE
cdef int _FILLS_PER_STEP
cdef int _BIO_COPIES

cdef class TLSTransport:
    cdef object __weakref__
    cdef public LoopCore _loop
    cdef public dict _extra
    cdef public object _app_protocol
    cdef bint _buffered
    cdef object _waiter
    cdef object _lower
    cdef StreamTransport _tcp
    cdef object _sslobj
    cdef object _incoming
    cdef object _outgoing
    cdef object _incoming_write
    cdef object _outgoing_read
    cdef object _ssl_read
    cdef object _ssl_write
    cdef object _ssl_pending
    cdef Account _received
    cdef Account _sent
    cdef int _state
    cdef bint _app_made
    cdef bint _app_ended
    cdef public bint _closed
    cdef bint _discarding
    cdef bint _peer_eof
    cdef bint _read_ended
    cdef bint _delivering
    cdef int _calls
    cdef bint _controlling
    cdef bint _eof_due
    cdef object _last
    cdef bint _app_paused
    cdef bint _lower_reading_paused
    cdef bint _lower_writing_paused
    cdef public bint _protocol_paused
    cdef int _conn_lost
    cdef list _backlog
    cdef Py_ssize_t _backlog_offset
    cdef Py_ssize_t _backlog_size
    cdef Py_ssize_t _write_high
    cdef Py_ssize_t _write_low
    cdef Py_ssize_t _read_high
    cdef Py_ssize_t _read_low
    cdef double _handshake_timeout
    cdef double _shutdown_timeout
    cdef object _timer
    cdef double _began
    @cython.locals(chunk=bytes)
    cpdef object write(self, object data)
    cpdef object data_received(self, bytes data)
    cdef bint _refused(self) except -1
    cdef object _do_handshake(self)
    cdef object _handshake_failed(self, object exc)
    cdef object _handshake_done(self)
    cdef object _read(self)
    @cython.locals(want=Py_ssize_t, first=bytes, chunk=bytes, data=bytes, parts=list, ended=bint)
    cdef object _read_chunks(self)
    @cython.locals(want=Py_ssize_t, size=Py_ssize_t, offset=Py_ssize_t, count=Py_ssize_t, left=Py_ssize_t)
    cdef object _read_into(self)
    cdef object _drop_received(self)
    cdef object _peer_ended(self)
    cdef object _call_eof_received(self)
    cdef object _control_lower_reading(self)
    @cython.locals(size=Py_ssize_t, room=Py_ssize_t, count=Py_ssize_t, begin=Py_ssize_t, head=bytes)
    cdef object _encrypt(self)
    cdef object _encrypted_head(self, Py_ssize_t count)
    cdef object _flush(self)
    @cython.locals(data=bytes)
    cdef object _send(self)
    cdef object _control_app_writing(self)
    cdef object _start_shutdown(self)
    cdef object _finish_flushing(self)
    cdef object _do_shutdown(self)
    cdef object _shutdown_done(self, object exc)
    cdef object _cancel_timer(self)
