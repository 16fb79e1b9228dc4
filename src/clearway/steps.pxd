from clearway.kernel.sysio cimport run_in_context

cdef class Step:
    cdef object __weakref__
    cpdef object run(self)
    cpdef object context(self)

cdef class Handle(Step):
    cdef public object _callback
    cdef public tuple _args
    cdef public object _context
    cdef public object _loop
    cdef public bint _cancelled
    cdef public object _source_traceback
    cdef public object _repr
    cpdef object run(self)
    cpdef object context(self)
    cpdef object cancel(self)

cdef class FutureStep(Step):
    cdef public object future
    cpdef object run(self)
