"""When a step may be suspended: the rules U0 to U9, cheapest first.

Each rule answers one question about the interrupted point; the first that objects wins, the suspension is
put off and asked again shortly, and the objection is counted. Nothing is ever forced.

Two kinds of evidence are used. The *native* stack says whether the interpreter stands between two bytecodes,
in a blocking call that CPython lets signal handlers interrupt, or in somebody's C code (U4, U5, U6). The
*Python* frames say whose code is in the middle of something (U7, U8). For the latter only the innermost frame
and the plain calls above the nearest coroutine frame count, that frame included: whoever awaits it stands at
an ``await``, where others may run anyway. Without that no request handler of a web framework could ever be
suspended.

Rows for third-party code are in ``libraries``. ``deny`` and ``allow`` change the table.
"""

from __future__ import annotations

import _queue
import _thread
import fcntl
import gc
import io
import os
import select
import signal
import socket
import sys
import time
import weakref
from typing import Any

from clearway.scheduler.libraries import LIBRARIES

# What each rule asks, in the order in which they are asked. The index is the rule's number.
RULES: tuple[str, ...] = (
    "U0 nobody else has anything to do",
    "U1 not in a user step, or too many steps are suspended, or the loop is closing",
    "U2 in a critical section, or the task is not preemptible",
    "U3 traced or profiled, an exception in flight, or a foreign greenlet",
    "U4 in a C call that is not a suspendable wait",
    "U5 native code of somebody else, or a container that is comparing keys, on the stack",
    "U6 in a finaliser or the garbage collector",
    "U7 code that must run to its end",
    "U8 holding a lock that is owned by the thread",
    "U9 its domain forbids it",
)
U0, U1, U2, U3, U4, U5, U6, U7, U8, U9 = range(10)

#: Extension modules of the standard library whose frames may lie between the handler and the step's base:
#: they keep no state on the stack that another step could meet. Not here: _sqlite3 and _ctypes (callbacks
#: with the connection or the thread state half-way), _ssl (one object used by two steps), _pickle, _lsprof.
ALLOWED_EXTENSIONS: tuple[str, ...] = (
    "_asyncio",
    "_greenlet",
    "_socket",
    "select",
    "_queue",
    "_heapq",
    "_bisect",
    "_json",
    "_posixsubprocess",
    "_struct",
    "_random",
    "_datetime",
    "_statistics",
    "_contextvars",
    "_multiprocessing",
    "math",
    "array",
    "fcntl",
    "mmap",
    "resource",
    "sysio",  # ours, when it was built outside a directory called clearway
)

#: Module (and everything below it) -> why a step must not be suspended in it.
DENIED_MODULES: dict[str, str] = {
    "importlib": "others would see a half-made module; import locks are owned by thread",
    "_frozen_importlib": "others would see a half-made module; import locks are owned by thread",
    "_frozen_importlib_external": "others would see a half-made module",
    "zipimport": "others would see a half-made module",
    "pkgutil": "works on the import system",
    "runpy": "runs module bodies",
    "asyncio": "its locks, queues and transports rely on run-to-completion between awaits",
    "threading": "its bookkeeping is keyed by thread",
    "_threading_local": "keyed by thread",
    "logging": "handlers are serialised by locks owned by thread",
    "concurrent.futures": "callbacks run under a condition",
    "multiprocessing": "its resource sharing is keyed by thread",
    "weakref": "finalisers and half-updated maps",
    "_weakrefset": "iteration guards count per set",
    "gc": "the collector stays busy for everybody",
    "warnings": "catch_warnings changes state that everybody shares",
    "unittest.mock": "patches are undone by position",
    "contextlib._RedirectStream": "sys.stdout is everybody's",
    "ssl": "one SSL object must not be used by two steps at once",
    "subprocess": "between fork and the bookkeeping of the child",
    "selectors": "an event loop of its own",
    "socket.socket.close": "the number may be another file's before all that knew it has heard of the end",
    "socket.socket._real_close": "in the middle of socket.close",
    "socket.socket._decref_socketios": "in the middle of socket.close",
    "socket.socket.detach": "as socket.close: the number is taken away",
    "bdb": "debuggers follow one stack",
    "pdb": "debuggers follow one stack",
    "trace": "tracers follow one stack",
    "coverage": "tracers follow one stack",
    "faulthandler": "reports follow one stack",
    "traceback": "linecache is rebuilt in place",
    "linecache": "the cache is rebuilt in place",
    "reprlib.recursive_repr": "what is being shown is keyed by thread: others would see `...`",
    "dataclasses._recursive_repr": "what is being shown is keyed by thread: others would see `...`",
    "functools._find_impl": "goes through a registry to which others may add",
    "clearway": "the loop's own code between awaits",
    **LIBRARIES,
}

