from clearway.engine.interface cimport Feed, FeedOwner

cdef class Readiness(FeedOwner):
    cdef object _loop
    cdef object _reader
    cdef object _writer
    cdef Feed _feed
    cdef object readable(self)
    cdef object writable(self)
