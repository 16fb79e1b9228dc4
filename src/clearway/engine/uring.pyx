"""The io_uring engine: one system call a turn submits every operation and waits.

The problem. A server's time goes into system calls. io_uring lets one call carry all of a turn's sends and the
wait for what comes next, and a multishot receive needs no call at all: the kernel fills buffers it was provided
with and says so.

Sends. A send that is submitted waits for room and completes later, so its buffer is bound until then and each
response costs a completion. Nearly all sends of a server fit in the socket buffer at once. So they are submitted
as MSG_DONTWAIT | MSG_WAITALL with CQE_SKIP_SUCCESS: taken whole, without a completion, before ``enter`` returns,
or failed with a completion that says how far they came; MSG_WAITALL is what makes a short send a failure. Only
then the stream falls back to a send that waits. A self-test proves this on the running kernel (once a process);
where it fails, sends go out by system call and ``features()`` says so.

A turn that brought at most one completion has nothing to batch its first write with, so that one goes out at once:
the peer of a ping-pong need not wait for the end of the turn, and a broadcast is still batched.

Large immutable output to another machine is sent by zero copy: see ``clearway.engine.zero_copy``.

Lending. A stream of ``clearway.streams`` hands out the kernel's own buffers. A slot of the ring returns to it exactly
once, when the last lease on it is released; until then it is out like any other. So that readers who keep their leases
starve nobody: one stream's readers hold at most LENT_MAX slots and all together half of them, whoever takes more gets
copies (counted in ``fallbacks``); a stream whose reader does not come stops receiving when AHEAD_MAX slots wait for it; and when
the ring has run dry all the same, what waits for readers is copied out (``relieve``).

Cancelling. Multishot receives and accepts take bytes and connections out of the kernel, so stopping one means:
cancel it, wait for its terminal completion, keep what it brought. These operations are armed on a socket's wait
queue, never in a worker thread, so the wait is one ``enter``; it is done on the spot (``cancel_now``), which is
safe because reaping never calls user code.

Rejected: SQPOLL (a core burnt per loop), linked timeouts (EXT_ARG is free), receive bundles (they hold several
buffers per completion hostage), fixed files (they break ``get_extra_info("socket")`` users), submitted receives for
``sock_*`` (a cancelled one would lose data).

Threads. SINGLE_ISSUER binds a ring to the thread that enables it. Entering from another thread rebuilds the ring
there: nothing is lost, because with DEFER_TASKRUN the kernel receives only while the owner is inside ``enter``.
"""
import errno as _errno
import os
import socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from clearway.buffers.lease cimport Lease, Memory
from clearway.engine.blocks import copied_lease
from clearway.engine.interface cimport Engine, Feed, FeedOwner, Listener, ListenerOwner, Poll, Stream, StreamOwner
from clearway.engine.operations cimport FileOperation
from clearway.engine.watch cimport WatchTable
from clearway.engine.zero_copy cimport Notice, choose, is_remote
from clearway.kernel.sysio cimport Poller, check_signals, receive_into, send_list
from clearway.kernel.uring cimport *
from clearway.steps cimport Step

cdef extern from "Python.h":
    void* PyEval_SaveThread()
    void PyEval_RestoreThread(void*)
    unsigned long PyThread_get_thread_native_id()

cdef enum:
    # The low bits of user_data say which operation of the object they point to completed.
    TAG_RECV = 0
    TAG_SEND = 1
    TAG_POLL = 2        # a direct reader's poll
    TAG_ONE_SHOT = 3    # UringPoll
    TAG_ACCEPT = 4
    TAG_WAKE = 5
    TAG_NESTED = 6
    TAG_IGNORE = 7
    TAG_FEED = 8        # a feed's poll
    TAG_FILE = 9        # FileOperation
    TAG_ZERO_COPY = 10  # Notice
    TAG_MASK = 15       # Python objects are aligned to 16 bytes

    SEND_IDLE = 0       # nothing under way
    SEND_NOW = 1        # submitted; taken whole unless a completion says otherwise
    SEND_LATER = 2      # submitted; completes when there was room

    READABLE = 1        # as in interface.py
    WRITABLE = 2

    POLLIN = 0x1
    POLLRDHUP = 0x2000
    EPOLLIN = 0x1
    EPOLLOUT = 0x4

    POOL_SIZE = 16384   # bytes of a receive buffer: one completion per TLS record or HTTP request

    RECEIVE_MAX = 262144    # bytes joined into one data_received, as the epoll engine receives
    IOV_MAX = 64
    SEND_MAX = 1 << 30      # bytes of one submission (its length has 32 bits)
    AT_ONCE = 65536         # more than this pending is offered to the kernel without waiting for the turn's end
    CANCEL_TRIES = 1000

    # Kernel threads for file operations that would block, per ring. Enough to keep a disk's queue busy with
    # buffered writes, fsyncs and look-ups; direct reads and most buffered ones need none.
    FILE_WORKERS = 8

    ZERO_COPY_UNKNOWN = 0   # the stream has not had enough to send yet
    ZERO_COPY_ON = 1
    ZERO_COPY_OFF = 2       # within this machine, not TCP, refused, or copied by the kernel

from clearway.engine import sizes as _sizes
from clearway.engine import zero_copy as _zero_copy

cdef int LENT_MAX = _sizes.LENT_MAX
cdef int AHEAD_MAX = _sizes.AHEAD_MAX
cdef Py_ssize_t ZERO_COPY_MIN = _zero_copy.SEND_MIN


cdef inline char* piece_start(object piece):
    """Where a piece of output lies. It stays there as long as the piece is in the output: leases in it are ours."""
    if PyBytes_CheckExact(piece):
        return PyBytes_AS_STRING(piece)
    return (<Lease>piece).start


cdef inline Py_ssize_t piece_size(object piece):
    if PyBytes_CheckExact(piece):
        return PyBytes_GET_SIZE(piece)
    return (<Lease>piece).length


cdef inline uint64_t tagged(object holder, int tag):
    return <uint64_t><size_t><void*>holder | tag


cdef class Slot(Memory):
    """A buffer of the ring while it is lent. It holds its stream, and so the engine and the memory."""

    cpdef object idle(self):
        cdef UringStream stream = self.stream
        self.stream = None
        self.account = None
        stream.lent -= 1
        stream.engine.lent -= 1
        stream.engine.give_back(self.bid)