#: Exceptions to the table above: user code is called from these, and they hold nothing there.
ALLOWED_FUNCTIONS: set[tuple[str, str]] = {
    # These only call the user's callback, as the core does.
    ("clearway.scheduler.runner", "run"),
    ("clearway.scheduler.runner", "_run"),
    ("asyncio.events", "_run"),
    ("asyncio.runners", "run"),
    ("threading", "run"),
    ("concurrent.futures.thread", "run"),
    ("textual._callback", "_invoke"),
}

#: (module, function): interrupted in a wait *in* this function is a safe point, although the module is
#: denied: neither it nor its callers in WAIT_FAMILY hold anything there that another step needs.
KNOWN_WAITS: set[tuple[str, str]] = {
    ("threading", "wait"),  # Condition, Event, Barrier: the condition's lock is released meanwhile
    ("threading", "wait_for"),
    ("threading", "acquire"),  # Semaphore
    ("threading", "__enter__"),
    ("threading", "join"),
    ("threading", "_wait_for_tstate_lock"),  # Thread.join until 3.12
    ("subprocess", "_wait"),
    ("subprocess", "_try_wait"),
    ("subprocess", "_communicate"),
    ("selectors", "select"),
    ("multiprocessing.connection", "_recv"),
    ("multiprocessing.connection", "wait"),
    ("multiprocessing.popen_fork", "poll"),
    ("multiprocessing.queues", "get"),  # waits for its turn to read
    ("multiprocessing.synchronize", "wait"),
    ("multiprocessing.synchronize", "notify"),  # until those that it wakes have seen it
    ("multiprocessing.synchronize", "__enter__"),
    ("ssl", "read"),
}

#: Denied modules that merely pass on to a known wait, so that their frames above one do not count.
WAIT_FAMILY: tuple[str, ...] = (
    "threading",
    "concurrent.futures",
    "subprocess",
    "selectors",
    "multiprocessing",
    "contextlib",
)

#: What in that family does more than pass on: it waits with a lock that others only meet where they cannot be
#: suspended, or in the middle of a dialogue that is keyed by thread.
NOT_IN_FAMILY: frozenset[str] = frozenset(
    {
        "concurrent.futures.thread.submit",  # until the first thread runs
        "concurrent.futures.process.submit",
        "multiprocessing.managers",
        "multiprocessing.pool",
        "multiprocessing.resource_sharer",
    }
)

_COROUTINE_FLAGS = (
    0x0080 | 0x0100 | 0x0200
)  # CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR
_FINALISER_NAMES = frozenset({"__del__"})
_VERDICTS_MAX = 4096

# id of a code object -> (denied reason or None, is a known wait, belongs to the wait family, reference to the code).
# By identity: code objects of equal functions in different files are equal. By weak reference: a verdict must not
# keep the code of a module that was imported and dropped, with all its constants.
_verdicts: dict[int, tuple[str | None, bool, bool, Any]] = {}


def deny(module: str, reason: str = "denied by the program") -> None:
    """Never suspend a step while code of ``module`` (or below it) is in the middle of something.

    :param module: dotted module name, or ``module.function`` or ``module.Class`` for a part of it.
    """
    if not isinstance(module, str):
        raise TypeError(f"module must be a string, not {type(module).__name__}")
    DENIED_MODULES[module] = reason
    _verdicts.clear()


