cimport cython

from clearway.engine.interface cimport Stream, StreamOwner
from clearway.kernel.sysio cimport close_fd, pack_addresses, run_method1
from clearway.loop.core cimport LoopCore

cdef int _READS_PER_STEP

cdef class StreamTransport(StreamOwner):
    cdef object __weakref__
    cdef public object _loop
    cdef public int _sock_fd
    # Small fields side by side, flags not as bint, which has the size of an int: there may be many thousands of these.
    cdef unsigned char _open
    cdef unsigned char _buffered
    cdef unsigned char _made
    cdef unsigned char _read_eof
    cdef unsigned char _eof_next
    cdef public bint _closing
    cdef public bint _eof
    cdef public bint _paused
    cdef public int _conn_lost
    cdef public bint _protocol_paused
    cdef object _socket
    cdef object _face
    cdef object _addresses
    cdef dict _info
    cdef public object _protocol
    cdef public object _server
    cdef Stream _stream
    cdef object _context
    cdef object _output_context
    cdef public Py_ssize_t _high_water
    cdef public Py_ssize_t _low_water
    cdef public object _empty_waiter
    cdef dict _ask(self, dict extra)
    cdef object _get_socket(self)
    cdef object _get_face(self)
    cdef object _close_socket(self)
    cpdef object context(self)
    @cython.locals(chunk=bytes)
    cpdef object write(self, object data)
    @cython.locals(count=cython.int, data=bytes, stream=Stream)
    cdef object readable(self)
    cdef object progress(self)
    cdef object broken(self, object exc)
    @cython.locals(delivered=cython.int, stream=Stream, count=Py_ssize_t)
    cdef object _fill_user_buffer(self)
    cdef object _end_reached(self, int delivered)
    cdef object _on_eof(self)
    cdef object _let_go(self)
    cdef object _written(self)
    cdef object _refuse(self, str method)
    cdef bint _count_lost_write(self) except -1
