"""The shared ring of a SharedChannel: records in memory that two processes see, without a lock.

Record: a head of one cache line, then the payload, which therefore starts on a cache line (64 bytes: what SIMD
loads and NumPy like). Space is reserved and released in order; what was committed or released out of order waits
in a ledger until everything before it is. Nothing here calls into Python between reading and writing a position,
so a step that is suspended never leaves the ring half changed, and a dropped lease may release from any thread
that holds the GIL.

What the peer wrote is checked before it is used: a broken peer gives ChannelCorrupt, never a read outside the ring.
The file is sealed against shrinking, which would turn reads into SIGBUS.
"""
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer, PyBUF_SIMPLE
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from clearway.channels.errors import ChannelCorrupt

cdef extern from "sys/mman.h" nogil:
    int munmap(void*, size_t)

cdef extern from "ring.h" nogil:
    struct cw_ring:
        uint64_t tail
        uint64_t needs
        uint64_t head
        uint64_t reader_waits
    struct cw_header:
        uint64_t magic
        uint64_t capacity
        uint64_t closed[2]
        uint64_t pid[2]
        cw_ring ring[2]
    struct cw_record:
        uint32_t size
        uint32_t kind
        uint64_t skip
    uint64_t cw_load(uint64_t*)
    void cw_store(uint64_t*, uint64_t)
    uint64_t cw_swap(uint64_t*, uint64_t)
    void cw_fence()
    char* cw_map_twice(int fd, size_t offset, size_t size)
    char* cw_map_once(int fd, size_t size)
    void cw_poke(int fd)

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object)

cdef enum:
    HEAD = 64           # bytes of a record's head: a cache line
    SKIP = 0            # a record that was given up
    BUFFER = 1          # reserve() and commit(): the payload as it is
    BYTES = 2           # one bytes object
    PICKLE = 3          # a pickle and its out-of-band buffers

cdef uint64_t MAGIC = 0x31596177_7261656C  # layout 1
PAGE = 4096
KIND_BUFFER, KIND_BYTES, KIND_PICKLE = BUFFER, BYTES, PICKLE


def file_size(uint64_t capacity):
    """Bytes of the memory file for two rings of ``capacity`` bytes."""
    return PAGE + 2 * capacity


cdef class Mapping:
    """The memory of a channel in this process. Lives as long as anything that points into it.

    :param fd: the memory file.
    :param capacity: bytes of each ring, a multiple of the page.
    :param side: 0 for the process that made the file, 1 for the one that attached to it.
    """
    cdef cw_header* header
    cdef char* rings[2]
    cdef size_t capacity
    cdef readonly int side

    def __cinit__(self, int fd, size_t capacity, int side, *, bint create):
        self.side = side
        self.capacity = capacity
        self.header = <cw_header*>cw_map_once(fd, PAGE)
        if self.header == NULL:
            PyErr_SetFromErrno(OSError)
        for index in range(2):
            self.rings[index] = cw_map_twice(fd, PAGE + index * capacity, capacity)
            if self.rings[index] == NULL:
                PyErr_SetFromErrno(OSError)
        if create:
            self.header.capacity = capacity
            cw_store(&self.header.magic, MAGIC)
        elif cw_load(&self.header.magic) != MAGIC or self.header.capacity != capacity:
            raise ChannelCorrupt("the memory is not that of a shared channel of this version")

    def __dealloc__(self):
        for index in range(2):
            if self.rings[index] != NULL:
                munmap(self.rings[index], 2 * self.capacity)
        if self.header != NULL:
            munmap(self.header, PAGE)

    def announce(self, uint64_t pid):
        """Say who is at this end."""
        cw_store(&self.header.pid[self.side], pid)

    def peer_pid(self):
        return cw_load(&self.header.pid[1 - self.side])

    def close(self):
        cw_store(&self.header.closed[self.side], 1)

    cpdef bint peer_closed(self):
        return cw_load(&self.header.closed[1 - self.side]) != 0


cdef struct Entry:
    uint64_t end
    bint done