def allow(module: str, function: str | None = None) -> None:
    """Take ``module`` off the table, or only one ``function`` of it."""
    if function is None:
        DENIED_MODULES.pop(module, None)
        prefix = module + "."
        for name in [name for name in DENIED_MODULES if name.startswith(prefix)]:
            del DENIED_MODULES[name]
    else:
        ALLOWED_FUNCTIONS.add((module, function))
    _verdicts.clear()


#: Trace functions under which steps may be suspended (U3): those that keep nothing per stack.
trusted_tracers: list[Any] = []


def add_wait(module: str, function: str) -> None:
    """Declare that a step which blocks in ``module.function`` may be suspended there."""
    KNOWN_WAITS.add((module, function))
    _verdicts.clear()


def _denied_reason(module: str, function: str, qualified: str) -> str | None:
    if (module, function) in ALLOWED_FUNCTIONS:
        return None
    reason = DENIED_MODULES.get(module + "." + function)
    name = module + "." + qualified
    while reason is None and name:
        reason = DENIED_MODULES.get(name)
        name = name.rpartition(".")[0]
    return reason


def _judge_code(code: Any, frame: Any) -> tuple[str | None, bool, bool, Any]:
    module = frame.f_globals.get("__name__")
    if not isinstance(module, str):
        module = ""
    name = code.co_name
    if name == "<module>":
        reason: str | None = "a module body is being executed: others would see half of it"
    else:
        reason = _denied_reason(module, name, code.co_qualname)
        if reason is not None:
            reason = f"{module}.{name}: {reason}"
    family = False
    for prefix in WAIT_FAMILY:
        if module == prefix or module.startswith(prefix + "."):
            family = module not in NOT_IN_FAMILY and f"{module}.{name}" not in NOT_IN_FAMILY
    number = id(code)
    reference = weakref.ref(code, lambda _: _verdicts.pop(number, None))
    verdict = (reason, (module, name) in KNOWN_WAITS, family, reference)
    if len(_verdicts) >= _VERDICTS_MAX:
        _verdicts.clear()
    _verdicts[number] = verdict
    return verdict


def judge_frames(frame: Any, waits: bool) -> str | None:
    """U7: the reason why a step must not be suspended at ``frame``, or None.

    :param waits: it was interrupted in a suspendable blocking call.
    """
    innermost = True
    pardoned = False
    while frame is not None:
        code = frame.f_code
        verdict = _verdicts.get(id(code))
        if verdict is None:
            verdict = _judge_code(code, frame)
        if innermost and waits and verdict[1]:
            pardoned = True
        if verdict[0] is not None and not (pardoned and verdict[2]):
            return verdict[0]
        if code.co_flags & _COROUTINE_FLAGS:
            return None
        innermost = False
        frame = frame.f_back
    return None


def is_finaliser(frame: Any) -> bool:
    """U6, the Python half: is a ``__del__`` among the frames above ``frame``?"""
    while frame is not None:
        if frame.f_code.co_name in _FINALISER_NAMES:
            return True
        frame = frame.f_back
    return False


# -- U3: debuggers and profilers that leave no mark on the thread ---------------------------------------------

_get_tool: Any = sys.monitoring.get_tool if sys.version_info >= (3, 12) else None
_DEBUGGER_ID = 0
_PROFILER_ID = 2


def is_watched() -> bool:
    """U3: does a debugger or profiler follow this stack by way of ``sys.monitoring`` (cProfile since 3.12)?

    Coverage and the shuffler, which use it too, keep nothing per stack.
    """
    return _get_tool is not None and (
        _get_tool(_DEBUGGER_ID) is not None or _get_tool(_PROFILER_ID) is not None
    )


# -- U8: locks owned by the thread --------------------------------------------------------------------------

_RLockType = type(_thread.RLock())
_known_locks: list[Any] = []


