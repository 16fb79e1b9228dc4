# cython: language_level=3
from libc.stdint cimport int64_t

from clearway.scheduler.runners cimport Runners


cdef class Slices(Runners):
    cdef public object policy
    # Read by the loop on every turn.
    cdef public bint orders_ready
    cdef public bint has_domains
    cdef public bint looks_at_steps
    cdef dict _held_domains
    cdef object _open_sections
    cdef int _where
    cdef int64_t _debt_ns
    cdef int64_t _slice_began_ns
    cdef int64_t _due_ns
    cdef int64_t _fresh_since_ns
    # In the handler, and the step is not yet put aside.
    cdef bint _busy
    cdef public object on_switch
    cdef public object shuffler
    cdef public long resumes
    cdef public long interrupted
    cdef public int64_t longest_ns
    cdef public object latency
    cdef public object waited
    cdef public dict time_by_task
    cdef public dict time_by_priority
    cdef public list _interrupts
