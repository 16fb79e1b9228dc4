cimport cython

from clearway.buffers.account cimport Account
from clearway.buffers.lease cimport Lease
from clearway.engine.operations cimport FileOperation
from clearway.steps cimport Step

cdef unsigned int _READABLE
cdef unsigned int _WRITABLE
cdef unsigned int _SPENT

cdef class StreamOwner:
    cpdef object context(self)
    cdef object readable(self)
    cdef object progress(self)
    cdef object broken(self, object exc)

cdef class ListenerOwner:
    cdef object acceptable(self)

cdef class Stream(Step):
    # Small fields side by side, flags not as bint, which has the size of an int: there may be many thousands of these.
    cdef public int fd
    cdef unsigned int events
    cdef readonly bint reading
    cdef public bint awaited
    cdef unsigned char queued
    cdef unsigned char closed
    cdef readonly unsigned char lending
    cdef readonly unsigned short busy
    cdef readonly unsigned short lent
    cdef public unsigned int fallbacks
    cdef StreamOwner owner
    cdef list ready
    cdef public Step last
    cdef list out
    cdef Py_ssize_t out_head
    cdef Py_ssize_t out_offset
    cdef readonly Py_ssize_t pending
    cdef public Account received
    cdef public Account sent
    cdef list spent
    cpdef object run(self)
    cpdef object context(self)
    cdef object enter(self)
    cdef object leave(self)
    cdef object part(self)
    cdef object queue(self, unsigned int events)
    cpdef object again(self)
    cpdef object announce_progress(self)
    cdef object let_go(self)
    @cython.locals(out=list, head=Py_ssize_t, total=Py_ssize_t, size=Py_ssize_t, chunk=bytes)
    cdef object take_out(self, Py_ssize_t count)
    @cython.locals(out=list)
    cdef object clear_out(self)
    cdef list output(self)
    cdef object retire(self, object piece)
    cpdef object release_spent(self)
    cpdef object start_lending(self)
    cpdef object receive_lease(self)
    cpdef object write_lease(self, Lease lease)
    cpdef object write_pieces(self, list pieces)
    cdef object on_writable(self)
    cdef bint has_more(self)
    cpdef object start_reading(self)
    cpdef object stop_reading(self)
    cdef object set_direct(self, bint direct)
    cpdef object receive(self)
    cpdef object take_received(self)
    cdef Py_ssize_t receive_into(self, object buffer) except -2
    cdef object write(self, bytes data)
    cdef object write_many(self, list chunks)
    cpdef object flush(self)
    cpdef object wait_writable(self, Step step)
    cpdef object discard_output(self)
    cpdef object close(self)

cdef class Listener(Step):
    cdef readonly object sock
    cdef readonly int fd
    cdef ListenerOwner owner
    cdef list ready
    cdef bint queued
    cdef bint busy
    cdef bint listening
    cpdef object run(self)
    cdef object queue(self)
    cpdef object start(self)
    cpdef object stop(self)
    cpdef int accept(self) except -2
    cpdef object close(self)

cdef class FeedOwner:
    cpdef object context(self)
    cdef object readable(self)
    cdef object writable(self)

cdef class Feed(Step):
    cdef readonly int fd
    cdef FeedOwner owner
    cdef list ready
    cdef readonly bint reading
    cdef public bint can_read
    cdef bint queued
    cdef readonly int busy
    cdef bint closed
    cdef unsigned int events
    cdef public Step last
    cpdef object run(self)
    cpdef object context(self)
    cdef object enter(self)
    cdef object leave(self)
    cdef object queue(self, unsigned int events)
    cdef object rest(self)
    cpdef object start(self)
    cpdef object stop(self)
    cpdef object wait_writable(self)
    cpdef object close(self)

cdef class Poll(Step):
    cdef Step step
    cdef list ready
    cdef public bint done
    cpdef object run(self)
    cpdef object cancel(self)

cdef class Engine:
    cdef public list ready
    cdef readonly int wake_fd
    cdef readonly unsigned long long waits
    cdef readonly unsigned long long completions
    cdef readonly Account received
    cdef readonly Account sent
    cpdef Stream open_stream(self, int fd, StreamOwner owner)
    cpdef Listener open_listener(self, object sock, ListenerOwner owner)
    cpdef Feed open_feed(self, int fd, FeedOwner owner, bint read, bint once)
    cpdef Poll poll(self, int fd, unsigned int mask, Step step)
    cpdef bint submit_operation(self, FileOperation operation) except -1
    cpdef object cancel_operation(self, FileOperation operation)
    cpdef object set_reader(self, int fd, object handle)
    cpdef object set_writer(self, int fd, object handle)
    cpdef object get_reader(self, int fd)
    cpdef object get_writer(self, int fd)
    cpdef int fileno(self)
    cpdef int turn(self, long long timeout_ns) except -1
    cpdef object flush(self)
    cpdef object wake(self)
    cpdef object attach(self)
    cpdef object detach(self)
    cpdef object close(self)
    cpdef object abandon(self)
    cpdef Py_ssize_t inflight(self)
    cpdef Py_ssize_t leased(self)
