from clearway.engine.interface cimport Listener, ListenerOwner
from clearway.loop.transports.stream cimport StreamTransport

cdef class Acceptor(ListenerOwner):
    cdef object _loop
    cdef object _protocol_factory
    cdef readonly object _sock
    cdef object _sslcontext
    cdef object _server
    cdef Py_ssize_t _backlog
    cdef dict _ssl_options
    cdef object _family
    cdef object _kind
    cdef object _proto
    cdef Listener _listener
    cdef object _retry
    cdef object _context
    cpdef object start(self)
    cpdef object stop(self)
    cdef object acceptable(self)
    cdef object _exhausted(self, object exc)
    cdef object _connect(self, int fd)
