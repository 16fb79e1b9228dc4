# cython: language_level=3
"""The native half of the scheduler: step clocks, the monitor thread, the kick, the unwinder.

The machinery is C (``native.h``, which says why); this file gives it Python faces. Nothing here knows
what a task or a policy is.
"""

import os

from cpython.exc cimport PyErr_Occurred
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free

cdef extern from "native.h" nogil:
    cw_clock *cw_clock_new()
    void cw_unpark(cw_clock *)
    void cw_wake()
    int cw_register(cw_clock *)
    void cw_unregister(cw_clock *)
    int cw_install_handler(int)
    void cw_remove_handler()
    int cw_handler_is_ours()
    cw_critical cw_critical_state
    cw_critical cw_critical_none
    void cw_trip(cw_clock *)
    void cw_raise_kick(cw_clock *)
    void (*cw_report)() noexcept nogil
    uint64_t cw_monitor_wakeups
    int cw_monitor_runs
    uintptr_t cw_handler_frame
    uint32_t cw_tripped
    uintptr_t cw_frame_here()
    int cw_add_to_set(int, uintptr_t)
    int cw_allowed_count
    const char *cw_allowed_names[64]
    unsigned long long cw_modules_version
    int cw_signature_count
    int cw_calibrate_outer
    ctypedef struct cw_trace:
        uintptr_t ip[64]
        int n
        int too_deep
    void cw_load_modules()
    void cw_unwind(cw_trace *, uintptr_t, uintptr_t)
    uintptr_t cw_function_of(uintptr_t)
    int cw_in_set(int, uintptr_t)
    int CW_SET_HELPER, CW_SET_FRAGILE, CW_SET_SAFE

cdef extern from "native.h":
    int cw_classify(uintptr_t, char *, size_t, int *)
    void cw_seed_sets(object)
    int cw_calibrate_direct(uintptr_t)
    int cw_calibrate_tripped(uintptr_t)
    int cw_learn_wait(uintptr_t)
    void cw_learn_helpers(uintptr_t)
    uintptr_t cw_entry_of(object, uintptr_t *)
    object cw_describe(uintptr_t)
    int cw_tracing()
    int cw_inside_tracer()
    PyObject *PyThreadState_GetDict()

PLAN_WATCH, PLAN_WAITS = CW_PLAN_WATCH, CW_PLAN_WAITS
MODE_OFF, MODE_REPORT, MODE_ON = 0, 1, 2
AT_BOUNDARY, AT_WAIT, AT_C_CALL, AT_FOREIGN, AT_DEEP, AT_FINALISER, AT_UNKNOWN = range(7)