cdef class UringStream(Stream):
    """A stream on the io_uring engine."""

    def __cinit__(self):
        self.block = NULL
        self.inbox = self.first
        self.inbox_size = 1

    def __init__(self, int fd, StreamOwner owner, UringEngine engine):
        Stream.__init__(self, fd, owner, engine)
        self.engine = engine

    def __dealloc__(self):
        PyMem_Free(self.block)
        if self.inbox != self.first:
            PyMem_Free(self.inbox)

    def __repr__(self):
        state = ("idle", "now", "later")[self.send_state]
        return (f"<UringStream fd={self.fd} reading={self.reading} receive={'armed' if self.recv_armed else 'idle'}"
                f"{' direct' if self.direct else ''}{' poll' if self.poll_armed else ''}"
                f"{' readable' if self.can_read else ''}{' rearm' if self.rearm_queued else ''}"
                f" inbox={self.inbox_count}+{len(self.kept or ())} eof={self.eof} send={state} pending={self.pending}"
                f" awaited={self.awaited} flying={self.flying}{' queued' if self.queued else ''}"
                f"{' busy' if self.busy else ''}{' closed' if self.closed else ''}>")

    # -- receiving ---------------------------------------------------------------------------------------------

    cdef int push(self, uint32_t bid, uint32_t length) except -1:
        cdef uint32_t size, i
        if self.inbox_head + self.inbox_count == self.inbox_size:
            if self.inbox_head:
                for i in range(self.inbox_count):
                    self.inbox[2 * i] = self.inbox[2 * (self.inbox_head + i)]
                    self.inbox[2 * i + 1] = self.inbox[2 * (self.inbox_head + i) + 1]
                self.inbox_head = 0
            else:
                size = self.inbox_size * 4
                own = NULL if self.inbox == self.first else self.inbox
                grown = <uint32_t*>PyMem_Realloc(own, size * 2 * sizeof(uint32_t))
                if grown == NULL:
                    raise MemoryError()
                if own == NULL:
                    memcpy(grown, self.first, sizeof(self.first))
                self.inbox = grown
                self.inbox_size = size
        cdef uint32_t at = self.inbox_head + self.inbox_count
        self.inbox[2 * at] = bid
        self.inbox[2 * at + 1] = length
        self.inbox_count += 1
        return 0

    cdef object take(self):
        """The received buffers joined, up to RECEIVE_MAX, as one bytes object; the inbox must not be empty."""
        cdef uint32_t bid = self.inbox[2 * self.inbox_head]
        cdef uint32_t length = self.inbox[2 * self.inbox_head + 1]
        cdef uint32_t n = 1, i
        cdef Py_ssize_t total = length
        cdef char* to
        while n < self.inbox_count and total + self.inbox[2 * (self.inbox_head + n) + 1] <= RECEIVE_MAX:
            total += self.inbox[2 * (self.inbox_head + n) + 1]
            n += 1
        if n == 1:
            data = PyBytes_FromStringAndSize(cw_pool_buffer(&self.engine.pool, bid), length)
            self.engine.give_back(bid)
        else:
            data = PyBytes_FromStringAndSize(NULL, total)
            to = PyBytes_AS_STRING(data)
            for i in range(n):
                bid = self.inbox[2 * (self.inbox_head + i)]
                length = self.inbox[2 * (self.inbox_head + i) + 1]
                memcpy(to, cw_pool_buffer(&self.engine.pool, bid), length)
                to += length
                self.engine.give_back(bid)
        self.inbox_count -= n
        self.inbox_head = 0 if self.inbox_count == 0 else self.inbox_head + n
        self.received.add(total, total)
        return data

    cdef object keep(self):
        """Copy what waits in the pool's buffers out of them: their reader has stopped."""
        while self.inbox_count:
            if self.kept is None:
                self.kept = []
            self.kept.append(self.take())

    cpdef object start_lending(self):
        self.lending = True
        self.engine.lenders.add(self)

    cdef Py_ssize_t waiting(self):
        """Buffers received and not taken yet."""
        return self.inbox_count + (0 if self.kept is None else len(self.kept))

    cdef bint is_full(self):
        return self.waiting() >= AHEAD_MAX

    cdef object note_taken(self):
        """Receive again if that was stopped because too much waited, and half of it is gone."""
        if not self.recv_armed and not self.rearm_queued and self.waiting() <= AHEAD_MAX // 2:
            self.want()

    cpdef object receive_lease(self):
        cdef uint32_t bid, length
        cdef Slot slot
        if self.spent is not None:
            self.release_spent()  # this stream's, most likely: what it echoed
        if self.kept:
            data = self.kept.pop(0)
            self.note_taken()
            return copied_lease(data, self.received)
        if self.inbox_count:
            bid = self.inbox[2 * self.inbox_head]
            length = self.inbox[2 * self.inbox_head + 1]
            if self.lent >= LENT_MAX or 2 * self.engine.lent >= self.engine.pool_entries:
                data = PyBytes_FromStringAndSize(cw_pool_buffer(&self.engine.pool, bid), length)
                lease = copied_lease(data, self.received)
                self.engine.give_back(bid)
                self.fallbacks += 1
                self.received.add(length, length)
            else:
                slot = self.engine.slot(bid)
                slot.stream = self
                slot.account = self.received
                self.lent += 1
                self.engine.lent += 1
                lease = slot.lend(0, length)
                self.received.add(length, 0)
            self.inbox_count -= 1
            self.inbox_head = 0 if self.inbox_count == 0 else self.inbox_head + 1
            self.note_taken()
            return lease
        return self.receive()

    cdef object drop_inbox(self):
        cdef uint32_t i
        for i in range(self.inbox_count):
            self.engine.give_back(self.inbox[2 * (self.inbox_head + i)])
        self.inbox_head = self.inbox_count = 0

    cdef object want(self):
        """Ask for the next completion at the next submission."""
        if not self.rearm_queued:
            self.rearm_queued = True
            self.engine.rearm.append(self)

    cdef object arm(self):
        cdef cw_sqe* sqe
        if not self.reading or self.closed or self.eof or self.recv_errno:
            return
        if self.lending and self.is_full():
            if self.recv_armed and not self.stopping:
                self.stopping = True
                cw_prep_cancel(self.engine.sqe(), tagged(self, TAG_RECV), TAG_IGNORE)
            return
        if self.direct:
            if not self.poll_armed and not self.can_read:
                sqe = self.engine.sqe()
                cw_prep_poll(sqe, self.fd, POLLIN | POLLRDHUP, tagged(self, TAG_POLL))
                self.poll_armed = True
                self.flying += 1
                self.engine.live.add(self)
        elif not self.recv_armed:
            if not self.engine.pool.registered:
                self.engine.open_pool()
            sqe = self.engine.sqe()
            cw_prep_recv_multishot(sqe, self.fd, tagged(self, TAG_RECV))
            self.recv_armed = True
            self.flying += 1
            self.engine.live.add(self)

    cdef object on_receive(self, int res, uint32_t flags):
        cdef uint32_t bid
        if flags & CW_CQE_F_BUFFER:
            bid = flags >> CW_CQE_BUFFER_SHIFT
            cw_pool_take(&self.engine.pool, bid)
            if res > 0:
                self.push(bid, res)
            else:
                self.engine.give_back(bid)
        if not flags & CW_CQE_F_MORE:
            self.recv_armed = False
            self.stopping = False
            self.flying -= 1
            if not self.flying:
                self.engine.live.discard(self)
            if res == -_ENOBUFS:
                # All buffers were out. They come back as their readers run; more are provided as well.
                self.engine.starvations += 1
                if not cw_pool_grow(&self.engine.pool, max(self.engine.pool.provided, self.engine.pool_step)):
                    self.engine.exhausted = True
                self.engine.buffers_returned = True
                self.want()
            elif res == 0:
                self.eof = True
            elif res < 0:
                if res != -_ECANCELED:
                    self.recv_errno = -res
                elif self.lending:
                    self.want()  # its reader may have come meanwhile
            else:
                self.want()
        elif self.lending and not self.stopping and self.is_full():
            self.want()
        if self.reading and (res >= 0 or self.recv_errno):
            self.queue(READABLE)

    cdef object on_poll(self, int res):
        self.poll_armed = False
        self.flying -= 1
        if not self.flying:
            self.engine.live.discard(self)
        if res != -_ECANCELED:
            self.can_read = True
            if self.reading:
                self.queue(READABLE)

    cdef bint has_more(self):
        return (self.inbox_count != 0 or bool(self.kept) or self.eof or self.recv_errno != 0
                or (self.direct and self.can_read))

    cpdef object start_reading(self):
        if self.closed:
            return
        self.reading = True
        if self.has_more():
            self.queue(READABLE)
        if not self.recv_armed:
            self.want()

    cpdef object stop_reading(self):
        if not self.reading:
            return
        self.reading = False
        if self.recv_armed:
            self.engine.cancel_now(self, tagged(self, TAG_RECV))
        self.keep()

    cdef object set_direct(self, bint direct):
        self.direct = direct
        self.can_read = False  # the poll says at once if there is something

    cpdef object receive(self):
        if self.kept:
            return self.kept.pop(0)
        if self.inbox_count:
            return self.take()
        if self.recv_errno:
            error = self.recv_errno
            self.recv_errno = 0
            self.eof = False
            raise OSError(error, os.strerror(error))
        if self.eof:
            self.eof = False
            return b""
        return None

    cpdef object take_received(self):
        if self.kept:
            return self.kept.pop(0)
        if self.inbox_count:
            return self.take()
        if self.recv_errno:  # the kernel has told it and will not again; the reader is still to be told, too
            raise OSError(self.recv_errno, os.strerror(self.recv_errno))
        return None

    cdef Py_ssize_t receive_into(self, object buffer) except -2:
        cdef Py_ssize_t count, size
        if self.inbox_count:
            self.keep()
        if self.kept:
            # Received for the reader before this one.
            data = self.kept[0]
            view = memoryview(buffer).cast("B")
            size = len(view)
            count = min(size, len(data))
            view[:count] = data[:count]
            if count == len(data):
                self.kept.pop(0)
            else:
                self.kept[0] = data[count:]
            self.received.add(0, count)
            return count
        if self.recv_errno or self.eof:
            return len(self.receive())
        if not self.can_read:
            return -1
        count = receive_into(self.fd, buffer)
        if count > 0:
            self.received.add(count, 0)
        if count != 0:
            # The next poll says at once if there is more: the reader is asked for a buffer only then.
            self.can_read = False
            self.want()
        return count

    # -- sending -----------------------------------------------------------------------------------------------

    cdef object mark_dirty(self):
        if not self.dirty_queued:
            self.dirty_queued = True
            self.engine.dirty.append(self)

    cdef bint offer(self) except -1:
        """Something has been added to the output: send it now, or with the others at the end of the turn."""
        if self.send_state == SEND_IDLE:
            if not self.dirty_queued:
                if self.engine.lone or self.engine.broken_sends:
                    self.engine.lone = False
                    self.flush()
                    return True
                self.dirty_queued = True
                self.engine.dirty.append(self)
            if self.pending > AT_ONCE:
                self.flush()
        return True

    cdef object write(self, bytes data):
        self.output().append(data)
        self.pending += PyBytes_GET_SIZE(data)
        self.offer()

    cpdef object write_lease(self, Lease lease):
        if self.spent is not None:
            self.release_spent()
        self.output().append(lease)
        self.pending += lease.length
        self.offer()

    cpdef object write_pieces(self, list pieces):
        if self.spent is not None:
            self.release_spent()
        for piece in pieces:
            self.output().append(piece)
            self.pending += piece_size(piece)
        self.offer()

    cdef object write_many(self, list chunks):
        for chunk in chunks:
            self.output().append(chunk)
            self.pending += len(chunk)
        if self.send_state == SEND_IDLE:
            self.mark_dirty()
            if self.pending > AT_ONCE:
                self.flush()

    cpdef object flush(self):
        cdef Py_ssize_t sent
        if self.send_state == SEND_NOW:
            self.engine.finish_sends()
        while self.pending and self.send_state == SEND_IDLE:
            if self.pending >= ZERO_COPY_MIN and self.zero_copy != ZERO_COPY_OFF and self.may_zero_copy():
                self.mark_dirty()  # the turn's submission takes it
                break
            try:
                sent = send_list(self.fd, self.out, self.out_head, self.out_offset)
            except OSError:
                self.clear_out()
                raise
            if sent < 0:
                self.mark_dirty()  # the turn's submission finds no room either and waits for it
                break
            self.take_out(sent)
        if self.awaited:
            self.queue(WRITABLE)

    cdef bint may_zero_copy(self) except -1:
        if self.zero_copy == ZERO_COPY_UNKNOWN:
            self.zero_copy = ZERO_COPY_OFF
            if self.engine.has_zero_copy() and (self.engine.zero_copy_local or is_remote(self.fd)):
                self.zero_copy = ZERO_COPY_ON
        return self.zero_copy == ZERO_COPY_ON and choose(self.out, self.out_head, self.out_offset) is not None

    cdef bint prepare_zero_copy(self) except -1:
        """Submit what is pending as a send from the memory itself: whether that is worth it."""
        cdef cw_sqe* sqe
        cdef Notice notice
        pieces = choose(self.out, self.out_head, self.out_offset)
        if pieces is None:
            return False
        self.fill_block(len(pieces))
        notice = Notice(self, pieces)
        sqe = self.engine.sqe()
        cw_prep_sendmsg_zero_copy(sqe, self.fd, &self.block.header, tagged(notice, TAG_ZERO_COPY))
        self.block.notice = <void*>notice
        self.engine.live.add(notice)
        self.send_state = SEND_LATER
        self.flying += 1
        self.engine.live.add(self)
        return True

    cdef uint64_t send_data(self):
        """What the send that waits was submitted with."""
        if self.block != NULL and self.block.notice != NULL:
            return tagged(<object>self.block.notice, TAG_ZERO_COPY)
        return tagged(self, TAG_SEND)

    cdef Py_ssize_t fill_block(self, Py_ssize_t pieces) except -1:
        """Point the block at the first ``pieces`` of the output, as many as it has room for."""
        cdef Py_ssize_t index = self.out_head
        cdef Py_ssize_t offset = self.out_offset
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t length
        cdef int n = 0
        if self.block == NULL:
            self.block = <SendBlock*>PyMem_Malloc(sizeof(SendBlock))
            if self.block == NULL:
                raise MemoryError()
            memset(self.block, 0, sizeof(SendBlock))
        while index < len(self.out) and n < pieces and total < SEND_MAX:
            piece = self.out[index]
            length = min(piece_size(piece) - offset, SEND_MAX - total)
            self.block.vectors[n].iov_base = piece_start(piece) + offset
            self.block.vectors[n].iov_len = length
            total += length
            offset = 0
            index += 1
            n += 1
        self.block.header.msg_iov = self.block.vectors
        self.block.header.msg_iovlen = n
        return total

    cdef object prepare_send(self):
        """Submit what is pending, to be taken at once or not at all."""
        cdef cw_sqe* sqe
        cdef Py_ssize_t size
        self.dirty_queued = False
        if not self.pending or self.send_state != SEND_IDLE or self.closed:
            return
        if self.pending >= ZERO_COPY_MIN and self.zero_copy == ZERO_COPY_ON and self.prepare_zero_copy():
            return
        if len(self.out) - self.out_head == 1:
            sqe = self.engine.sqe()
            piece = self.out[self.out_head]
            size = min(piece_size(piece) - self.out_offset, <Py_ssize_t>SEND_MAX)
            cw_prep_send_now(sqe, self.fd, piece_start(piece) + self.out_offset, size,
                             tagged(self, TAG_SEND))
        else:
            size = self.fill_block(IOV_MAX)
            sqe = self.engine.sqe()
            cw_prep_sendmsg_now(sqe, self.fd, &self.block.header, tagged(self, TAG_SEND))
        self.sent_now = size
        if self.awaited or size < self.pending:
            # If it is taken no completion says so, and somebody waits for that: look before waiting.
            self.engine.must_settle = True
        self.send_state = SEND_NOW
        self.engine.sending.append(self)

    cdef object prepare_later(self):
        """Submit what is pending, to be taken as far as there is room once there is some."""
        cdef cw_sqe* sqe
        if self.pending >= ZERO_COPY_MIN and self.zero_copy == ZERO_COPY_ON and self.prepare_zero_copy():
            return
        self.fill_block(IOV_MAX)  # may raise, so before an entry is taken
        sqe = self.engine.sqe()
        cw_prep_sendmsg_later(sqe, self.fd, &self.block.header, tagged(self, TAG_SEND))
        self.send_state = SEND_LATER
        self.flying += 1
        self.engine.live.add(self)

    cdef object on_send(self, int res):
        """A completion for a send: one that had to wait, or one that could not be taken at once."""
        cdef bint waited = self.send_state == SEND_LATER
        if waited:
            self.flying -= 1
            if not self.flying:
                self.engine.live.discard(self)
        self.send_state = SEND_IDLE
        if self.closed:
            return
        if res >= 0:
            self.take_out(min(<Py_ssize_t>res, self.pending))
        elif res == -_ECANCELED:
            return
        elif res != -_EAGAIN and res != -_EINTR:
            self.send_errno = -res
            self.clear_out()
            self.queue(WRITABLE)
            return
        if self.pending:
            self.send_state = SEND_LATER  # reserved until it is submitted
            self.want()
        if waited or self.awaited:
            self.queue(WRITABLE)

    cdef object settle(self):
        """No completion came for a send that would have had one had it failed: it was taken whole."""
        if self.send_state != SEND_NOW:
            return
        self.send_state = SEND_IDLE
        self.take_out(self.sent_now)
        if self.pending:
            self.mark_dirty()
        if self.awaited:
            self.queue(WRITABLE)

    cdef object on_writable(self):
        if self.send_errno:
            error = self.send_errno
            self.send_errno = 0
            self.owner.broken(OSError(error, os.strerror(error)))
        else:
            self.owner.progress()

    cpdef object wait_writable(self, Step step):
        self.writable = self.engine.poll(self.fd, EPOLLOUT, step)

    cpdef object discard_output(self):
        if self.send_state == SEND_NOW:
            self.engine.finish_sends()
        if self.submitted(TAG_SEND):
            self.engine.cancel_now(self, self.send_data())
        self.send_state = SEND_IDLE
        self.clear_out()
        self.events &= ~<unsigned int>WRITABLE

    cpdef object close(self):
        if self.closed:
            return
        self.reading = False
        if self.send_state == SEND_NOW:
            self.engine.finish_sends()
        self.closed = True
        if self.recv_armed:
            self.engine.cancel_now(self, tagged(self, TAG_RECV))
        if self.poll_armed:
            self.engine.cancel_now(self, tagged(self, TAG_POLL))
        if self.submitted(TAG_SEND):
            self.engine.cancel_now(self, self.send_data())
        if self.writable is not None and not self.writable.done:
            self.ready.append(self.writable.step)
            self.writable.cancel()
        self.engine.lenders.discard(self)
        self.drop_inbox()
        self.kept = None
        self.clear_out()
        self.events = 0
        self.release_spent()
        self.part()

    cdef bint send_flying(self):
        return self.flying - self.recv_armed - self.poll_armed > 0

    cdef object moved(self):
        """The ring that held our operations is gone: ask the new one."""
        if self.recv_armed or self.poll_armed:
            self.want()
        if self.send_flying():
            self.want()  # SEND_LATER without an operation: submitted anew
        self.recv_armed = self.poll_armed = self.stopping = False
        self.flying = 0
        self.keep()

    cdef bint submitted(self, int tag):
        """Whether the kernel still holds the operation ``tag`` of this stream."""
        if tag == TAG_RECV:
            return self.recv_armed
        if tag == TAG_POLL:
            return self.poll_armed
        return self.send_state == SEND_LATER and self.send_flying()


