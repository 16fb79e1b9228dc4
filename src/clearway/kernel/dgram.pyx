"""Datagrams by the batch: one ``recvmmsg`` for all that wait, one ``sendmmsg`` for all that leave.

``dgram.py`` beside this file is the same interface in ordinary Python: it stands in where nothing is compiled.

Half of what a datagram costs in Python is its address: a tuple made for each that arrives, parsed again for each
that leaves. Peers come back, so two small tables remember them: socket address -> tuple for receiving, and
tuple *object* -> socket address for sending, because servers answer with the very object they were given. An entry
holds a reference to its tuple, so an object's identity cannot be taken over by another.

A batch is turned into Python objects in full before any user code runs: the buffers are the loop's, and user code
may be suspended while another socket receives.
"""
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memset

cdef extern from "dgram.h" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        pass
    struct full_in6 "sockaddr_in6":
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    enum: CW_DG_BATCH
    enum: AF_INET
    enum: AF_INET6
    enum: AF_UNIX
    cw_dg* cw_dg_open()
    void cw_dg_close(cw_dg*)
    int cw_dg_receive(cw_dg*, int fd)
    const char* cw_dg_data(cw_dg*, int i)
    unsigned int cw_dg_length(cw_dg*, int i)
    cw_dg_name* cw_dg_from(cw_dg*, int i)
    unsigned int cw_dg_from_length(cw_dg*, int i)
    int cw_dg_family(const cw_dg_name*, unsigned int length)
    void cw_dg_put(cw_dg*, int i, const void*, size_t, const sockaddr_in6*, unsigned int length)
    int cw_dg_send(cw_dg*, int fd, int count)
    int cw_dg_send_cut(cw_dg*, int fd, int count, int* refused)
    int cw_dg_can_cut(int fd)
    unsigned int cw_dg_hash(const cw_dg_name*, unsigned int bits)
    unsigned int cw_dg_pointer_hash(const void*, unsigned int bits)
    int cw_dg_same(const sockaddr_in6*, unsigned int, const cw_dg_name*, unsigned int)
    const char* inet_ntop(int, const void*, char*, unsigned int)
    int inet_pton(int, const char*, void*)
    uint16_t ntohs(uint16_t)
    uint16_t htons(uint16_t)
    uint32_t ntohl(uint32_t)
    uint32_t htonl(uint32_t)

cdef extern from "Python.h":
    PyObject* PyErr_SetFromErrno(object)
    const char* PyUnicode_AsUTF8(object) except NULL


cdef int _fail() except -2:
    PyErr_SetFromErrno(OSError)
    return -2


