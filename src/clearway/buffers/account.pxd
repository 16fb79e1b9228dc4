cimport cython

cdef class Account:
    cdef readonly str path
    cdef readonly Account parent
    cdef readonly unsigned long long moved
    cdef readonly unsigned long long copied
    @cython.locals(account=Account)
    cpdef object add(self, Py_ssize_t moved, Py_ssize_t copied)