cdef class UringListener(Listener):
    """A listener on the io_uring engine: a multishot accept."""

    def __init__(self, sock, ListenerOwner owner, UringEngine engine):
        Listener.__init__(self, sock, owner, engine.ready)
        self.engine = engine
        self.fds = []

    cdef object want(self):
        if not self.rearm_queued:
            self.rearm_queued = True
            self.engine.rearm.append(self)

    cdef object arm(self):
        cdef cw_sqe* sqe
        if not self.listening or self.armed:
            return
        sqe = self.engine.sqe()
        cw_prep_accept_multishot(sqe, self.fd, tagged(self, TAG_ACCEPT))
        self.armed = True
        self.engine.live.add(self)

    cdef object on_accept(self, int res, uint32_t flags):
        if res >= 0:
            self.fds.append(res)
        if not flags & CW_CQE_F_MORE:
            self.armed = False
            self.engine.live.discard(self)
            if res >= 0 or res == -_ECONNABORTED or res == -_EINTR:
                self.want()
            elif res != -_ECANCELED:
                self.error = -res
        if res >= 0 or self.error:
            self.queue()

    cpdef object start(self):
        self.listening = True
        self.want()

    cpdef object stop(self):
        self.listening = False
        if self.armed:
            self.engine.cancel_now(self, tagged(self, TAG_ACCEPT))

    cpdef int accept(self) except -2:
        if self.fds:
            return self.fds.pop(0)
        if self.error:
            error = self.error
            self.error = 0
            raise OSError(error, os.strerror(error))
        return -1

    cpdef object close(self):
        self.stop()
        while self.fds:
            os.close(self.fds.pop())


