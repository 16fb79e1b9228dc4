# cython: language_level=3
cdef unsigned long _active_thread

cdef class RLock:
    cdef object __weakref__
    cdef object _block
    cdef unsigned long _owner
    cdef unsigned long long _step
    cdef long _count
    cdef bint _is_of(self, unsigned long long step)

cdef class Lock:
    cdef object __weakref__
    cdef object _block
    cdef unsigned long _owner
    cdef unsigned long long _step
