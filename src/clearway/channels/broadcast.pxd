cimport cython

from clearway.channels._line cimport Line
from clearway.channels.channel cimport Channel, Wait

cdef class Subscription(Channel):
    cpdef object send(self, object message)
    cpdef object send_nowait(self, object message)
    cpdef object send_many_nowait(self, object messages)
    cdef object _attach(self, object feed)
    cdef Py_ssize_t _free(self) except -1
    cdef object _fill(self, object message)
    cdef object _announce(self)

cdef class Broadcast:
    cdef object __weakref__
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _reserved
    cdef bint _closed
    cdef tuple _subscriptions
    cdef Line _senders
    @cython.locals(operation=BroadcastSend)
    cpdef object send(self, object message)
    cpdef object send_nowait(self, object message)
    @cython.locals(subscription=Subscription, operation=Wait)
    cpdef object close(self)
    @cython.locals(operation=BroadcastSend)
    cpdef object pump(self)
    cpdef object detach(self, Subscription subscription)
    @cython.locals(subscription=Subscription, room=Py_ssize_t, free=Py_ssize_t)
    cdef Py_ssize_t _room(self) except? -1000000
    @cython.locals(subscription=Subscription)
    cdef object _deliver(self, object message)

cdef class BroadcastSend(Wait):
    @cython.locals(broadcast=Broadcast)
    cpdef bint start(self) except -1
    @cython.locals(broadcast=Broadcast)
    cpdef object resume(self)
    @cython.locals(state=int, broadcast=Broadcast)
    cpdef object abandon(self)