cdef class UringPoll(Poll):
    """A one-shot poll in the ring."""

    def __init__(self, Step step, UringEngine engine, int fd, unsigned int mask):
        Poll.__init__(self, step, engine.ready)
        self.engine = engine
        self.fd = fd
        self.mask = mask

    cdef object arm(self):
        cdef cw_sqe* sqe
        if self.done:
            return
        sqe = self.engine.sqe()
        cw_prep_poll(sqe, self.fd, self.mask, tagged(self, TAG_ONE_SHOT))
        self.armed = True
        self.engine.live.add(self)

    cpdef object cancel(self):
        if self.done:
            return
        self.done = True
        if self.armed:
            # It takes nothing out of the kernel, so nobody has to wait for its end, but the descriptor must
            # be free of it before its owner closes it.
            self.engine.cancel_now(self, tagged(self, TAG_ONE_SHOT))


cdef class FeedRoomStep(Step):
    """Tells a feed that its descriptor takes more."""

    def __init__(self, UringFeed feed):
        self.feed = feed

    cpdef object context(self):
        return self.feed.context()

    cpdef object run(self):
        cdef UringFeed feed = self.feed
        feed.out_poll = None
        if not feed.closed:
            feed.events |= WRITABLE
            feed.run()


cdef class UringFeed(Feed):
    """A feed on the io_uring engine: a poll, multishot for what is read all the time.

    A pipe is polled for once at a time: at its end nothing is armed, so closing it costs no system call.
    """

    def __init__(self, int fd, FeedOwner owner, UringEngine engine, unsigned int mask, bint once):
        Feed.__init__(self, fd, owner, engine.ready)
        self.engine = engine
        self.mask = mask
        self.once = once

    cdef object want(self):
        if not self.rearm_queued and not self.armed:
            self.rearm_queued = True
            self.engine.rearm.append(self)

    cdef object arm(self):
        cdef cw_sqe* sqe
        if self.closed or self.armed:
            return
        sqe = self.engine.sqe()
        if self.once:
            cw_prep_poll(sqe, self.fd, self.mask, tagged(self, TAG_FEED))
        else:
            cw_prep_poll_multishot(sqe, self.fd, self.mask, tagged(self, TAG_FEED))
        self.armed = True
        self.engine.live.add(self)

    cdef object on_poll(self, int res, uint32_t flags):
        if not flags & CW_CQE_F_MORE:
            self.armed = False
            self.engine.live.discard(self)
        if res != -_ECANCELED and not self.closed:
            # An error of the poll is the descriptor's: reading it says which.
            self.can_read = True
            if self.reading:
                self.queue(READABLE)

    cdef object rest(self):
        if not self.armed:
            self.want()

    cpdef object start(self):
        self.reading = True
        if self.can_read:
            self.queue(READABLE)
        else:
            self.want()

    cpdef object wait_writable(self):
        if self.out_poll is None:
            self.out_poll = self.engine.poll(self.fd, EPOLLOUT, FeedRoomStep(self))

    cpdef object close(self):
        if self.closed:
            return
        self.closed = True
        self.reading = False
        self.events = 0
        if self.armed:
            self.engine.cancel_now(self, tagged(self, TAG_FEED))
        if self.out_poll is not None:
            self.out_poll.cancel()
            self.out_poll = None


