from clearway.buffers.lease cimport Memory

cdef class ReceiveBlock(Memory):
    cpdef object idle(self)
