cimport cython

from clearway.steps cimport Handle

cdef class TimerHandle(Handle):
    cdef public double _when
    cdef readonly bint _scheduled
    cdef Py_ssize_t _index
    cdef unsigned long long _order
    cdef TimerHeap _heap
    cpdef object run(self)
    cpdef object cancel(self)

cdef class TimerHeap:
    cdef list _items
    cdef unsigned long long _count
    cdef bint is_empty(self)
    @cython.locals(first=TimerHandle)
    cpdef double first_when(self)
    cpdef object push(self, TimerHandle handle)
    @cython.locals(first=TimerHandle)
    cpdef TimerHandle pop_due(self, double now)
    cpdef object discard(self, TimerHandle handle)
    @cython.locals(handle=TimerHandle)
    cpdef object clear(self)
    @cython.locals(items=list, handle=TimerHandle, last=TimerHandle)
    cdef object _take(self, Py_ssize_t index)
    @cython.locals(items=list, handle=TimerHandle, parent=TimerHandle, parent_index=Py_ssize_t)
    cdef object _sift_up(self, Py_ssize_t index)
    @cython.locals(items=list, size=Py_ssize_t, handle=TimerHandle, child=TimerHandle, right=TimerHandle, child_index=Py_ssize_t)
    cdef object _sift_down(self, Py_ssize_t index)

cdef bint _before(TimerHandle a, TimerHandle b)
