# cython: language_level=3
from libc.stdint cimport int64_t, uint64_t

from clearway.scheduler.slices cimport Slices


cdef class Scheduler(Slices):
    cdef int64_t _retry_ns
    cdef uint64_t _declined_word
    cdef public int last_rule
    cdef public object last_detail
    cdef public long lent
    cdef public long reports
    cdef public list declined