cdef class Ledger:
    """Which of the records from the oldest open one on are done with."""
    cdef Entry* entries
    cdef uint64_t mask
    cdef uint64_t first, after

    def __cinit__(self):
        self.entries = <Entry*>malloc(64 * sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError()
        self.mask = 63

    def __dealloc__(self):
        free(self.entries)

    cdef uint64_t add(self, uint64_t end) except? 0xFFFFFFFFFFFFFFFF:
        cdef uint64_t i
        cdef Entry* bigger
        if self.after - self.first > self.mask:
            bigger = <Entry*>malloc((self.mask + 1) * 2 * sizeof(Entry))
            if bigger == NULL:
                raise MemoryError()
            for i in range(self.first, self.after):
                bigger[i & (2 * self.mask + 1)] = self.entries[i & self.mask]
            free(self.entries)
            self.entries = bigger
            self.mask = 2 * self.mask + 1
        self.entries[self.after & self.mask].end = end
        self.entries[self.after & self.mask].done = False
        self.after += 1
        return self.after - 1

    cdef uint64_t finish(self, uint64_t number) noexcept:
        """Mark one; the position up to which all are done now, 0 when the oldest is still open."""
        cdef uint64_t end = 0
        self.entries[number & self.mask].done = True
        while self.first != self.after and self.entries[self.first & self.mask].done:
            end = self.entries[self.first & self.mask].end
            self.first += 1
        return end


cdef class Window:
    """A window on the payload of one record; speaks the buffer protocol, aligned to 64 bytes.

    ``with`` releases it at the end; so does dropping the last reference to it and to all views of it. A window
    cannot be released while views of it exist, because the memory would then change under them.

    :raises BufferError: a view is taken after the release, or the release comes before the end of the views.
    """
    cdef char* address
    cdef Py_ssize_t size
    cdef Py_ssize_t views
    cdef uint64_t number
    cdef bint ended
    cdef bint readonly

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.ended:
            raise BufferError("the shared memory was released: its content may have changed")
        PyBuffer_FillInfo(view, self, self.address, self.size, self.readonly, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.views -= 1

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        """A byte, or for a slice a view of it; nothing is copied."""
        return memoryview(self)[index]

    @property
    def released(self):
        return bool(self.ended)

    def tobytes(self):
        """A copy of the content."""
        return bytes(self)

    cdef int check_views(self, str what) except -1:
        if self.views:
            raise BufferError(f"{what} while {self.views} view(s) of the shared memory exist; drop them first")
        return 0

    def __repr__(self):
        return f"<{type(self).__name__} {'released' if self.ended else self.size}>"


cdef class Reservation(Window):
    """Memory of the ring to be filled in place, then ``commit()``-ed or ``cancel()``-led.

    As a context manager it commits at the end of the block, and cancels when the block raises.
    """
    cdef Writer writer
    cdef uint64_t start

    def __setitem__(self, index, value):
        memoryview(self)[index] = value

    def write(self, data, Py_ssize_t offset=0):
        """Copy a buffer to ``offset``; this one copy is what filling in place avoids.

        :raises ValueError: it does not fit.
        """
        cdef Py_buffer view
        if self.ended:
            raise BufferError("the reservation was committed or cancelled")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if offset < 0 or view.len > self.size - offset:
                raise ValueError(f"{view.len} bytes at {offset} do not fit into {self.size}")
            memcpy(self.address + offset, view.buf, view.len)
            self.writer.bytes_copied += view.len
        finally:
            PyBuffer_Release(&view)

    cpdef object commit(self, Py_ssize_t size=-1):
        """Send the first ``size`` bytes (default: all). Records become visible in the order of reservation.

        :raises BufferError: views of the memory exist, or it was committed or cancelled before.
        :raises ValueError: more than was reserved.
        """
        if self.ended:
            raise BufferError("the reservation was committed or cancelled before")
        if size < 0:
            size = self.size
        elif size > self.size:
            raise ValueError(f"{size} bytes cannot be committed of {self.size} reserved")
        self.check_views("commit()")
        self.ended = True
        self.writer.finish(self, size, False)

    cpdef object cancel(self):
        """Give the memory back unsent. After a commit it does nothing.

        :raises BufferError: views of the memory exist.
        """
        if not self.ended:
            self.check_views("cancel()")
            self.ended = True
            self.writer.finish(self, 0, True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None:
            if not self.views:
                self.cancel()
        elif not self.ended:
            self.commit()

    def __dealloc__(self):
        # No views: each holds a reference.
        if not self.ended and self.writer is not None:
            self.ended = True
            self.writer.finish(self, 0, True)


cdef class SharedLease(Window):
    """A received payload where the sender put it, until ``release()``. Read-only.

    The ring is used in order, so a lease that is kept keeps the space of all that was received after it, too.
    """
    cdef Reader reader
    cdef readonly uint32_t kind

    cpdef object release(self):
        """Give the memory back to the sender. Twice does nothing.

        :raises BufferError: views of the memory exist.
        """
        if not self.ended:
            self.check_views("release()")
            self.ended = True
            self.reader.finish(self.number)

    cdef object copy_out(self):
        return (<char*>self.address)[:self.size]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or not self.views:
            self.release()

    def __dealloc__(self):
        if not self.ended and self.reader is not None:
            self.ended = True
            self.reader.finish(self.number)


cdef class Writer:
    """The sending end of a ring."""
    cdef readonly Mapping mapping
    cdef cw_ring* ring
    cdef char* data
    cdef uint64_t size
    cdef uint64_t next
    cdef Ledger ledger
    cdef int peer
    cdef bint foreign
    cdef readonly uint64_t messages
    cdef readonly uint64_t bytes_moved
    cdef public uint64_t bytes_copied

    def __init__(self, Mapping mapping, int peer):
        self.mapping = mapping
        self.ring = &mapping.header.ring[mapping.side]
        self.data = mapping.rings[mapping.side]
        self.size = mapping.capacity
        self.next = cw_load(&self.ring.tail)
        self.ledger = Ledger()
        self.peer = peer

    def detach(self, bint foreign):
        """Wake nobody any more: the descriptor is going to be closed.

        :param foreign: this is a copy in a forked child; it must leave the ring alone, too.
        """
        self.peer = -1
        self.foreign = foreign

    @property
    def largest(self):
        """Bytes of the largest payload that fits."""
        return self.size - HEAD

    cdef uint64_t free(self) except? 0xFFFFFFFFFFFFFFFF:
        cdef uint64_t used = self.next - cw_load(&self.ring.head)
        if used > self.size:
            raise ChannelCorrupt("the peer released what was never sent")
        return self.size - used

    cpdef Reservation reserve(self, uint64_t size, uint32_t kind):
        """Room for a payload, or None. The caller has checked ``largest``."""
        cdef uint64_t skip = HEAD + ((size + HEAD - 1) & ~<uint64_t>(HEAD - 1))
        cdef cw_record* record
        cdef Reservation reservation
        if self.free() < skip:
            return None
        reservation = Reservation.__new__(Reservation)
        reservation.number = self.ledger.add(self.next + skip)
        record = <cw_record*>(self.data + self.next % self.size)
        record.kind = kind
        record.skip = skip
        reservation.start = self.next
        reservation.address = <char*>record + HEAD
        reservation.size = size
        reservation.writer = self
        self.next += skip
        return reservation

    cdef int finish(self, Reservation reservation, uint64_t size, bint cancelled) noexcept:
        cdef cw_record* record = <cw_record*>(self.data + reservation.start % self.size)
        cdef uint64_t end
        if self.foreign:
            return 0
        record.size = <uint32_t>size
        if cancelled:
            record.kind = SKIP
        else:
            self.messages += 1
            self.bytes_moved += size
        end = self.ledger.finish(reservation.number)
        if end:
            cw_store(&self.ring.tail, end)
            cw_fence()
            if cw_load(&self.ring.reader_waits) and cw_swap(&self.ring.reader_waits, 0):
                if self.peer >= 0:
                    cw_poke(self.peer)
        return 0

    def send_bytes(self, bytes data):
        """Copy a bytes object into the ring; False where there is no room."""
        cdef Reservation reservation = self.reserve(len(data), BYTES)
        if reservation is None:
            return False
        memcpy(reservation.address, <char*>data, len(data))
        self.bytes_copied += len(data)
        reservation.commit()
        return True

    def sleep(self, uint64_t size):
        """Announce that we wait for room for a payload; False where there is room after all."""
        cdef uint64_t skip = HEAD + ((size + HEAD - 1) & ~<uint64_t>(HEAD - 1))
        cw_swap(&self.ring.needs, skip)
        cw_fence()
        if self.free() >= skip:
            cw_swap(&self.ring.needs, 0)
            return False
        return True


cdef class Reader:
    """The receiving end of a ring."""
    cdef readonly Mapping mapping
    cdef cw_ring* ring
    cdef char* data
    cdef uint64_t size
    cdef uint64_t next
    cdef uint64_t head
    cdef Ledger ledger
    cdef int peer
    cdef bint foreign
    cdef readonly uint64_t messages
    cdef readonly uint64_t bytes_moved
    cdef public uint64_t bytes_copied

    def __init__(self, Mapping mapping, int peer):
        self.mapping = mapping
        self.ring = &mapping.header.ring[1 - mapping.side]
        self.data = mapping.rings[1 - mapping.side]
        self.size = mapping.capacity
        self.next = self.head = cw_load(&self.ring.head)
        self.ledger = Ledger()
        self.peer = peer

    def detach(self, bint foreign):
        """Wake nobody any more: the descriptor is going to be closed.

        :param foreign: this is a copy in a forked child; it must leave the ring alone, too.
        """
        self.peer = -1
        self.foreign = foreign

    cpdef bint is_empty(self):
        return cw_load(&self.ring.tail) == self.next

    cpdef SharedLease take(self):
        """The next record, or None where there is none yet."""
        cdef uint64_t available, number, skip
        cdef uint32_t size, kind
        cdef cw_record* record
        cdef SharedLease lease
        while True:
            available = cw_load(&self.ring.tail) - self.next
            if available == 0:
                # The last thing done before going away or to sleep: the writer may wait for less than
                # the hysteresis of finish() lets through.
                self.wake_writer(0)
                return None
            record = <cw_record*>(self.data + self.next % self.size)
            # Copied first: the peer could change them between the check and the use.
            size, kind, skip = record.size, record.kind, record.skip
            if available > self.size or skip < HEAD or skip % HEAD or skip > available or size > skip - HEAD:
                raise ChannelCorrupt("the peer wrote a record that cannot be")
            number = self.ledger.add(self.next + skip)
            self.next += skip
            if kind == SKIP:
                self.finish(number)
                continue
            lease = SharedLease.__new__(SharedLease)
            lease.address = <char*>record + HEAD
            lease.size = size
            lease.kind = kind
            # The arrays of a pickle are the receiver's to change, until it drops them.
            lease.readonly = kind != PICKLE
            lease.number = number
            lease.reader = self
            self.messages += 1
            self.bytes_moved += size
            return lease

    def bytes_of(self, SharedLease lease):
        """The content as a bytes object; releases the lease."""
        content = lease.copy_out()
        self.bytes_copied += lease.size
        lease.release()
        return content

    cdef int finish(self, uint64_t number) noexcept:
        cdef uint64_t end
        if self.foreign:
            return 0
        end = self.ledger.finish(number)
        if end:
            self.head = end
            cw_store(&self.ring.head, end)
            # With nothing left to read there may be no later occasion to wake it.
            self.wake_writer(0 if cw_load(&self.ring.tail) == self.next else self.size // 4)
        return 0

    cdef int wake_writer(self, uint64_t least) noexcept:
        """Wake a writer that has as much room as it waits for and at least ``least`` bytes.

        One that was woken for each released record would switch context for each message.
        """
        cdef uint64_t needs, room
        cw_fence()
        needs = cw_load(&self.ring.needs)
        if needs:
            room = self.size - (cw_load(&self.ring.tail) - self.head)
            if room >= needs and room >= least and cw_swap(&self.ring.needs, 0) and self.peer >= 0:
                cw_poke(self.peer)
        return 0

    def sleep(self):
        """Announce that we wait for a record; False where there is one after all."""
        self.wake_writer(0)
        cw_swap(&self.ring.reader_waits, 1)
        cw_fence()
        if cw_load(&self.ring.tail) != self.next:
            cw_swap(&self.ring.reader_waits, 0)
            return False
        return True