cdef class StepClock:
    """The step counter of one loop, on its own cache line, and what the monitor needs to judge it.

    ``word`` is even between passes and odd while a step runs; the loop adds 2 per step, so a monitor
    that reads the same odd value twice knows that one step ran all the while.
    """

    def __cinit__(self):
        self.c = cw_clock_new()
        if self.c == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.c != NULL:
            cw_unregister(self.c)
            free(self.c)

    cdef void unpark_now(self) noexcept:
        cw_unpark(self.c)

    cdef void answered(self) noexcept:
        global cw_tripped
        cw_tripped = 0

    def adopt_thread(self):
        """The calling thread runs the loop from now on: its critical sections are the loop's."""
        self.c.critical = &cw_critical_state

    def leave_thread(self):
        self.c.critical = &cw_critical_none

    def configure(self, *, int mode, int64_t quantum_ns, int64_t report_ns=0, int engine_fd=-1):
        """Set what the monitor does: mode, slice and report threshold in ns (0 = no reports)."""
        self.c.quantum_ns = quantum_ns
        self.c.report_ns = report_ns
        self.c.engine_fd = engine_fd
        self.c.mode = mode

    def register(self):
        """Put the calling thread under the monitor, starting the monitor if none runs.

        Raises OSError when no thread can be started.
        """
        cdef int error = cw_register(self.c)
        if error:
            raise OSError(error, f"cannot start the scheduler's monitor thread: {os.strerror(error)}")

    def unregister(self):
        """Take the loop from under the monitor; no kick is sent after this returns."""
        with nogil:
            cw_unregister(self.c)

    def unpark(self):
        """Wake the monitor if it parked because every loop was idle."""
        self.unpark_if_parked()

    def plan(self, int64_t due_ns, bint watch=False, bint waits=False):
        """Announce the slice of the step that runs now.

        due_ns: CLOCK_MONOTONIC time of the kick. watch: also kick when the engine's fd is readable or
        the loop's deadline has passed. waits: the step sits in a blocking call.
        """
        cw_plan(self.c, due_ns, (CW_PLAN_WATCH if watch else 0) | (CW_PLAN_WAITS if waits else 0))

    def poke(self):
        """Make the monitor look now: for a slice shorter than its tick."""
        cw_wake()

    def trip(self):
        """Ask for the Python-level handler now, from the loop's own thread (testing)."""
        cw_trip(self.c)

    def raise_kick(self):
        """Send this thread a kick as the monitor would: both stages (self-test)."""
        cw_raise_kick(self.c)

    @property
    def word(self):
        return self.c.word

    @word.setter
    def word(self, uint64_t value):
        self.c.word = value

    @property
    def parked(self):
        return self.c.parked != 0

    @property
    def registered(self):
        return self.c.registered != 0

    @property
    def kick_word(self):
        return self.c.kick_word

    @property
    def kick_ns(self):
        return self.c.kick_ns

    @property
    def kicks(self):
        """(soft, hard) kicks sent."""
        return self.c.kicks_soft, self.c.kicks_hard

    @property
    def ticks(self):
        return self.c.ticks

    @property
    def stall(self):
        """(word, since_ns) of the last step that the monitor saw over the report threshold."""
        return self.c.stall_word, self.c.stall_since_ns

    @property
    def engine_fd(self):
        return self.c.engine_fd

    @engine_fd.setter
    def engine_fd(self, int fd):
        self.c.engine_fd = fd

    @property
    def deadline_ns(self):
        return self.c.deadline_ns

    @deadline_ns.setter
    def deadline_ns(self, int64_t value):
        self.c.deadline_ns = value

    @property
    def hurry_ns(self):
        return self.c.hurry_ns

    @hurry_ns.setter
    def hurry_ns(self, int64_t value):
        self.c.hurry_ns = value

    @property
    def alarm_ns(self):
        return self.c.alarm_ns

    @alarm_ns.setter
    def alarm_ns(self, int64_t value):
        self.c.alarm_ns = value


# -- critical sections of the calling thread ---------------------------------------------------------

# From this maximum on a section is timed by the kernel's coarse clock, which is up to 10 ms behind.
cdef int64_t COARSE_FROM_NS = 50_000_000


cdef inline int64_t _now_for(int64_t maximum_ns) noexcept:
    return cw_now_coarse() if maximum_ns >= COARSE_FROM_NS else cw_now()


cpdef void enter_section(int64_t maximum_ns) noexcept:
    """Enter a critical section, which is too long after ``maximum_ns`` if it is the outermost one."""
    cdef cw_critical *here = &cw_critical_state
    here.depth += 1
    if here.depth == 1:
        here.maximum_ns = maximum_ns
        here.since_ns = _now_for(maximum_ns)


cpdef int64_t leave_section() noexcept:
    """Leave one. The time it took, ns, if it was the outermost one and too long; else 0.

    One that was entered in a step that has ended since is no longer counted.
    """
    cdef cw_critical *here = &cw_critical_state
    cdef int64_t took
    if here.depth == 0:
        return 0
    here.depth -= 1
    if here.depth:
        return 0
    took = _now_for(here.maximum_ns) - here.since_ns
    return took if took > here.maximum_ns else 0


def section_depth():
    """How many critical sections the calling thread's step is in."""
    return cw_critical_state.depth


def set_section_depth(int value):
    """For a host that is written in Python, whose own lines must not be suspended."""
    cw_critical_state.depth = value


def set_sections_aside():
    """Leave all sections of the calling thread; returns what ``take_sections_up`` needs."""
    cdef cw_critical *here = &cw_critical_state
    aside = (here.depth, _now_for(here.maximum_ns) - here.since_ns, here.maximum_ns)
    here.depth = 0
    return aside


def take_sections_up(tuple aside):
    """Be in them again. The time between does not count."""
    cdef cw_critical *here = &cw_critical_state
    here.depth, used, here.maximum_ns = aside
    here.since_ns = _now_for(here.maximum_ns) - <int64_t>used


def now_ns():
    """CLOCK_MONOTONIC in ns, the clock of every time in this package."""
    return cw_now()


def monitor_state():
    """(running, wake-ups) of the process's monitor thread."""
    return cw_monitor_runs != 0, cw_monitor_wakeups


