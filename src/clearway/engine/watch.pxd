cimport cython

from clearway.engine.interface cimport Poll
from clearway.kernel.sysio cimport Poller
from clearway.steps cimport Step

cdef class WatchStep(Step):
    cdef Watch watch
    cdef object handle
    cdef unsigned int mask
    cdef bint queued
    cdef bint busy
    cdef bint masked
    cpdef object run(self)
    cpdef object context(self)

cdef class WatchPoll(Poll):
    cdef Watch watch
    cdef unsigned int mask
    cpdef object cancel(self)

cdef class Watch:
    cdef WatchTable table
    cdef int fd
    cdef unsigned int mask
    cdef WatchStep reader
    cdef WatchStep writer
    cdef list polls
    @cython.locals(poll=WatchPoll, mask=cython.uint, before=cython.uint, poller=Poller, idle=cython.bint)
    cdef object update(self)
    @cython.locals(poll=WatchPoll, left=list, wanted=cython.uint)
    cdef object fire(self, unsigned int mask)
    cdef object offer(self, WatchStep step)

cdef class WatchTable:
    cdef Poller poller
    cdef list ready
    cdef readonly dict watches
    @cython.locals(watch=Watch)
    cdef Watch get(self, int fd)
    @cython.locals(watch=Watch, step=WatchStep, old=WatchStep)
    cdef object set_step(self, int fd, unsigned int mask, object handle)
    @cython.locals(watch=Watch, step=WatchStep)
    cdef object get_handle(self, int fd, unsigned int mask)
    @cython.locals(watch=Watch, poll=WatchPoll)
    cdef Poll poll(self, int fd, unsigned int mask, Step step)
    @cython.locals(watch=Watch, count=cython.int, index=cython.int)
    cdef int reap(self, long long timeout_ns) except -1