cdef int _ENOBUFS = _errno.ENOBUFS
cdef int _ENOMEM = _errno.ENOMEM
cdef int _EINVAL = _errno.EINVAL
cdef int _EOPNOTSUPP = _errno.EOPNOTSUPP
cdef int _ECANCELED = _errno.ECANCELED
cdef int _EAGAIN = _errno.EAGAIN
cdef int _EINTR = _errno.EINTR
cdef int _ECONNABORTED = _errno.ECONNABORTED
cdef int _ETIME = _errno.ETIME
cdef int _EBUSY = _errno.EBUSY
cdef int _EBADR = _errno.EBADR

#: None until a ring of this process has tried whether short silent sends are reported.
cdef object _silent_sends = None
cdef object _zero_copy_sends = None


cdef class UringEngine(Engine):
    """Completions straight from the kernel, one ``io_uring_enter`` a turn.

    :param ready: the loop's ready queue.
    :param sizes: capacities, a ``clearway.engine.sizes.RingSizes``.
    :raises OSError: the kernel refuses a ring, or lacks what is needed (ENOSYS: before Linux 6.1).
    """

    name = "uring"

    def __cinit__(self):
        memset(&self.ring, 0, sizeof(self.ring))
        memset(&self.pool, 0, sizeof(self.pool))
        self.ring.fd = -1

    def __init__(self, list ready, sizes):
        self.sq_entries = sizes.submissions
        self.cq_entries = sizes.completions
        self.pool_entries = sizes.buffers
        self.pool_step = sizes.buffers_at_first
        self.live = set()
        self.rearm = []
        self.dirty = []
        self.sending = []
        self.lost = []
        self.slots = []
        self.lenders = set()
        self.build()
        try:
            Engine.__init__(self, ready)
        except BaseException:
            cw_ring_close(&self.ring)
            raise
        # A read of a non-blocking descriptor is not polled for but fails with EAGAIN.
        os.set_blocking(self.wake_fd, True)

    def __dealloc__(self):
        cw_ring_close(&self.ring)
        cw_pool_close(&self.pool)

    cdef object build(self):
        """Set up a ring, disabled: the thread that will run the loop enables it."""
        cdef int rc = cw_ring_open(&self.ring, self.sq_entries, self.cq_entries)
        cdef uint32_t needed
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
        self.features = self.ring.features
        needed = (CW_FEAT_NODROP | CW_FEAT_SUBMIT_STABLE | CW_FEAT_FAST_POLL | CW_FEAT_EXT_ARG | CW_FEAT_CQE_SKIP)
        if self.features & needed != needed:
            cw_ring_close(&self.ring)
            raise OSError(_errno.ENOSYS, "the kernel's io_uring lacks a feature that Linux 6.1 has")
        self.enabled = False
        self.workers_capped = False
        self.thread = 0

    # -- thread ------------------------------------------------------------------------------------------------

    cdef object own(self):
        """Make the calling thread the ring's: enable it, or build a new one where it is another's."""
        # The kernel's number: that of pthread is given to the next thread when one ends.
        cdef unsigned long me = PyThread_get_thread_native_id()
        cdef int rc
        if self.thread == me:
            return
        if self.attached:
            raise RuntimeError(
                "the event loop is running in another thread; use call_soon_threadsafe() or "
                "asyncio.run_coroutine_threadsafe() from here")
        if self.thread:
            self.rebuild()
        rc = cw_ring_enable(&self.ring)
        if rc < 0:
            raise OSError(-rc, f"io_uring: enabling the ring: {os.strerror(-rc)}")
        self.thread = me

    cdef object rebuild(self):
        """Move to a new ring. What the old one completed counts; what it still held starts over."""
        self.reap()
        for holder in self.sending:
            (<UringStream>holder).settle()
        self.sending.clear()
        cw_ring_close(&self.ring)
        self.build()
        for holder in list(self.live):
            if isinstance(holder, UringStream):
                (<UringStream>holder).moved()
            elif isinstance(holder, UringListener):
                (<UringListener>holder).armed = False
                (<UringListener>holder).want()
            elif isinstance(holder, UringFeed):
                (<UringFeed>holder).armed = False
                (<UringFeed>holder).want()
            elif isinstance(holder, UringPoll):
                (<UringPoll>holder).armed = False
                self.rearm.append(holder)
            elif isinstance(holder, FileOperation):
                self.lose_operation(holder)
            elif isinstance(holder, Notice):
                (<Notice>holder).keep()
        self.live.clear()
        self.nested_armed = False
        self.wake_armed = False
        if self.pool.registered:
            # The kernel's half of the pool went with the ring: what is not out is provided anew.
            self.pool.registered = False

    cpdef object attach(self):
        self.own()
        # Not fatal where it fails: each enter then looks the descriptor up.
        cw_ring_register_fd(&self.ring)
        self.attached = True
        global _silent_sends
        if _silent_sends is None:
            _silent_sends = self.try_silent_sends()
        self.broken_sends = not _silent_sends

    cpdef object detach(self):
        # What was written before the loop stopped leaves now: nobody may ever run it again.
        self.flush()
        self.finish_operations()
        # Each submission receives as well. What has no room in the queue stays with the kernel until this thread
        # asks for it; the next thread to run the loop cannot.
        self.reap()
        cw_ring_unregister_fd(&self.ring)
        self.attached = False

    cdef bint has_zero_copy(self) except -1:
        """Whether the kernel has zero-copy sends of several pieces."""
        global _zero_copy_sends
        cdef uint8_t operation = CW_OP_SENDMSG_ZC
        if _zero_copy_sends is None:
            _zero_copy_sends = cw_ring_probe(&self.ring, &operation, 1) == 1
        return _zero_copy_sends

    cdef bint try_silent_sends(self) except -1:
        """Whether a short send that was asked to be silent on success is reported, and with its count."""
        cdef cw_sqe* sqe
        cdef bytes big = bytes(4 * 1024 * 1024)
        cdef bint right = False
        cdef cw_cqe* cqe
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sqe = self.sqe()
            cw_prep_send_now(sqe, ours.fileno(), PyBytes_AS_STRING(big), 1, TAG_IGNORE)
            cw_enter(&self.ring, 0, 0)
            if cw_cq_ready(&self.ring) != 0:
                return False
            sqe = self.sqe()
            cw_prep_send_now(sqe, ours.fileno(), PyBytes_AS_STRING(big), len(big), TAG_IGNORE)
            cw_enter(&self.ring, 0, 0)
            if cw_cq_ready(&self.ring) == 1:
                cqe = cw_cqe_at(&self.ring, 0)
                right = 0 < cqe.res < len(big)
                cw_cq_advance(&self.ring, 1)
        return right

    # -- submission --------------------------------------------------------------------------------------------

    cdef cw_sqe* sqe(self) except NULL:
        cdef cw_sqe* sqe = cw_get_sqe(&self.ring)
        cdef int rc
        while sqe == NULL:
            self.early_submissions += 1
            self.enters += 1
            rc = cw_enter(&self.ring, 0, 0)
            if rc < 0 and rc != -_EINTR:
                if rc != -_EBUSY and rc != -_EAGAIN:
                    raise OSError(-rc, f"io_uring_enter: {os.strerror(-rc)}")
                self.reap()
            sqe = cw_get_sqe(&self.ring)
        return sqe

    cdef object prepare(self):
        cdef UringStream stream
        cdef list batch
        if self.exhausted:
            self.exhausted = False
            self.relieve()
        if self.rearm:
            batch = self.rearm
            self.rearm = []
            for holder in batch:
                if isinstance(holder, UringStream):
                    stream = <UringStream>holder
                    stream.rearm_queued = False
                    if stream.send_state == SEND_LATER and not stream.send_flying():
                        if stream.pending and not stream.closed:
                            stream.prepare_later()
                        else:
                            stream.send_state = SEND_IDLE
                    stream.arm()
                elif isinstance(holder, UringListener):
                    (<UringListener>holder).rearm_queued = False
                    (<UringListener>holder).arm()
                elif isinstance(holder, UringFeed):
                    (<UringFeed>holder).rearm_queued = False
                    (<UringFeed>holder).arm()
                else:
                    (<UringPoll>holder).arm()
        if self.dirty:
            batch = self.dirty
            self.dirty = []
            for holder in batch:
                (<UringStream>holder).prepare_send()
        if not self.wake_armed or (self.nested is not None and not self.nested_armed):
            self.arm_others()
        if self.buffers_returned:
            self.buffers_returned = False
            if self.pool.registered:
                cw_pool_publish(&self.pool)

    cdef object arm_others(self):
        if not self.wake_armed:
            self.wake_armed = True
            cw_prep_read(self.sqe(), self.wake_fd, &self.wake_value, 8, TAG_WAKE)
        if self.nested is not None and not self.nested_armed:
            self.nested_armed = True
            cw_prep_poll(self.sqe(), self.nested.epfd, POLLIN, TAG_NESTED)

    cdef int submit(self, bint wait, long long timeout_ns) except -1:
        cdef int rc
        cdef void* state
        self.enters += 1
        if wait:
            state = PyEval_SaveThread()
            rc = cw_enter(&self.ring, 1, timeout_ns)
            PyEval_RestoreThread(state)
        else:
            rc = cw_enter(&self.ring, 0, 0)
        if rc < 0:
            if rc == -_EINTR:
                return 1
            if rc == -_ETIME or rc == -_EBUSY or rc == -_EAGAIN:
                return 0
            if rc == -_EBADR:
                raise OSError(_EBADR, "io_uring dropped completions: the kernel is out of memory")
            raise OSError(-rc, f"io_uring_enter: {os.strerror(-rc)}")
        return 0

    cpdef int fileno(self):
        return self.ring.fd

    cpdef int turn(self, long long timeout_ns) except -1:
        cdef int reaped
        cdef bint wait
        self.waits += 1
        if not self.attached:
            self.own()
        self.prepare()
        wait = timeout_ns != 0 and cw_cq_ready(&self.ring) == 0
        if self.must_settle or self.rearm or self.dirty:
            self.must_settle = False
            wait = False
        if wait or cw_to_submit(&self.ring) or cw_sq_flags(&self.ring) & (CW_SQ_TASKRUN | CW_SQ_CQ_OVERFLOW):
            self.submit(wait, timeout_ns)
        reaped = self.reap()
        if self.sending:
            self.settle_sends()
        if reaped == 0:
            check_signals()
        self.lone = reaped <= 1
        self.completions += reaped
        return reaped

    cpdef object flush(self):
        if self.dirty or self.rearm or self.operations:
            self.prepare()
            self.submit(False, 0)

    # -- file operations -----------------------------------------------------------------------------------------

    cpdef bint submit_operation(self, FileOperation operation) except -1:
        if not self.workers_capped:
            # Not fatal where it fails (before 5.15, or forbidden): the kernel's own cap holds then.
            self.workers_capped = True
            cw_ring_cap_workers(&self.ring, FILE_WORKERS, FILE_WORKERS)
        cw_prep_file(self.sqe(), operation.opcode, CW_SQE_ASYNC if operation.forced else 0, operation.fd,
                     operation.address, operation.length, operation.offset, operation.flags,
                     tagged(operation, TAG_FILE))
        operation.flying = True
        self.operations += 1
        self.live.add(operation)
        return True

    cpdef object cancel_operation(self, FileOperation operation):
        if operation.flying:
            cw_prep_cancel(self.sqe(), tagged(operation, TAG_FILE), TAG_IGNORE)

    cdef object finish_operations(self):
        """Wait for the file operations in flight: their completions reach no other thread than this one."""
        while self.operations:
            self.submit(True, 100_000_000)
            self.reap()
            check_signals()

    cdef object lose_operation(self, FileOperation operation):
        """The wait for it was interrupted, and now its ring is gone: the kernel may go on writing to its memory."""
        self.lost.append(operation)
        self.operations -= 1
        operation.flying = False
        operation.result = -_ECANCELED
        self.ready.append(operation)

    cdef object finish_sends(self):
        """Learn what became of the sends that a ``flush`` in the middle of a turn submitted."""
        self.submit(False, 0)
        self.reap()
        self.settle_sends()

    cdef object settle_sends(self):
        cdef list batch = self.sending
        if cw_to_submit(&self.ring):
            return  # the kernel has not looked at all of them: no news is not good news yet
        self.sending = []
        for holder in batch:
            (<UringStream>holder).settle()

    # -- completion --------------------------------------------------------------------------------------------

    cdef int reap(self) except -1:
        """Take in every completion there is. Calls no user code."""
        cdef uint32_t n, i
        cdef int total = 0
        while True:
            n = cw_cq_ready(&self.ring)
            if n == 0:
                if cw_sq_flags(&self.ring) & CW_SQ_CQ_OVERFLOW and self.thread == PyThread_get_thread_native_id():
                    # The kernel holds more back than the queue could take: have it moved over.
                    self.overflows += 1
                    self.submit(False, 0)
                    if cw_cq_ready(&self.ring):
                        continue
                return total
            for i in range(n):
                self.dispatch(cw_cqe_at(&self.ring, i))
            cw_cq_advance(&self.ring, n)
            total += n

    cdef int dispatch(self, cw_cqe* cqe) except -1:
        cdef uint64_t data = cqe.user_data
        cdef int tag = <int>(data & TAG_MASK)
        cdef void* holder = <void*><size_t>(data & ~<uint64_t>TAG_MASK)
        cdef UringPoll poll
        cdef FileOperation operation
        if tag == TAG_RECV:
            (<UringStream>holder).on_receive(cqe.res, cqe.flags)
        elif tag == TAG_SEND:
            (<UringStream>holder).on_send(cqe.res)
        elif tag == TAG_POLL:
            (<UringStream>holder).on_poll(cqe.res)
        elif tag == TAG_ONE_SHOT:
            poll = <UringPoll>holder
            poll.armed = False
            if not poll.done:
                poll.done = True
                self.ready.append(poll.step)
            self.live.discard(poll)
        elif tag == TAG_ACCEPT:
            (<UringListener>holder).on_accept(cqe.res, cqe.flags)
        elif tag == TAG_FEED:
            (<UringFeed>holder).on_poll(cqe.res, cqe.flags)
        elif tag == TAG_FILE:
            operation = <FileOperation>holder
            operation.flying = False
            operation.result = cqe.res
            self.operations -= 1
            self.ready.append(operation)
            self.live.discard(operation)
        elif tag == TAG_WAKE:
            self.wake_armed = False
        elif tag == TAG_ZERO_COPY:
            self.on_zero_copy(<Notice>holder, cqe.res, cqe.flags)
        elif tag == TAG_NESTED:
            self.nested_armed = False
            self.table.reap(0)
        return 0

    cdef object on_zero_copy(self, Notice notice, int res, uint32_t flags):
        """How much of a zero-copy send was taken, or that its memory is ours again."""
        cdef UringStream stream = <UringStream>notice.holder
        if not flags & CW_CQE_F_NOTIF:
            stream.block.notice = NULL
            self.zero_copy_sends += 1
            if res == -_EOPNOTSUPP or res == -_EINVAL or res == -_ENOMEM or res == -_ENOBUFS:
                # This socket or kernel cannot, or too many pages are pinned: as ever, from here on.
                stream.zero_copy = ZERO_COPY_OFF
                res = -_EAGAIN
            stream.on_send(res)
            if flags & CW_CQE_F_MORE:
                return
        elif res < 0:
            stream.zero_copy = ZERO_COPY_OFF
            self.zero_copy_copied += 1
        notice.holder = None
        self.ready.append(notice)
        self.live.discard(notice)

    cdef object cancel_now(self, object holder, uint64_t data):
        """Cancel an operation and wait for its terminal completion; what it brought on the way is taken in."""
        cdef int tries = 0
        cdef bint first = True
        if self.ring.fd < 0:
            return
        self.own()
        if not self.holds(holder, data):
            return
        cw_prep_cancel(self.sqe(), data, TAG_IGNORE)
        while self.holds(holder, data):
            self.submit(not first, 1_000_000)
            first = False
            self.reap()
            tries += 1
            if tries > CANCEL_TRIES:
                raise RuntimeError(f"io_uring does not end operation {data & TAG_MASK} of {holder!r}")

    cdef bint holds(self, object holder, uint64_t data):
        cdef int tag = <int>(data & TAG_MASK)
        if tag == TAG_ACCEPT:
            return (<UringListener>holder).armed
        if tag == TAG_ONE_SHOT:
            return (<UringPoll>holder).armed
        if tag == TAG_FEED:
            return (<UringFeed>holder).armed
        return (<UringStream>holder).submitted(tag)

    # -- buffers -----------------------------------------------------------------------------------------------

    cdef object open_pool(self):
        cdef int rc
        if self.pool.ring == NULL:
            rc = cw_pool_open(&self.pool, self.pool_entries, POOL_SIZE)
            if rc < 0:
                raise OSError(-rc, f"receive buffers: {os.strerror(-rc)}")
        cw_pool_restart(&self.pool)
        if self.pool.provided == 0:
            cw_pool_grow(&self.pool, self.pool_step)
        cw_pool_publish(&self.pool)
        rc = cw_pool_register(&self.pool, &self.ring)
        if rc < 0:
            raise OSError(-rc, f"io_uring: registering receive buffers: {os.strerror(-rc)}")

    cdef object give_back(self, uint32_t bid):
        cw_pool_give_back(&self.pool, bid)
        self.buffers_returned = True

    cdef Slot slot(self, uint32_t bid):
        """The buffer ``bid`` as memory that can be lent."""
        cdef Slot slot
        while <uint32_t>len(self.slots) <= bid:
            self.slots.append(None)
        slot = self.slots[bid]
        if slot is None:
            slot = Slot.__new__(Slot)
            slot.start = cw_pool_buffer(&self.pool, bid)
            slot.size = self.pool.size
            slot.scarce = True
            slot.bid = bid
            self.slots[bid] = slot
        return slot

    cdef object relieve(self):
        """The kernel ran out of buffers: copy out what waits in them for readers who may take their time."""
        cdef UringStream stream
        if 4 * self.pool.out < 3 * self.pool.entries:
            return  # they have come back already
        for stream in self.lenders:
            if stream.inbox_count:
                stream.fallbacks += stream.inbox_count
                stream.keep()

    # -- the engine interface ----------------------------------------------------------------------------------

    cpdef Stream open_stream(self, int fd, StreamOwner owner):
        return UringStream(fd, owner, self)

    cpdef Listener open_listener(self, object sock, ListenerOwner owner):
        return UringListener(sock, owner, self)

    cpdef Feed open_feed(self, int fd, FeedOwner owner, bint read, bint once):
        return UringFeed(fd, owner, self, POLLRDHUP | (POLLIN if read else 0), once)

    cpdef Poll poll(self, int fd, unsigned int mask, Step step):
        poll = UringPoll(step, self, fd, mask)
        self.rearm.append(poll)
        return poll

    cdef WatchTable watches(self):
        if self.table is None:
            self.nested = Poller()
            self.table = WatchTable(self.nested, self.ready)
        return self.table

    cpdef object set_reader(self, int fd, object handle):
        if handle is None and self.table is None:
            return None
        return self.watches().set_step(fd, EPOLLIN, handle)

    cpdef object set_writer(self, int fd, object handle):
        if handle is None and self.table is None:
            return None
        return self.watches().set_step(fd, EPOLLOUT, handle)

    cpdef object get_reader(self, int fd):
        return None if self.table is None else self.table.get_handle(fd, EPOLLIN)

    cpdef object get_writer(self, int fd):
        return None if self.table is None else self.table.get_handle(fd, EPOLLOUT)

    cpdef object close(self):
        if self.ring.fd < 0:
            return
        cw_ring_close(&self.ring)
        for holder in self.live:
            if isinstance(holder, Notice):
                (<Notice>holder).keep()
        self.live.clear()
        self.lenders.clear()
        self.rearm.clear()
        self.dirty.clear()
        if self.nested is not None:
            self.nested.close()
        os.close(self.wake_fd)

    cpdef object abandon(self):
        cw_ring_abandon(&self.ring)
        cw_pool_abandon(&self.pool)
        self.live.clear()
        self.lenders.clear()
        self.rearm.clear()
        self.dirty.clear()
        if self.nested is not None:
            self.nested.close()
        os.close(self.wake_fd)

    cpdef Py_ssize_t inflight(self):
        return len(self.live)

    cpdef Py_ssize_t leased(self):
        return self.pool.out


