from clearway.buffers.account cimport Account
from clearway.engine.interface cimport Stream, StreamOwner

cdef class Front:
    cdef object __weakref__
    cpdef object input_ready(self)
    cpdef object output_moved(self)
    cpdef object output_failed(self, object exc)

cdef class Body(StreamOwner):
    cdef public Front front
    cdef readonly Account received
    cdef readonly Account sent
    cpdef object start(self)
    cpdef object receive(self)
    cpdef object stop_input(self)
    cpdef object write(self, object piece)
    cpdef object write_many(self, list pieces)
    cpdef Py_ssize_t pending(self)
    cpdef object flush(self)
    cpdef object await_output(self, bint wanted)
    cpdef object end_output(self)
    cpdef object close(self)
    cpdef object abort(self)

cdef class EngineBody(Body):
    cdef object __weakref__
    cdef object _loop
    cdef object _sock
    cdef int _fd
    cdef Stream _stream
    cdef object readable(self)
    cdef object progress(self)
    cdef object broken(self, object exc)
