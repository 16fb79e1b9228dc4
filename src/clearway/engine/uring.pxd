from libc.stdint cimport uint32_t, uint64_t

from clearway.buffers.lease cimport Lease, Memory
from clearway.engine.interface cimport Engine, Feed, FeedOwner, Listener, ListenerOwner, Poll, Stream, StreamOwner
from clearway.engine.operations cimport FileOperation
from clearway.engine.watch cimport WatchTable
from clearway.engine.zero_copy cimport Notice
from clearway.kernel.sysio cimport Poller
from clearway.kernel.uring cimport cw_cqe, cw_pool, cw_ring, cw_sqe, iovec, msghdr
from clearway.steps cimport Step

cdef struct SendBlock:
    msghdr header
    iovec vectors[64]
    void* notice               # borrowed: the Notice of the zero-copy send that is under way

cdef class Slot(Memory):
    cdef UringStream stream    # who lent it, while it is lent
    cdef uint32_t bid
    cpdef object idle(self)

cdef class UringStream(Stream):
    # As in Stream: flags first, beside those it ends with.
    cdef unsigned char recv_armed    # a multishot receive is in flight
    cdef unsigned char poll_armed    # a one-shot poll for a direct reader is in flight
    cdef unsigned char rearm_queued
    cdef unsigned char stopping      # the multishot receive is being cancelled: enough waits for a reader who does not come
    cdef unsigned char direct        # the reader receives into its own memory
    cdef unsigned char can_read      # direct: a receive is worth trying
    cdef unsigned char eof
    cdef unsigned char send_state
    cdef unsigned char dirty_queued
    cdef unsigned char zero_copy     # ZERO_COPY_...
    cdef int flying                  # operations of this stream that the kernel holds
    cdef int recv_errno
    cdef int send_errno
    cdef uint32_t inbox_head
    cdef uint32_t inbox_count
    cdef uint32_t inbox_size
    cdef uint32_t* inbox             # pairs (buffer id, length)
    cdef uint32_t[2] first           # where the inbox begins: more than one pair is rare
    cdef UringEngine engine
    cdef Py_ssize_t sent_now         # bytes of the send that is under way
    cdef SendBlock* block
    cdef Poll writable               # somebody who writes past the stream waits for room
    cdef list kept                   # what was received when reading stopped; None for nothing
    cdef int push(self, uint32_t bid, uint32_t length) except -1
    cdef object take(self)
    cdef object keep(self)
    cdef object note_taken(self)
    cdef Py_ssize_t waiting(self)
    cdef bint is_full(self)
    cdef bint offer(self) except -1
    cdef object drop_inbox(self)
    cdef object want(self)
    cdef object arm(self)
    cdef object mark_dirty(self)
    cdef object prepare_send(self)
    cdef object prepare_later(self)
    cdef bint prepare_zero_copy(self) except -1
    cdef bint may_zero_copy(self) except -1
    cdef uint64_t send_data(self)
    cdef Py_ssize_t fill_block(self, Py_ssize_t pieces) except -1
    cdef object on_receive(self, int res, uint32_t flags)
    cdef object on_poll(self, int res)
    cdef object on_send(self, int res)
    cdef object settle(self)
    cdef bint send_flying(self)
    cdef object moved(self)
    cdef bint submitted(self, int tag)

cdef class UringListener(Listener):
    cdef UringEngine engine
    cdef bint armed
    cdef bint rearm_queued
    cdef list fds
    cdef int error
    cdef object want(self)
    cdef object arm(self)
    cdef object on_accept(self, int res, uint32_t flags)

cdef class UringPoll(Poll):
    cdef UringEngine engine
    cdef int fd
    cdef unsigned int mask
    cdef bint armed
    cdef object arm(self)

cdef class UringFeed(Feed):
    cdef UringEngine engine
    cdef unsigned int mask
    cdef bint once
    cdef bint armed
    cdef bint rearm_queued
    cdef Poll out_poll
    cdef object want(self)
    cdef object arm(self)
    cdef object on_poll(self, int res, uint32_t flags)

cdef class FeedRoomStep(Step):
    cdef UringFeed feed
    cpdef object context(self)

cdef class UringEngine(Engine):
    cdef cw_ring ring
    cdef cw_pool pool
    cdef uint32_t sq_entries   # see sizes.py
    cdef uint32_t cq_entries
    cdef uint32_t pool_entries
    cdef uint32_t pool_step
    cdef bint enabled
    cdef bint attached
    cdef bint lone             # the next write may go out at once: there is nothing to batch it with
    cdef bint must_settle      # somebody waits to hear of a send that may end without a completion
    cdef bint broken_sends     # the kernel's silent sends failed the self-test: send by system call
    cdef public bint zero_copy_local   # tests: zero-copy sends within the machine too, which the kernel copies
    cdef readonly unsigned long long zero_copy_sends
    cdef readonly unsigned long long zero_copy_copied
    cdef unsigned long thread
    cdef set live              # whatever has operations in flight: user_data points to these
    cdef list rearm
    cdef list dirty
    cdef list sending
    cdef bint buffers_returned
    cdef bint exhausted        # there was no buffer left for a receive
    cdef list slots            # by buffer id: what is lent
    cdef uint32_t lent         # buffers that readers hold
    cdef set lenders           # streams that hand out leases
    cdef object relieve(self)
    cdef Slot slot(self, uint32_t bid)
    cdef WatchTable table
    cdef Poller nested
    cdef bint nested_armed
    cdef bint wake_armed
    cdef uint64_t wake_value
    cdef bint workers_capped
    cdef readonly Py_ssize_t operations   # file operations that the kernel holds
    cdef list lost                        # those of a ring that went away before they were over
    cdef readonly unsigned long long enters
    cdef readonly unsigned long long early_submissions  # the submission queue was full before the turn's end
    cdef readonly unsigned long long overflows          # the completion queue was full
    cdef readonly unsigned long long starvations        # all receive buffers were out
    cdef readonly uint32_t features
    cdef object build(self)
    cdef object rebuild(self)
    cdef bint try_silent_sends(self) except -1
    cdef bint has_zero_copy(self) except -1
    cdef object on_zero_copy(self, Notice notice, int res, uint32_t flags)
    cdef object finish_sends(self)
    cdef object finish_operations(self)
    cdef object lose_operation(self, FileOperation operation)
    cdef bint holds(self, object holder, uint64_t data)
    cdef WatchTable watches(self)
    cdef cw_sqe* sqe(self) except NULL
    cdef object prepare(self)
    cdef object arm_others(self)
    cdef int submit(self, bint wait, long long timeout_ns) except -1
    cdef int reap(self) except -1
    cdef int dispatch(self, cw_cqe* cqe) except -1
    cdef object settle_sends(self)
    cdef object cancel_now(self, object holder, uint64_t data)
    cdef object own(self)
    cdef object open_pool(self)
    cdef object give_back(self, uint32_t bid)