cdef class Datagrams:
    """The datagram buffers and the address book of one loop. Not for use by two threads at a time.

    :ivar more: the last ``receive`` filled the batch, so there may be more.
    :ivar refused: the last ``send_many`` was told to cut, and the kernel would not.
    :ivar copies: what is received is copied out of the batch's buffers.
    """

    def __cinit__(self):
        memset(self.seen, 0, sizeof(self.seen))
        memset(self.known, 0, sizeof(self.known))
        self.copies = True
        self.c = cw_dg_open()
        if self.c == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef int i
        cw_dg_close(self.c)
        for i in range(BOOK_SIZE):
            Py_XDECREF(<PyObject*>self.seen[i].address)
            Py_XDECREF(<PyObject*>self.known[i].address)

    cpdef list receive(self, object sock, int fd):
        """[data, address, data, address, ...] of what waits, at most a batch; empty where nothing does.

        :raises OSError: the socket's pending error (ECONNREFUSED from a connected peer).
        """
        cdef int n, i
        cdef list got
        while True:
            n = cw_dg_receive(self.c, fd)
            if n >= 0:
                break
            if errno == EAGAIN:
                self.more = False
                return []
            if errno != EINTR:
                _fail()
        self.more = n == CW_DG_BATCH
        got = []
        for i in range(n):
            got.append(PyBytes_FromStringAndSize(cw_dg_data(self.c, i), cw_dg_length(self.c, i)))
            got.append(self.address_of(i))
        return got

    cdef object address_of(self, int index):
        """The sender of a received datagram, as ``socket.recvfrom`` gives it."""
        cdef cw_dg_name* name = cw_dg_from(self.c, index)
        cdef unsigned int length = cw_dg_from_length(self.c, index)
        cdef int family = cw_dg_family(name, length)
        cdef char text[64]
        cdef Entry* entry
        cdef full_in6* six
        cdef const char* path
        cdef Py_ssize_t size
        if family == AF_INET or family == AF_INET6:
            entry = &self.seen[cw_dg_hash(name, BOOK_BITS)]
            if entry.address != NULL and cw_dg_same(&entry.name, entry.length, name, length):
                return <object>entry.address
            if family == AF_INET:
                inet_ntop(AF_INET, &(<sockaddr_in*>name).sin_addr, text, sizeof(text))
                address = (text.decode("ascii"), ntohs((<sockaddr_in*>name).sin_port))
            else:
                six = <full_in6*>name
                inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text))
                address = (
                    text.decode("ascii"), ntohs(six.sin6_port), ntohl(six.sin6_flowinfo), six.sin6_scope_id
                )
            put(entry, address, <sockaddr_in6*>name, length)
            put(&self.known[cw_dg_pointer_hash(<void*>address, BOOK_BITS)], address, <sockaddr_in6*>name, length)
            return address
        if family == AF_UNIX and length > 2:
            path = <const char*>name + 2
            size = length - 2
            if path[0] == 0:
                return PyBytes_FromStringAndSize(path, size)  # abstract
            return os.fsdecode(PyBytes_FromStringAndSize(path, size).split(b"\0", 1)[0])
        return None  # an unnamed sender

    cdef unsigned int find(self, object address, int family, sockaddr_in6* name) except? 0:
        """Write the socket address of ``address`` to ``name``: its length, 0 where only the standard library can
        say (a host name to look up, an odd type, a port out of range)."""
        cdef Entry* entry = &self.known[cw_dg_pointer_hash(<void*>address, BOOK_BITS)]
        cdef sockaddr_in* four = <sockaddr_in*>name
        cdef full_in6* six = <full_in6*>name
        cdef Py_ssize_t size
        cdef unsigned int length
        cdef long port
        if entry.address == <void*>address and family == cw_dg_family(<cw_dg_name*>&entry.name, entry.length):
            memcpy(name, &entry.name, entry.length)
            return entry.length
        if type(address) is not tuple:
            return 0
        size = len(<tuple>address)
        if size < 2 or type((<tuple>address)[0]) is not str:
            return 0
        for i in range(1, size):
            if type((<tuple>address)[i]) is not int:
                return 0
        if not 0 <= (<tuple>address)[1] <= 65535:
            return 0
        port = (<tuple>address)[1]
        memset(name, 0, sizeof(full_in6))
        if family == AF_INET and size == 2:
            if inet_pton(AF_INET, PyUnicode_AsUTF8((<tuple>address)[0]), &four.sin_addr) != 1:
                return 0
            four.sin_family = AF_INET
            four.sin_port = htons(port)
            length = sizeof(sockaddr_in)
        elif family == AF_INET6 and size <= 4:
            if inet_pton(AF_INET6, PyUnicode_AsUTF8((<tuple>address)[0]), &six.sin6_addr) != 1:
                return 0
            if size > 2 and not 0 <= (<tuple>address)[2] <= 0xFFFFF:
                return 0
            if size > 3 and not 0 <= (<tuple>address)[3] <= 0xFFFFFFFF:
                return 0
            six.sin6_family = AF_INET6
            six.sin6_port = htons(port)
            six.sin6_flowinfo = htonl((<tuple>address)[2]) if size > 2 else 0
            six.sin6_scope_id = (<tuple>address)[3] if size > 3 else 0
            length = sizeof(full_in6)
        else:
            return 0
        put(entry, address, name, length)
        return length

    cpdef int send(self, object sock, int fd, int family, object data, object address) except -2:
        """Send one datagram: 1 when it left, -1 where the call would block.

        :param address: None for a connected socket's peer.
        :raises OSError: as ``socket.sendto``.
        """
        cdef sockaddr_in6 name
        cdef unsigned int length = 0
        cdef Py_buffer view
        cdef int rc
        if address is not None:
            length = self.find(address, family, &name)
            if length == 0:
                return send_by_socket(sock, data, address)
        if PyBytes_CheckExact(data):
            cw_dg_put(self.c, 0, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &name, length)
            rc = self.leave(fd, 1, False)
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                cw_dg_put(self.c, 0, view.buf, view.len, &name, length)
                rc = self.leave(fd, 1, False)
            finally:
                PyBuffer_Release(&view)
        return rc

    cpdef Py_ssize_t send_many(self, object sock, int fd, int family, list out, Py_ssize_t start, bint cut) except -2:
        """Send what ``out`` (data, address, data, address, ...; data are bytes) holds from ``start`` on.

        Returns how many datagrams left in this call, which may be fewer; -1 where the first would block.

        :param cut: hand those of one size to one peer to the kernel as one message that it cuts up (generic
            segmentation offload), for a third of the cost of each. Only where ``can_cut`` says so. ``refused`` then says
            whether the kernel took such messages for this peer.
        :raises OSError: the first one was refused.
        """
        cdef sockaddr_in6 name
        cdef unsigned int length
        cdef int count = 0
        cdef Py_ssize_t total = len(out)
        while start + 1 < total and count < CW_DG_BATCH:
            data = out[start]
            address = out[start + 1]
            length = 0
            if address is not None:
                length = self.find(address, family, &name)
                if length == 0:
                    if count == 0:
                        return send_by_socket(sock, data, address)
                    break
            cw_dg_put(self.c, count, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &name, length)
            count += 1
            start += 2
        return self.leave(fd, count, cut)

    cpdef bint can_cut(self, int fd):
        """Whether ``send_many`` may be told to ``cut``: the socket is UDP, the kernel Linux 4.18."""
        return cw_dg_can_cut(fd)

    cdef int leave(self, int fd, int count, bint cut) except -2:
        cdef int rc
        cdef int refused = 0
        self.refused = False
        while True:
            if cut:
                rc = cw_dg_send_cut(self.c, fd, count, &refused)
                self.refused = refused
            else:
                rc = cw_dg_send(self.c, fd, count)
            if rc >= 0:
                return rc
            if errno == EAGAIN:
                return -1
            if errno != EINTR:
                _fail()


cdef int send_by_socket(object sock, object data, object address) except -2:
    try:
        sock.sendto(data, address)
    except BlockingIOError:
        return -1
    return 1


cdef void put(Entry* entry, object address, sockaddr_in6* name, unsigned int length) noexcept:
    """Fill an entry of the book, in place of another."""
    cdef PyObject* old = <PyObject*>entry.address
    memcpy(&entry.name, name, length)
    entry.length = length
    Py_INCREF(address)
    entry.address = <void*>address
    Py_XDECREF(old)
