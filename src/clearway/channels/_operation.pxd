cdef class Operation:
    cdef public object future
    cdef public object result
    cdef public int state
    # What subclasses need: here, so that all have one size and the free list serves them.
    cdef public object channel
    cdef public object message
    cdef public object source
    cdef public Py_ssize_t limit
    cdef public bint flag
    cpdef bint start(self) except -1
    cpdef object resume(self)
    cpdef object abandon(self)
    cpdef object suspend(self)
    cpdef object grant(self)
    cpdef bint is_waiting(self)