cdef object _on_stall = None


cdef void _report() noexcept with gil:
    if _on_stall is not None:
        _on_stall()


def set_stall_receiver(receiver):
    """Who is called, on a thread of its own, when the monitor has seen a step over its report threshold."""
    global _on_stall, cw_report
    _on_stall = receiver
    if receiver is not None:
        cw_report = <void (*)() noexcept nogil>_report


# -- the signal handler ------------------------------------------------------------------------------

cdef object _receiver = None
cdef int _calibrating = 0  # 1: bytecode boundaries, 2: waits
cdef int _calibration_error = 0
cdef int _learnt = 0
cdef uintptr_t _calibration_base = 0


def handle_signal(signum, frame):
    """The Python-level handler of the virtual signal: one function for calibration and for life, so
    that CPython calls both the same way and the stacks can be compared."""
    global _calibration_error, _learnt, cw_handler_frame, cw_tripped
    cdef uintptr_t outer = cw_handler_frame
    cw_handler_frame = cw_frame_here()
    if _receiver is None or _calibrating:
        cw_tripped = 0
    if _calibrating == 1:
        _calibration_error |= cw_calibrate_tripped(_calibration_base)
        cw_handler_frame = outer
    elif _calibrating == 2:
        _learnt += cw_learn_wait(_calibration_base)
        cw_handler_frame = outer
    elif _receiver is not None:
        # A switch may happen inside, and other runners' handlers then overwrite cw_handler_frame;
        # nobody reads it after the switch without having set it. But a handler within a handler gives
        # the mark back, for the outer one may be about to look at the stack.
        try:
            _receiver(frame)
        finally:
            cw_handler_frame = outer
            cw_tripped = 0


def set_receiver(receiver):
    """Who gets ``(frame)`` when a kick has reached the eval loop; None for nobody. Returns who got it."""
    global _receiver
    old = _receiver
    _receiver = receiver
    return old


def install_kick(int virtual_signal):
    """Install the C handler of SIGURG, which trips ``virtual_signal`` on the kicked thread."""
    if cw_install_handler(virtual_signal) != 0:
        raise OSError("sigaction(SIGURG) was refused")


def remove_kick():
    cw_remove_handler()


def kick_is_installed():
    return cw_handler_is_ours() != 0


# -- the unwinder ------------------------------------------------------------------------------------

class _Finalised:
    def __del__(self):
        pass


def seed(waits, denied, callers, allowed_modules):
    """Tell the unwinder what it may meet on the stack.

    waits: builtins and method descriptors that block and may be suspended. denied: those beneath which
    nothing may. callers: C functions of every calling convention, to learn the helpers that call such.
    allowed_modules: file-name stems of extension modules such as ``"_asyncio"``.
    Returns the waits that have no C function to look for.
    """
    global _allowed_keepalive, cw_allowed_count, cw_modules_version
    cdef uintptr_t helper, entry
    cdef bytes name
    unknown = []
    cw_seed_sets(_Finalised)
    for wait in waits:
        entry = cw_entry_of(wait, &helper)
        if entry == 0 or cw_add_to_set(0, entry) != 0:
            unknown.append(wait)
        else:
            cw_add_to_set(1, helper)
    for call in denied:
        entry = cw_entry_of(call, &helper)
        if entry:
            cw_add_to_set(3, entry)
    for call in callers:
        if cw_entry_of(call, &helper):
            cw_add_to_set(1, helper)
    _allowed_keepalive = [str(m).encode() for m in allowed_modules][:64]
    cw_allowed_count = len(_allowed_keepalive)
    for i, name in enumerate(_allowed_keepalive):
        cw_allowed_names[i] = name
    cw_modules_version = 0
    return unknown


_allowed_keepalive = []


def stack_mark():
    """An address of this stack: frames above it belong to the caller's callers."""
    return cw_frame_here()


def classify(uintptr_t base):
    """Where the step above ``base`` was interrupted: (AT_..., foreign module or "", native depth).

    Only meaningful beneath ``handle_signal``.
    """
    cdef char detail[80]
    cdef int depth = 0
    cdef int where = cw_classify(base, detail, sizeof(detail), &depth)
    return where, detail.decode("utf-8", "replace"), depth


def native_stack(uintptr_t base=0):
    """The native frames from here to ``base``, as text."""
    return cw_describe(base)