def probe():
    """What the kernel offers: a list of (feature, bool). Raises OSError where it refuses a ring."""
    cdef cw_ring ring
    cdef uint8_t ops[7]
    cdef int rc = cw_ring_open(&ring, 8, 16)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    ops[0] = CW_OP_POLL_ADD
    ops[1] = CW_OP_SENDMSG
    ops[2] = CW_OP_ACCEPT
    ops[3] = CW_OP_ASYNC_CANCEL
    ops[4] = CW_OP_READ
    ops[5] = CW_OP_SEND
    ops[6] = CW_OP_RECV
    cdef uint8_t zero_copy = CW_OP_SEND_ZC
    try:
        return [
            ("needed operations", cw_ring_probe(&ring, ops, 7) == 1),
            ("silent successful completions", bool(ring.features & CW_FEAT_CQE_SKIP)),
            ("no submission array (6.6)", bool(ring.setup_flags & CW_SETUP_NO_SQARRAY)),
            ("receive and send bundles (6.10)", bool(ring.features & CW_FEAT_RECVSEND_BUNDLE)),
            ("waiting not counted as I/O wait (6.15)", bool(ring.features & CW_FEAT_NO_IOWAIT)),
            ("zero-copy send (6.0)", cw_ring_probe(&ring, &zero_copy, 1) == 1),
        ]
    finally:
        cw_ring_close(&ring)
