# C face of dgram: what the datagram transport calls directly.

cdef extern from "dgram.h" nogil:
    ctypedef struct cw_dg:
        pass
    ctypedef struct cw_dg_name:
        pass
    struct sockaddr_in6:
        pass

cdef enum:
    BOOK_BITS = 9
    BOOK_SIZE = 512

cdef struct Entry:
    sockaddr_in6 name      # large enough for IPv4
    unsigned int length
    void* address          # a reference to the tuple

cdef class Datagrams:
    cdef cw_dg* c
    cdef Entry seen[BOOK_SIZE]
    cdef Entry known[BOOK_SIZE]
    cdef readonly bint more
    cdef readonly bint refused
    cdef readonly bint copies
    cdef object address_of(self, int index)
    cdef unsigned int find(self, object address, int family, sockaddr_in6* name) except? 0
    cdef int leave(self, int fd, int count, bint cut) except -2
    cpdef bint can_cut(self, int fd)
    cpdef list receive(self, object sock, int fd)
    cpdef int send(self, object sock, int fd, int family, object data, object address) except -2
    cpdef Py_ssize_t send_many(self, object sock, int fd, int family, list out, Py_ssize_t start, bint cut) except -2