def calibrate(direct, tripped):
    """Learn what a bytecode boundary looks like from below.

    direct: a Python function that calls its argument once. tripped: Python functions that call their
    argument and then reach a bytecode boundary. Returns the number of distinct boundaries learnt;
    raises RuntimeError when the stack makes no sense, in which case nothing may be suspended.
    """
    global _calibrating, _calibration_error, _calibration_base, cw_calibrate_outer
    _calibrating = 1
    _calibration_error = 0
    _calibration_base = cw_frame_here()
    cw_calibrate_outer = -1
    try:
        _run(direct, _probe)
        if cw_calibrate_outer < 0:
            raise RuntimeError("calibration failed: the eval loop was not found on the native stack")
        for function in tripped:
            _run(function, _trip_now)
    finally:
        _calibrating = 0
    if _calibration_error or not cw_signature_count:
        raise RuntimeError("calibration failed: an interrupted bytecode boundary was not recognised")
    return cw_signature_count


def learn_waits(samples):
    """Let the monitor interrupt each sample (a Python function that blocks for about a millisecond
    straight in a wait) and remember which function is seen there. Must follow ``calibrate``.

    Returns how many were learnt; on a busy machine the interruption may come too late, so each sample is
    tried a few times.
    """
    global _calibrating, _calibration_base, _learnt
    cdef int attempt, before, count = 0
    cdef StepClock clock = StepClock()
    _calibrating = 2
    _calibration_base = cw_frame_here()
    clock.configure(mode=MODE_ON, quantum_ns=100_000)
    clock.register()
    try:
        for sample in samples:
            before = _learnt
            for attempt in range(20):
                clock.c.word |= 1
                cw_wake()
                _run(sample, None)
                clock.c.word += 1
                if _learnt > before:
                    count += 1
                    break
    finally:
        clock.unregister()
        _calibrating = 0
    return count


def learn_helpers(function):
    """Learn through what the interpreter calls C functions now: ``function`` calls its argument.

    Must follow ``calibrate``. For the shuffler, whose trace function changes the way of each call on 3.11.
    """
    global _calibration_base
    _calibration_base = cw_frame_here()
    _run(function, _learn_helpers)


def _learn_helpers():
    cw_learn_helpers(_calibration_base)


def call_from_c(function, argument):
    """``function(argument)``, and the mark above which ``native_addresses`` is to look is this call."""
    global _calibration_base
    _calibration_base = cw_frame_here()
    _run(function, argument)


def native_addresses():
    """The native frames from here out to ``call_from_c``: pairs of a function's start and a return address in it.

    Without those that merely help to call a C function.
    """
    cdef cw_trace trace
    cw_load_modules()
    cw_unwind(&trace, 0, _calibration_base)
    if trace.too_deep:
        raise RuntimeError("calibration failed: more native frames than can be judged")
    frames = [(cw_function_of(trace.ip[i]), trace.ip[i]) for i in range(trace.n)]
    return [frame for frame in frames if not cw_in_set(CW_SET_HELPER, frame[0])]


def add_fragile(uintptr_t function, uintptr_t safe_address):
    """Suspend nothing that ``function`` calls, except where the call returns to ``safe_address``; 0 for neither."""
    if cw_add_to_set(CW_SET_FRAGILE, function) or cw_add_to_set(CW_SET_SAFE, safe_address):
        raise RuntimeError("calibration failed: too many call sites")


cdef _run(function, argument):
    function(argument)


cdef StepClock _calibration_clock = StepClock()


def _probe():
    cw_calibrate_direct(_calibration_base)


def _trip_now():
    _calibration_clock.raise_kick()


# -- the thread state --------------------------------------------------------------------------------

def is_traced():
    """Say whether a trace or profile function is set on this thread, or one is running."""
    return cw_tracing() != 0


def is_inside_tracer():
    return cw_inside_tracer() != 0


def error_is_set():
    """Say whether an exception is in flight, which a switch would lose."""
    return PyErr_Occurred() != NULL


def set_representations_aside():
    """Take away which objects this thread is in the ``repr()`` of, by which CPython ends recursion ("[...]").

    They are the step's: another one that shows the same list must see all of it. Returns what
    ``take_representations_up`` needs; None when there are none.
    """
    cdef PyObject *state = PyThreadState_GetDict()
    if state == NULL or not (<dict>state).get("Py_Repr"):
        return None
    return (<dict>state).pop("Py_Repr")


def take_representations_up(shown):
    """Be in them again."""
    (<dict>PyThreadState_GetDict())["Py_Repr"] = shown
