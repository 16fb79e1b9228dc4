"""An awaitable that completes without an exception, a generator or a future when nothing has to be waited for.

``await`` costs least on an object whose type has the ``am_send`` slot: the interpreter then takes the result
from a C pointer. Without the slot a result travels as a raised ``StopIteration``, which costs as much as the
rest of the operation together. Cython has no spelling for ``am_send``, so it is put into the type by hand, at
import, before any subclass copies its slots. ``_operation.py`` beside this file is the same in ordinary
Python; both must change together.
"""
cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF

from clearway.channels._states import DONE, GONE, GRANTED, NEW, WAITING

from asyncio import get_running_loop

cdef extern from "Python.h":
    ctypedef int (*sendfunc)(object, object, PyObject**) except -1
    ctypedef struct PyAsyncMethods:
        sendfunc am_send
    ctypedef struct CTypeObject "PyTypeObject":
        PyAsyncMethods* tp_as_async
    void PyType_Modified(PyTypeObject*)

cdef int _NEW = NEW, _WAITING = WAITING, _GRANTED = GRANTED, _GONE = GONE, _DONE = DONE


@cython.freelist(64)
cdef class Operation:
    """One awaited operation; see ``_states`` for its life."""

    cpdef bint start(self) except -1:
        """Try at once: True with ``result`` set, or False after queueing for it and ``suspend()``."""
        raise NotImplementedError

    cpdef object resume(self):
        """The result of an operation that was granted; takes what was promised to it."""
        raise NotImplementedError

    cpdef object abandon(self):
        """Leave the queue, or hand back what was promised: nobody waits for this any more."""
        raise NotImplementedError

    cpdef object suspend(self):
        """Make the future that is waited for."""
        self.future = get_running_loop().create_future()
        self.state = _WAITING

    cpdef bint is_waiting(self):
        """Whether it can be granted: queued, and its future neither cancelled nor resolved."""
        return self.state == _WAITING and not self.future.done()

    cpdef object grant(self):
        """Wake whoever waits. The last act of the caller: this may run user code."""
        self.state = _GRANTED
        try:
            self.future.set_result(None)
        except RuntimeError:
            # The loop of the waiter is closed: nobody will resume it.
            self.abandon()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* result = NULL
        if _send(self, None, &result) == 0:
            value = <object>result
            _decref(result)
            stop = StopIteration()
            stop.value = value
            raise stop
        value = <object>result
        _decref(result)
        return value

    def send(self, value):
        return self.__next__()

    def throw(self, exc, value=None, traceback=None):
        """Raise at the point of waiting, as cancellation does."""
        self.close()
        if isinstance(exc, BaseException):
            raise exc
        if value is None:
            value = exc()
        elif not isinstance(value, BaseException):
            value = exc(value)
        raise value.with_traceback(traceback)

    def close(self):
        """Give up, whatever the state. Twice does nothing."""
        cdef int state = self.state
        if state == _WAITING or state == _GRANTED:
            self.abandon()
        self.state = _GONE
        self.future = None


cdef extern from *:
    void _decref "Py_DECREF"(PyObject*)


cdef int _send(object obj, object value, PyObject** out) except -1:
    """0: returned, ``out`` is the result. 1: waits, ``out`` is the future to wait for."""
    cdef Operation self = <Operation>obj
    if self.state == _NEW:
        if not self.start():
            future = self.future
            future._asyncio_future_blocking = True
            Py_INCREF(future)
            out[0] = <PyObject*>future
            return 1
    elif self.state == _GRANTED:
        self.future = None
        self.result = self.resume()
    elif self.state == _WAITING:
        if not self.future.done():
            raise RuntimeError("a channel operation was resumed before it was granted")
        future = self.future
        self.close()
        future.result()
        raise RuntimeError("the future of a channel operation was resolved by somebody else")
    else:
        raise RuntimeError("a channel operation can be awaited once only")
    self.state = _DONE
    result = self.result
    self.result = None
    Py_INCREF(result)
    out[0] = <PyObject*>result
    return 0


(<CTypeObject*>Operation).tp_as_async.am_send = _send
PyType_Modified(<PyTypeObject*>Operation)
