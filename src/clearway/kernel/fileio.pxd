cdef class Block:
    cdef void* raw             # PyObject*: the bytes object that is being filled, or NULL
    cdef void* view            # Py_buffer*: the exported buffer of somebody else, or NULL
    cdef char* memory
    cdef readonly Py_ssize_t size
    cdef public int pins
    cdef int check(self, Py_ssize_t start, Py_ssize_t length) except -1
    cpdef Py_ssize_t read_now(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except -3
    cpdef Py_ssize_t write_now(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except -3
    cpdef Py_ssize_t read(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except? -1
    cpdef Py_ssize_t write(self, int fd, Py_ssize_t start, Py_ssize_t length, long long offset) except? -1
    cpdef object release(self)
    cpdef object copy(self, Py_ssize_t start, Block source, Py_ssize_t source_start, Py_ssize_t length)
    cpdef bytes finish(self, Py_ssize_t count)

cpdef object pread_now(int fd, Py_ssize_t size, long long offset)
