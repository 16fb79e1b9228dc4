cimport cython

from clearway.engine.interface cimport Engine, Poll
from clearway.kernel.sysio cimport monotonic, receive_some
from clearway.scheduler._native cimport StepClock
from clearway.scheduler.preemption cimport Scheduler
from clearway.steps cimport Handle, Step
from clearway.timers.heap cimport TimerHandle, TimerHeap

cdef class LoopCore:
    cdef object __weakref__
    cdef public list _steps
    cdef public Py_ssize_t _head
    cdef Py_ssize_t _behind
    cdef bint _hurried
    cdef public unsigned long long _epoch
    cdef public Engine _engine
    cdef public Scheduler _scheduler
    cdef StepClock _clock
    cdef list _held
    cdef public TimerHeap _timers
    cdef public object _thread_id
    cdef public bint _stopping
    cdef public bint _closed
    cdef public bint _debug
    cdef public bint _sleeping
    cdef public int _signal_fd
    cdef public bint _forked
    cdef public unsigned long long _turns
    cdef public unsigned long long _inline_step
    cdef public int _inline_count
    cdef double _inline_since
    cpdef double time(self)
    cpdef object _refuse(self)
    cdef Handle _soon(self, object callback, tuple args, object context)
    cdef TimerHandle _at(self, double when, object callback, tuple args, object context)
    @cython.locals(timeout_ns=cython.longlong, timers=TimerHeap, wait_s=cython.double, scheduler=Scheduler, older=Py_ssize_t)
    cpdef object _run_once(self)
    @cython.locals(timers=TimerHeap, now=cython.double, timer=TimerHandle)
    cdef object _expire_timers(self)
    @cython.locals(ready=Py_ssize_t)
    cdef object _note_arrivals(self, Py_ssize_t older)
    @cython.locals(hurried=bint)
    cpdef bint _set_hurry(self) except -1
    cdef object _trim(self)
    @cython.locals(older=Py_ssize_t)
    cpdef bint arrivals_wait(self) except -1
    @cython.locals(clock=StepClock)
    cdef object _run_ready(self)
    @cython.locals(steps=list, end=Py_ssize_t, step=Step, epoch=cython.ulonglong, clock=StepClock)
    cdef object _run_pass(self)
    @cython.locals(steps=list, end=Py_ssize_t, step=Step, epoch=cython.ulonglong, clock=StepClock, start=cython.double, took=cython.double)
    cdef object _run_pass_debug(self)
    cdef bint _hold_back(self, Step step) except -1
    cdef bint _cancels_suspended(self, Step step) except -1
    cdef object _release_held(self)
    cpdef bint _hold(self, Step step) except -1
    @cython.locals(scheduler=Scheduler)
    cpdef object run_turns(self)
    @cython.locals(data=bytes)
    cpdef object drain_wakeups(self)
    cpdef bint _over_budget(self)
