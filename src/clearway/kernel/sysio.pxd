# C face of sysio: what the compiled modules above call directly.

cdef class Scratch:
    cdef char* memory
    cdef Py_ssize_t size
    cdef public bint full
    cdef object receive(self, int fd)

cdef class Poller:
    cdef int epfd
    cdef bint ms_only
    cdef void* events
    cdef int capacity
    cpdef int wait(self, long long timeout_ns) except -1
    cdef int fd_at(self, int index)
    cdef unsigned int mask_at(self, int index)
    cpdef int add(self, int fd, unsigned int mask) except -1
    cpdef int modify(self, int fd, unsigned int mask) except -1
    cpdef int remove(self, int fd) except -1
    cpdef object close(self)

cpdef double monotonic()
cpdef Py_ssize_t receive_into(int fd, object buffer) except -2
cpdef bytes receive_some(int fd)
cpdef bint can_receive(int fd)
cpdef Py_ssize_t send_some(int fd, object data, Py_ssize_t offset) except -2
cpdef Py_ssize_t send_list(int fd, list chunks, Py_ssize_t index, Py_ssize_t offset) except -2
cpdef int accept_one(object sock, int fd) except -2
cpdef object pack_addresses(int fd)
cpdef object close_fd(int fd)
cpdef object run_in_context(object context, object callback, tuple args)
cpdef object run_method1(object context, object owner, str name, object arg)
cpdef int check_signals() except -1
