# cython: language_level=3
from libc.stdint cimport int64_t, uint64_t

from clearway.scheduler._native cimport StepClock


cdef class Runners:
    cdef object __weakref__
    cdef public StepClock clock
    # Read by the loop on every turn.
    cdef public bint has_suspended
    cdef public str mode
    cdef str _asked
    cdef str _elsewhere
    cdef public int64_t quantum_ns
    cdef public int64_t report_ns
    cdef public int64_t debug_ns
    cdef public object _host
    cdef object _root
    cdef uint64_t _root_base
    cdef object _running
    cdef list _idle
    cdef list _suspended
    cdef object _current
    cdef int _runners
    cdef bint _finished
    cdef object _failure
    cdef bint _closing
    cdef bint _arrived
    cdef object _context
    cdef object _collector
    cdef object _old_signal
    cdef object _old_receiver
    cdef object _old_active
    cdef bint _locks
    cdef bint _kicked
    cdef int64_t _slice_ns
    cdef int _flags
    cdef public long suspensions
    cdef public int64_t switch_cost_ns
