from clearway.steps cimport Step

cdef class FileOperation(Step):
    cdef readonly int opcode
    cdef readonly int fd
    cdef readonly unsigned long long address
    cdef readonly unsigned int length
    cdef readonly unsigned long long offset
    cdef readonly unsigned int flags
    cdef readonly bint forced
    cdef public bint flying
    cdef public int result
