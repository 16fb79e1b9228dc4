"""The few system calls of the hot path, without a Python object or a GIL round trip between.

``sysio.py`` beside this file is the same interface in ordinary Python: it stands in where nothing is
compiled. Both must change together; ``tests/kernel/test_sysio.py`` runs on either.

None of the calls below releases the GIL except ``Poller.wait`` with a timeout: they are non-blocking, and
giving the GIL up and taking it back costs more than a short ``recv`` does.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, ECONNABORTED, ECONNRESET, EINTR, ENOENT, ENOSYS, errno
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int, void*, size_t, int)
    ssize_t c_send "send"(int, const void*, size_t, int)
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_sendmsg "sendmsg"(int, const msghdr*, int)

cdef extern from "sysio.h" nogil:
    enum: CW_ADDRESSES_MAX
    int cw_accept(int fd)
    int cw_pack_addresses(int fd, unsigned char* to)
    double cw_monotonic()
    int cw_can_receive(int fd)
    int cw_epoll_wait(void* events, int epfd, int capacity, long long ns, int ms_only)
    int cw_epoll_ctl(int epfd, int op, int fd, uint32_t mask)
    int cw_epoll_create()
    int cw_event_fd(void* events, int index)
    uint32_t cw_event_mask(void* events, int index)
    size_t CW_EVENT_SIZE
    int c_close "close"(int)

cdef extern from "Python.h":
    int PyContext_Enter(object)  # -1 with an exception set
    int PyContext_Exit(PyObject*)
    PyObject* PyObject_Vectorcall(PyObject*, PyObject* const*, size_t, PyObject*)
    PyObject* PyObject_VectorcallMethod(PyObject*, PyObject* const*, size_t, PyObject*)
    PyObject** cw_tuple_items "&PyTuple_GET_ITEM"(object, int)
    int PyErr_CheckSignals() except -1
    void PyErr_Clear()
    void* PyEval_SaveThread()
    void PyEval_RestoreThread(void*)
    Py_ssize_t PyTuple_GET_SIZE(object)
    PyObject* PyErr_SetFromErrno(object)

cdef enum:
    EPOLL_CAPACITY = 512  # events per wait: libuv takes 1024; more only adds latency to the first
    IOV_CAPACITY = 64     # buffers per sendmsg; Linux allows 1024 (UIO_MAXIOV)


cdef int _fail() except -2:
    PyErr_SetFromErrno(OSError)
    return -2


cpdef double monotonic():
    return cw_monotonic()


cpdef int check_signals() except -1:
    """Run the Python handlers of signals that have arrived; may raise KeyboardInterrupt."""
    return PyErr_CheckSignals()


cdef class Scratch:
    """One receive buffer for all sockets of a loop: data is copied out at its exact length.

    The standard library allocates the full 256 KiB for each ``recv`` and shrinks it, which glibc may turn
    into an mmap and an munmap per read.

    :param size: bytes per receive; ``full`` says whether the last one filled them all.
    """

    def __cinit__(self, Py_ssize_t size):
        self.memory = <char*>PyMem_Malloc(size)
        if self.memory == NULL:
            raise MemoryError()
        self.size = size

    def __dealloc__(self):
        PyMem_Free(self.memory)

    cdef object receive(self, int fd):
        """Bytes received, b"" at end of file, None where the call would block."""
        cdef ssize_t n
        while True:
            n = c_recv(fd, self.memory, self.size, MSG_DONTWAIT)
            if n >= 0:
                self.full = n == self.size
                return PyBytes_FromStringAndSize(self.memory, n)
            if errno == EAGAIN:
                self.full = False
                return None
            if errno != EINTR:
                _fail()


cpdef Py_ssize_t receive_into(int fd, object buffer) except -2:
    """Receive into a writable buffer: the count, 0 at end of file, -1 where the call would block."""
    cdef Py_buffer view
    cdef ssize_t n
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        if view.len == 0:
            raise RuntimeError("get_buffer() returned an empty buffer")
        while True:
            n = c_recv(fd, view.buf, view.len, MSG_DONTWAIT)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return -1
            if errno != EINTR:
                _fail()
    finally:
        PyBuffer_Release(&view)


cpdef bytes receive_some(int fd):
    """Up to 512 bytes from a non-blocking socket; empty where there are none, or an error."""
    cdef char buffer[512]
    cdef ssize_t n = c_recv(fd, buffer, 512, MSG_DONTWAIT)
    return PyBytes_FromStringAndSize(buffer, n) if n > 0 else b""


cpdef bint can_receive(int fd):
    """Whether a receive would yield something: data, the end of it, or an error."""
    return cw_can_receive(fd)


cpdef Py_ssize_t send_some(int fd, object data, Py_ssize_t offset) except -2:
    """Send data[offset:]: the count that was taken, -1 where the call would block."""
    cdef Py_buffer view
    cdef ssize_t n
    if PyBytes_CheckExact(data):
        while True:
            n = c_send(fd, PyBytes_AS_STRING(data) + offset, PyBytes_GET_SIZE(data) - offset,
                       MSG_DONTWAIT | MSG_NOSIGNAL)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return -1
            if errno != EINTR:
                _fail()
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while True:
            n = c_send(fd, <char*>view.buf + offset, view.len - offset, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return -1
            if errno != EINTR:
                _fail()
    finally:
        PyBuffer_Release(&view)


cpdef Py_ssize_t send_list(int fd, list chunks, Py_ssize_t index, Py_ssize_t offset) except -2:
    """Send chunks[index:] (contiguous buffers), the first from ``offset``, as one scatter-gather call.

    Returns the count that was taken, -1 where the call would block.
    """
    cdef iovec vectors[IOV_CAPACITY]
    cdef msghdr header
    cdef Py_buffer views[IOV_CAPACITY]
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t viewed = 0
    cdef Py_ssize_t total = len(chunks)
    cdef ssize_t n
    try:
        while index < total and count < IOV_CAPACITY:
            chunk = chunks[index]
            if PyBytes_CheckExact(chunk):
                vectors[count].iov_base = PyBytes_AS_STRING(chunk) + offset
                vectors[count].iov_len = PyBytes_GET_SIZE(chunk) - offset
            else:
                PyObject_GetBuffer(chunk, &views[viewed], PyBUF_SIMPLE)
                vectors[count].iov_base = <char*>views[viewed].buf + offset
                vectors[count].iov_len = views[viewed].len - offset
                viewed += 1
            offset = 0
            index += 1
            count += 1
        if count == 1:
            while True:
                n = c_send(fd, vectors[0].iov_base, vectors[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
                if n >= 0:
                    return n
                if errno == EAGAIN:
                    return -1
                if errno != EINTR:
                    _fail()
        cw_clear_header(&header)
        header.msg_iov = vectors
        header.msg_iovlen = count
        while True:
            n = c_sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n >= 0:
                return n
            if errno == EAGAIN:
                return -1
            if errno != EINTR:
                _fail()
    finally:
        while viewed:
            viewed -= 1
            PyBuffer_Release(&views[viewed])


cdef extern from "string.h" nogil:
    void* memset(void*, int, size_t)


cdef inline void cw_clear_header(msghdr* header) noexcept nogil:
    memset(header, 0, sizeof(msghdr))


cpdef int accept_one(object sock, int fd) except -2:
    """Accept a connection: its non-blocking, close-on-exec descriptor, or -1 where none is waiting."""
    cdef int got
    while True:
        got = cw_accept(fd)
        if got >= 0:
            return got
        if errno == EAGAIN or errno == ECONNABORTED:
            return -1
        if errno != EINTR:
            _fail()


cpdef object pack_addresses(int fd):
    """Both addresses of a connected TCP socket in few bytes (``addresses.unpack``); None for another socket, or where
    an end has no address any more."""
    cdef unsigned char packed[CW_ADDRESSES_MAX]
    cdef int size = cw_pack_addresses(fd, packed)
    return PyBytes_FromStringAndSize(<char*>packed, size) if size else None


cpdef object close_fd(int fd):
    """Close a descriptor, as ``socket.close`` does: an error of a connection that was reset is none of closing it."""
    if c_close(fd) < 0 and errno != ECONNRESET:
        _fail()


cdef class Poller:
    """An epoll set and the events of its last wait."""

    def __cinit__(self):
        self.epfd = -1
        self.events = PyMem_Malloc(EPOLL_CAPACITY * CW_EVENT_SIZE)
        if self.events == NULL:
            raise MemoryError()
        self.capacity = EPOLL_CAPACITY
        self.epfd = cw_epoll_create()
        if self.epfd < 0:
            _fail()

    def __dealloc__(self):
        if self.epfd >= 0:
            c_close(self.epfd)
        PyMem_Free(self.events)

    def fileno(self):
        return self.epfd

    cpdef int wait(self, long long timeout_ns) except -1:
        """Wait for events, at most ``timeout_ns`` (negative: for ever); how many, 0 also when interrupted."""
        cdef int n
        cdef void* state
        if timeout_ns == 0:
            n = cw_epoll_wait(self.events, self.epfd, self.capacity, 0, self.ms_only)
        else:
            state = PyEval_SaveThread()
            n = cw_epoll_wait(self.events, self.epfd, self.capacity, timeout_ns, self.ms_only)
            PyEval_RestoreThread(state)
        if n < 0:
            if errno == EINTR:
                return 0
            if errno == ENOSYS and not self.ms_only:
                self.ms_only = True
                return self.wait(timeout_ns)
            _fail()
        return n

    cdef int fd_at(self, int index):
        return cw_event_fd(self.events, index)

    cdef unsigned int mask_at(self, int index):
        return cw_event_mask(self.events, index)

    cpdef int add(self, int fd, unsigned int mask) except -1:
        if cw_epoll_ctl(self.epfd, 1, fd, mask) < 0:
            _fail()
        return 0

    cpdef int modify(self, int fd, unsigned int mask) except -1:
        if cw_epoll_ctl(self.epfd, 3, fd, mask) < 0:
            if errno != ENOENT:
                _fail()
            # The number was closed behind our back and means another file now.
            return self.add(fd, mask)
        return 0

    cpdef int remove(self, int fd) except -1:
        # ENOENT and EBADF: the descriptor was closed first, which removes it as well.
        cw_epoll_ctl(self.epfd, 2, fd, 0)
        return 0

    cpdef object close(self):
        if self.epfd >= 0:
            c_close(self.epfd)
            self.epfd = -1


class ContextEntered(RuntimeError):
    """The context is entered already, by this step's callers or by a suspended step; nothing was called.

    :ivar callback: what was not called.
    """

    callback = None


cdef inline int _enter(object context, object callback) except -1:
    if PyContext_Enter(context) < 0:
        _refuse_entered(callback)
    return 0


cdef int _refuse_entered(object callback) except -1:
    PyErr_Clear()
    refused = ContextEntered("cannot enter context: it is entered already")
    refused.callback = callback
    raise refused


cpdef object run_in_context(object context, object callback, tuple args):
    """``context.run(callback, *args)`` without the attribute look-up and the argument tuple.

    :raises ContextEntered: as ``context.run`` raises RuntimeError, which this is.
    """
    cdef PyObject* result
    cdef PyObject* raw = <PyObject*>context
    _enter(context, callback)
    result = PyObject_Vectorcall(<PyObject*>callback, cw_tuple_items(args, 0), PyTuple_GET_SIZE(args), NULL)
    return _leave(raw, result)


cpdef object run_method1(object context, object owner, str name, object arg):
    """``context.run(owner.name, arg)``, where ``name`` is looked up now, and without a bound method."""
    cdef PyObject* result
    cdef PyObject* raw = <PyObject*>context
    cdef PyObject* items[2]
    items[0] = <PyObject*>owner
    items[1] = <PyObject*>arg
    _enter(context, owner)
    result = PyObject_VectorcallMethod(<PyObject*>name, items, 2, NULL)
    return _leave(raw, result)


cdef extern from *:
    """
    static inline PyObject *cw_leave(PyObject *context, PyObject *result) {
        if (PyContext_Exit(context) < 0) { Py_CLEAR(result); }
        return result;
    }
    """
    object cw_leave(PyObject* context, PyObject* result)


cdef inline object _leave(PyObject* context, PyObject* result):
    return cw_leave(context, result)
