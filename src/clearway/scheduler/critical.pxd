# cython: language_level=3
from libc.stdint cimport int64_t

from clearway.scheduler._native cimport enter_section, leave_section


cdef class Section:
    cdef int64_t _maximum_ns
