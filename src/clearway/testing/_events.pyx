# cython: language_level=3
"""Counts what the interpreter executes, and trips the scheduler's handler at chosen counts.

An event is one bytecode instruction, executed in a step of the loop that is watched, of code that is not
on the list of those that are skipped. CPython 3.12 and later report instructions through ``sys.monitoring``;
3.11 through a trace function written in C (a Python one would copy the locals of the frame at each event).

Both only *ask* for the suspension. It happens in the handler that CPython calls at its next bytecode boundary:
a switch inside a trace function would leave the interpreter "tracing" for all the other steps.

Counting instructions instead of the points at which CPython looks for signals is what makes a run repeatable:
specialised instructions skip some of those points, and whether one is specialised depends on how often it ran
before. Under either kind of tracing the interpreter takes the unspecialised path.
"""

import greenlet
import sys

from cpython.object cimport PyObject
from libc.math cimport log
from libc.stdint cimport int64_t, uint64_t

from clearway.scheduler._native cimport StepClock, cw_now
from clearway.scheduler.slices cimport Slices

from clearway.scheduler import _native, rules
from clearway.testing import traced

cdef extern from *:
    """
    #include "frameobject.h"
    #if PY_VERSION_HEX < 0x030C0000
    /* A frame is asked for its opcodes by an attribute; there is no C function for it. */
    static void cw_set_trace(Py_tracefunc function, PyObject *self) { PyEval_SetTrace(function, self); }
    #else
    static void cw_set_trace(Py_tracefunc function, PyObject *self) { (void)function; (void)self; }
    #endif
    """
    ctypedef struct PyFrameObject
    ctypedef struct PyCodeObject
    ctypedef int (*Py_tracefunc)(PyObject *, PyFrameObject *, int, PyObject *) except -1
    void cw_set_trace(Py_tracefunc, PyObject *)
    PyCodeObject *PyFrame_GetCode(PyFrameObject *)
    void Py_DECREF(PyObject *)
    int PyTrace_CALL
    int PyTrace_OPCODE

cdef bint _MONITORS = sys.version_info >= (3, 12)
cdef object _AT_WAIT = _native.AT_WAIT
#: Ids 0 to 2 and 5 are spoken for by convention: debugger, coverage, profiler, optimizer.
_TOOL_IDS = (3, 4)


cdef int _trace(PyObject *self, PyFrameObject *frame, int what, PyObject *arg) except -1:
    cdef PyCodeObject *code
    if what == PyTrace_CALL:
        (<object>frame).f_trace_opcodes = True
    elif what == PyTrace_OPCODE:
        code = PyFrame_GetCode(frame)
        try:
            (<EventCounter>self).count(<object>code)
        finally:
            Py_DECREF(<PyObject *>code)
    return 0


cdef class EventCounter:
    """Trips ``scheduler``'s handler after a random number of events, again and again.

    :param random: a function without parameters that gives a float in [0, 1); asked once per trip.
    :param mean: events between two trips, on the average; they are distributed exponentially.
    :param skipped: beginnings of the file names whose code is not counted.
    """

    cdef Slices _scheduler
    cdef object _random, _on_kick
    cdef StepClock _clock
    cdef tuple _skipped
    cdef dict _verdicts
    cdef double _mean
    cdef int64_t _left
    cdef uint64_t _thread
    cdef bint _active, _asked, _tripping
    cdef int _tool
    cdef readonly int64_t events
    cdef readonly int64_t trips

    def __init__(self, scheduler, random, double mean, tuple skipped, bint tripping=True):
        self._scheduler = scheduler
        self._clock = scheduler.clock
        self._random = random
        self._mean = mean
        self._skipped = skipped
        self._verdicts = {}
        self._tool = -1
        self._tripping = tripping

    def install(self):
        """Make the interpreter report to us. Call from the stack that the loop will run on.

        Raises RuntimeError when no tool id of ``sys.monitoring`` is free.
        """
        if not _MONITORS:
            # Every runner copies "is traced" from the stack it is started from: that is why this cannot
            # wait until the loop runs.
            cw_set_trace(_trace, <PyObject *>self)
            rules.trusted_tracers.append(self)
            return
        monitoring = sys.monitoring
        for tool in _TOOL_IDS:
            if monitoring.get_tool(tool) is None:
                break
        else:
            raise RuntimeError("the shuffler needs a tool id of sys.monitoring; 3 and 4 are both taken")
        monitoring.use_tool_id(tool, "clearway.testing")
        self._tool = tool
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, self.on_instruction)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)

    def remove(self):
        self._active = False
        if not _MONITORS:
            cw_set_trace(NULL, NULL)
            if self in rules.trusted_tracers:
                rules.trusted_tracers.remove(self)
        elif self._tool >= 0:
            monitoring = sys.monitoring
            monitoring.set_events(self._tool, 0)
            monitoring.register_callback(self._tool, monitoring.events.INSTRUCTION, None)
            monitoring.free_tool_id(self._tool)
            self._tool = -1

    def start(self):
        """Begin to count; the scheduler's handler must be installed."""
        import threading

        self._thread = threading.get_ident()
        self._on_kick = self._scheduler._on_kick
        _native.set_receiver(self.on_kick)
        self._draw()
        self._clock.c.only_still = 1
        if not _MONITORS:
            _native.learn_helpers(traced.call)
        self._active = True

    def stop(self):
        """Count no more. What is suspended goes on, undisturbed."""
        self._active = False
        self._asked = False
        self._clock.c.only_still = 0

    def on_instruction(self, code, offset):
        self.count(code)

    cdef int count(self, object code) except -1:
        cdef object verdict
        if not self._active or not (self._clock.c.word & 1) or _thread_id() != self._thread:
            return 0
        if self._scheduler._busy:
            return 0  # what is executed there is the scheduler's doing, not the step's
        verdict = self._verdicts.get(code)
        if verdict is None:
            verdict = code.co_filename.startswith(self._skipped)
            self._verdicts[code] = verdict
        if verdict is True:
            return 0
        self.events += 1
        self._left -= 1
        if self._left > 0 or not self._tripping:
            return 0
        self._draw()
        self.trips += 1
        self._asked = True
        self._clock.trip()
        return 0

    cdef int _draw(self) except -1:
        cdef double number = self._random()
        self._left = 1 + <int64_t>(-log(1.0 - number) * self._mean)
        return 0

    def on_kick(self, frame):
        """In front of the scheduler's handler: what the monitor asks for on account of the time is refused,
        except in a blocking call (whoever holds the lock must go on) and for what is due to be raised."""
        if self._asked:
            self._asked = False
            # The monitor may have kicked since: it is the step that runs now that was meant.
            self._clock.c.kick_word = self._clock.c.word
            self._clock.c.kick_ns = cw_now()
        elif self._active and not self._is_wanted():
            self._scheduler._host.drain_wakeups()
            return
        self._on_kick(frame)

    cdef bint _is_wanted(self) except -1:
        cdef int64_t alarm = self._clock.c.alarm_ns
        if not (self._clock.c.word & 1):
            return True
        if alarm and cw_now() >= alarm:
            return True
        base = getattr(greenlet.getcurrent(), "base", 0)
        return bool(base) and _native.classify(base)[0] == _AT_WAIT


cdef extern from *:
    unsigned long _thread_id "PyThread_get_thread_ident"()
