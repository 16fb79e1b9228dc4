cimport cython

from clearway.channels._line cimport Line
from clearway.channels._operation cimport Operation

cdef int _GONE
cdef int _WAITING
cdef int _GRANTED

cdef class Channel:
    cdef object __weakref__
    cdef readonly Py_ssize_t _capacity
    cdef Py_ssize_t _size
    cdef list _ring
    cdef Py_ssize_t _head
    cdef readonly Py_ssize_t _count
    cdef readonly Py_ssize_t _claimed
    cdef readonly Py_ssize_t _reserved
    cdef unsigned long long _sent
    cdef bint _closed
    cdef Line _receivers
    cdef Line _senders
    cdef object _feed
    @cython.locals(operation=Send)
    cpdef object send(self, object message)
    @cython.locals(operation=Receive)
    cpdef object receive(self)
    @cython.locals(operation=Receive)
    cpdef object receive_many(self, Py_ssize_t limit)
    cpdef object send_nowait(self, object message)
    cpdef object receive_nowait(self)
    @cython.locals(room=Py_ssize_t, number=Py_ssize_t, index=Py_ssize_t, batch=list)
    cpdef object send_many_nowait(self, object messages)
    @cython.locals(number=Py_ssize_t)
    cpdef object receive_many_nowait(self, Py_ssize_t limit)
    @cython.locals(operation=Operation)
    cpdef object close(self)
    @cython.locals(index=Py_ssize_t)
    cdef object _put(self, object message)
    @cython.locals(index=Py_ssize_t, ring=list)
    cdef object _take(self)
    @cython.locals(messages=list)
    cdef list _take_many(self, Py_ssize_t number)
    @cython.locals(ring=list, size=Py_ssize_t)
    cdef object _grow(self)
    @cython.locals(operation=Wait)
    cdef object _wake_receivers(self)
    @cython.locals(operation=Wait)
    cdef object _made_room(self)
    @cython.locals(operation=Wait)
    cdef object _end_receivers(self)
    cdef object _unclaim(self)
    cdef object _unreserve(self)
    cdef object _join(self, Wait operation)
    cdef object _leave(self)
    cdef object _take_claimed(self)
    cdef object _raise_empty(self)

cdef class Wait(Operation):
    cpdef object source_closed(self)

cdef class Send(Wait):
    @cython.locals(channel=Channel)
    cpdef bint start(self) except -1
    @cython.locals(channel=Channel)
    cpdef object resume(self)
    @cython.locals(state=int, channel=Channel)
    cpdef object abandon(self)

cdef class Receive(Wait):
    @cython.locals(channel=Channel)
    cpdef bint start(self) except -1
    @cython.locals(number=Py_ssize_t)
    cdef object _finish(self, Channel channel)
    @cython.locals(channel=Channel)
    cpdef object resume(self)
    @cython.locals(state=int, channel=Channel)
    cpdef object abandon(self)
    cdef object _raise_closed(self)
