# cython: language_level=3
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

cdef extern from "clock.h" nogil:
    ctypedef struct cw_critical:
        int depth
        int64_t since_ns
        int64_t maximum_ns
    ctypedef struct cw_clock:
        uint64_t word
        cw_critical *critical
        uint32_t parked
        int64_t deadline_ns
        int64_t alarm_ns
        int64_t quantum_ns
        int64_t hurry_ns
        int64_t report_ns
        int mode
        int engine_fd
        uint64_t kick_word
        int64_t kick_ns
        uint64_t kicks_soft
        uint64_t kicks_hard
        uint64_t overruns
        uint64_t ticks
        uint64_t stall_word
        int64_t stall_since_ns
        int only_still
        int registered
    void cw_plan(cw_clock *, int64_t, int)
    int CW_PLAN_WATCH
    int CW_PLAN_WAITS
    int64_t cw_now()
    int64_t cw_now_coarse()


cpdef void enter_section(int64_t maximum_ns) noexcept
cpdef int64_t leave_section() noexcept


cdef class StepClock:
    # `c.word` is the step counter: the loop's one plain store per step.
    cdef cw_clock *c
    cdef void unpark_now(self) noexcept
    # The kick has been dealt with: from now on another one is passed on. Without this, when the handler returns.
    cdef void answered(self) noexcept
    cdef inline void unpark_if_parked(self) noexcept:
        """Call on every idle -> running edge, after the store to `c.word`."""
        if self.c.parked:
            self.unpark_now()

    cdef inline void plan_slice(self, int64_t due_ns, int flags) noexcept:
        cw_plan(self.c, due_ns, flags)
