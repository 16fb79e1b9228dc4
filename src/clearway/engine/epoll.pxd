cimport cython

from clearway.buffers.lease cimport Lease, Memory
from clearway.engine.interface cimport Engine, Feed, FeedOwner, Listener, ListenerOwner, Poll, Stream, StreamOwner
from clearway.engine.watch cimport Watch, WatchTable
from clearway.kernel.sysio cimport (
    Poller, Scratch, accept_one, can_receive, check_signals, receive_into, send_list, send_some,
)
from clearway.steps cimport Step

cdef unsigned int _READABLE
cdef unsigned int _WRITABLE
cdef unsigned int _IN
cdef unsigned int _OUT
cdef unsigned int _HANGUP

cdef class EpollStream(Stream):
    cdef unsigned char can_read
    cdef unsigned char hangup
    cdef unsigned char registered
    cdef unsigned char out_armed
    cdef EpollEngine engine
    cdef Step writable_step
    cdef object notify(self, unsigned int mask)
    cdef object arm_out(self)
    @cython.locals(sent=Py_ssize_t)
    cdef object on_writable(self)
    cdef object let_go(self)
    cdef bint has_more(self)
    cpdef bint armed(self)
    cpdef object start_reading(self)
    cpdef object stop_reading(self)
    cdef object set_direct(self, bint direct)
    cpdef object receive(self)
    @cython.locals(engine=EpollEngine, block=Memory, lease=Lease, count=Py_ssize_t)
    cpdef object receive_lease(self)
    cpdef object block_returned(self, object block)
    @cython.locals(sent=Py_ssize_t, size=Py_ssize_t)
    cpdef object write_lease(self, Lease lease)
    cpdef object write_pieces(self, list pieces)
    @cython.locals(count=Py_ssize_t)
    cdef Py_ssize_t receive_into(self, object buffer) except -2
    @cython.locals(sent=Py_ssize_t, size=Py_ssize_t)
    cdef object write(self, bytes data)
    @cython.locals(sent=Py_ssize_t, chunk=bytes)
    cdef object write_many(self, list chunks)
    cpdef object flush(self)
    cpdef object wait_writable(self, Step step)
    cpdef object discard_output(self)
    cpdef object close(self)

cdef class EpollListener(Listener):
    cdef EpollEngine engine
    cdef bint registered
    cpdef object start(self)
    cpdef object stop(self)
    cpdef bint armed(self)
    cpdef int accept(self) except -2
    cpdef object close(self)

cdef class EpollFeed(Feed):
    cdef EpollEngine engine
    cdef unsigned int mask
    cdef int watched
    cdef bint duplicate
    cdef bint out_armed
    @cython.locals(engine=EpollEngine, watched=cython.int)
    cdef object register(self, unsigned int mask)
    cdef object notify(self, unsigned int mask)
    cpdef bint armed(self)
    cpdef object start(self)
    cpdef object wait_writable(self)
    cpdef object close(self)

cdef class EpollEngine(Engine):
    cdef Poller poller
    cdef Scratch scratch
    cdef WatchTable table
    cdef list holders
    cdef list blocks
    cdef Py_ssize_t lent
    cdef object remember(self, Py_ssize_t fd, object holder)
    cdef object forget(self, Py_ssize_t fd)
    cpdef Stream open_stream(self, int fd, StreamOwner owner)
    cpdef Listener open_listener(self, object sock, ListenerOwner owner)
    cpdef Feed open_feed(self, int fd, FeedOwner owner, bint read, bint once)
    cpdef bint is_taken(self, int fd)
    cpdef Poll poll(self, int fd, unsigned int mask, Step step)
    cpdef object set_reader(self, int fd, object handle)
    cpdef object set_writer(self, int fd, object handle)
    cpdef object get_reader(self, int fd)
    cpdef object get_writer(self, int fd)
    cpdef int fileno(self)
    @cython.locals(count=cython.int, index=cython.int, fd=cython.int, mask=cython.uint, size=Py_ssize_t, stream=EpollStream, feed=EpollFeed, listener=EpollListener, watch=Watch)
    cpdef int turn(self, long long timeout_ns) except -1
    cpdef object close(self)
    cpdef object abandon(self)
    cpdef Py_ssize_t inflight(self)
    cpdef Py_ssize_t leased(self)