def learn_locks() -> int:
    """Remember every RLock that exists now: those made later know which step owns them.

    Returns how many there are. Weak references where the type allows them.
    """
    del _known_locks[:]
    for candidate in gc.get_objects():
        if type(candidate) is _RLockType:
            _known_locks.append(weakref.ref(candidate))
    return len(_known_locks)


def holds_known_lock() -> bool:
    """U8: does this thread own one of the locks that were made before start-up?"""
    for reference in _known_locks:
        lock = reference()
        if lock is not None and lock._is_owned():
            return True
    return False


# -- U6: the collector --------------------------------------------------------------------------------------


class CollectorWatch:
    """Knows whether the garbage collector runs: what it calls (finalisers, weak-reference callbacks) leaves
    no common mark on the native stack."""

    def __init__(self) -> None:
        self.collecting = False

    def install(self) -> None:
        # First at the start and last at the end, so that other people's callbacks count as well.
        gc.callbacks.insert(0, self._started)
        gc.callbacks.append(self._stopped)

    def remove(self) -> None:
        for callback in (self._started, self._stopped):
            try:
                gc.callbacks.remove(callback)
            except ValueError:
                pass
        self.collecting = False

    def _started(self, phase: str, info: Any) -> None:
        if phase == "start":
            self.collecting = True

    def _stopped(self, phase: str, info: Any) -> None:
        if phase == "stop":
            self.collecting = False


# -- U4 and U5: what the unwinder is told -------------------------------------------------------------------


def _methods(owner: Any, *names: str) -> list[Any]:
    return [owner.__dict__[name] for name in names if name in owner.__dict__]


def suspendable_waits() -> list[Any]:
    """The C functions that block, run signal handlers on EINTR and then go on waiting (PEP 475)."""
    raw_socket = socket.socket.__mro__[1]
    waits: list[Any] = [time.sleep, select.select]
    waits += _methods(_thread.LockType, "acquire", "acquire_lock", "__enter__")
    waits += _methods(_RLockType, "acquire", "__enter__")
    if sys.version_info >= (3, 13):
        # Before, a get() with a timeout that a signal interrupts after its deadline waits for ever: the
        # rest of the time becomes negative, which means "no limit" to the lock beneath.
        waits += _methods(_queue.SimpleQueue, "get")
    waits += _methods(
        raw_socket,
        *("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"),
        *("send", "sendall", "sendto", "sendmsg", "_accept", "connect", "connect_ex"),
    )
    waits += _methods(type(select.poll()), "poll")
    waits += _methods(select.epoll, "poll")
    # Unbuffered files only: a Buffered object refuses a second step while the first is inside.
    waits += _methods(io.FileIO, "read", "readinto", "readall", "write")
    for name in (
        *(
            "read",
            "readv",
            "write",
            "writev",
            "open",
            "waitpid",
            "waitid",
            "wait",
            "wait3",
            "wait4",
        ),
        *("sendfile", "pread", "pwrite"),
    ):
        waits.append(getattr(os, name))
    waits += [fcntl.flock, fcntl.lockf, fcntl.fcntl, fcntl.ioctl]
    waits += [signal.sigwaitinfo, signal.sigtimedwait]
    handle = getattr(_thread, "_ThreadHandle", None)  # 3.13: what Thread.join ends in
    if handle is not None:
        waits += _methods(handle, "join")
    try:
        import _multiprocessing  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        waits += _methods(_multiprocessing.SemLock, "acquire", "__enter__")
    return waits


def denied_calls() -> list[Any]:
    """C calls beneath which no step may be suspended: "reentrant call" for everybody else."""
    calls: list[Any] = []
    for owner in (io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper):
        for base in owner.__mro__:
            if base.__module__ in ("_io", "io") and base.__name__ not in ("IOBase", "_IOBase"):
                calls += _methods(
                    base,
                    *(
                        "read",
                        "read1",
                        "readinto",
                        "readinto1",
                        "readline",
                        "peek",
                        "write",
                        "flush",
                    ),
                    *("close", "seek", "tell", "truncate", "__next__", "detach"),
                )
    return calls
