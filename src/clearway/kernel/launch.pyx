"""Start a program without waiting until it runs.

``launch.py`` beside this file stands in where nothing is compiled.

fork(2) copies page tables and vfork(2) stops the thread that calls it, with the GIL, until the child has had a core
and has loaded its program: 50 µs on an idle machine, several hundred where children before it are at work, longer
where the program has to come from a disk. Here the child shares the memory as after vfork, and the parent goes on.
What the child reads, and its stack, is one block of memory that is not freed before the child has let go of it. It
says so by a pipe's end that closes on execve, which the kernel does after giving the program memory of its own; and a
child that dies drops the memory first and its descriptors after that.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.errno cimport EINTR, EINVAL, ENOSYS, EPERM, errno
from libc.string cimport memcpy, memset, strlen

cdef extern from "launch.h" nogil:
    enum: CW_LAUNCH_STACK
    enum: CW_FAILED_CHDIR
    enum: CW_FAILED_EXEC
    ctypedef struct cw_launch:
        int error
        int stage
        char** paths
        char** args
        char** env
        const char* cwd
        const int* keep
        int keep_count
        int report
        int from_ "from"[3]
        int close_others
        int restore_signals
        int new_session
        int group
        int mask
    int cw_launch_supported()
    int cw_launch_start(cw_launch*, char* stack)

cdef extern from "fcntl.h" nogil:
    int c_fcntl "fcntl"(int, int, ...)
    enum: F_DUPFD_CLOEXEC
    enum: O_CLOEXEC

cdef extern from "unistd.h" nogil:
    int pipe2(int*, int)
    int c_close "close"(int)
    int getpid()
    ssize_t c_read "read"(int, void*, size_t)
    char** environ

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd*, unsigned long, int)
    enum: POLLIN

cdef extern from "Python.h":
    int PyUnicode_FSConverter(object, PyObject**) except 0
    PyObject* PyErr_SetFromErrno(object)

CHDIR = CW_FAILED_CHDIR
EXEC = CW_FAILED_EXEC

cdef bint unsupported = not cw_launch_supported()


cdef extern from *:
    """
    static inline void cw_drop(PyObject *o) { Py_DECREF(o); }
    static inline void cw_set_errno(int error) { errno = error; }
    """
    void cw_drop(PyObject*)
    void cw_set_errno(int)


cdef int _fail(int error) except -1:
    cw_set_errno(error)
    PyErr_SetFromErrno(OSError)
    return -1


cdef bytes _encoded(object name):
    """A str, bytes or path as the kernel wants it."""
    cdef PyObject* raw = NULL
    PyUnicode_FSConverter(name, &raw)
    converted = <bytes>raw  # Cython takes a reference of its own
    cw_drop(raw)
    return converted


cdef class Launch:
    """A child that has been started and may not have run its program yet.

    :ivar pid: its process id.
    :ivar fd: readable when it runs its program or has ended; then call ``finish``. -1 after that.
    """
    cdef readonly int pid
    cdef readonly int fd
    cdef int owner
    cdef cw_launch* block

    def __cinit__(self):
        self.pid = -1
        self.fd = -1
        self.block = NULL

    def __dealloc__(self):
        if self.fd >= 0:
            if self.pid >= 0 and getpid() == self.owner:
                self.await_child()
            c_close(self.fd)
        PyMem_RawFree(self.block)

    cdef int await_child(self) noexcept nogil:
        """Wait until the child has let go of the memory."""
        cdef char nothing
        while c_read(self.fd, &nothing, 1) < 0 and errno == EINTR:
            pass
        return 0

    def finish(self):
        """(error number, stage) of what failed, (0, 0) when the program runs; waits where that is not decided yet.

        The stage is CHDIR, EXEC or another number.
        """
        cdef int error, stage
        with nogil:
            self.await_child()
        error = self.block.error
        stage = self.block.stage
        c_close(self.fd)
        self.fd = -1
        PyMem_RawFree(self.block)
        self.block = NULL
        return error, stage


def launch(
    args, paths, bint close_others, keep, cwd, env, int stdin, int stdout, int stderr, bint restore_signals,
    bint new_session, int group, int mask
):
    """Start a child that runs the first of ``paths`` that can be run: its ``Launch``, None where only the standard
    library can (a processor, a kernel or a sandbox without the means).

    :param args: the arguments, that for the program's name first; str, bytes or paths, as the other names.
    :param close_others: leave it no descriptors above 2 but those of ``keep``.
    :param env: a list of bytes, ``NAME=value``; None: this process's own.
    :param stdin: what becomes its descriptor 0; -1: what is. Likewise the other two.
    :param group: the process group to enter, 0 for its own; -1: the parent's.
    :param mask: the umask; -1: the parent's.
    :raises OSError: there can be no other pipe or process.
    :raises ValueError: a name has a null byte.
    """
    cdef Launch self
    cdef list texts
    cdef Py_ssize_t path_count, arg_count, env_count, count, size, index
    cdef int ends[2]
    cdef int high, error
    cdef char* at
    cdef char** pointers
    cdef int* numbers
    cdef cw_launch* block
    cdef char** own
    global unsupported
    if unsupported:
        return None
    texts = [_encoded(path) for path in paths]
    path_count = len(texts)
    for arg in args:
        texts.append(_encoded(arg))
    arg_count = len(texts) - path_count
    env_count = 0
    size = 0
    own = NULL
    if env is None:
        # A copy: ours may change while the child is about to read it.
        own = environ
        while own != NULL and own[env_count] != NULL:
            size += strlen(own[env_count]) + 1
            env_count += 1
    else:
        env_count = len(env)
        for entry in env:
            if b"\0" in <bytes>entry:
                raise ValueError("embedded null byte")
            size += PyBytes_GET_SIZE(entry) + 1
    where = None if cwd is None else _encoded(cwd)
    if where is not None:
        size += PyBytes_GET_SIZE(where) + 1
    if arg_count == 0:
        raise ValueError("there is no argument for the program's name")
    for text in texts:
        size += PyBytes_GET_SIZE(text) + 1
    kept = sorted(set(keep))
    if kept and kept[0] < 0:
        raise ValueError("bad value(s) in fds_to_keep")

    self = Launch()
    size += sizeof(cw_launch) + (path_count + arg_count + env_count + 3) * sizeof(char*)
    size += (len(kept) + 1) * sizeof(int) + CW_LAUNCH_STACK
    block = self.block = <cw_launch*>PyMem_RawMalloc(size)
    if block == NULL:
        raise MemoryError()
    memset(block, 0, sizeof(cw_launch))
    at = <char*>block + sizeof(cw_launch)
    pointers = <char**>at
    at += (path_count + arg_count + env_count + 3) * sizeof(char*)
    numbers = <int*>at
    at += (len(kept) + 1) * sizeof(int)
    block.paths = pointers
    for index in range(path_count + arg_count):
        if index == path_count:
            pointers[0] = NULL
            pointers += 1
            block.args = pointers
        text = texts[index]
        pointers[0] = at
        pointers += 1
        count = PyBytes_GET_SIZE(text) + 1
        memcpy(at, PyBytes_AS_STRING(text), count)
        at += count
    pointers[0] = NULL
    pointers += 1
    block.env = pointers
    for index in range(env_count):
        pointers[0] = at
        pointers += 1
        if own != NULL:
            count = strlen(own[index]) + 1
            memcpy(at, own[index], count)
        else:
            entry = env[index]
            count = PyBytes_GET_SIZE(entry) + 1
            memcpy(at, PyBytes_AS_STRING(entry), count)
        at += count
    pointers[0] = NULL
    if where is not None:
        block.cwd = at
        count = PyBytes_GET_SIZE(where) + 1
        memcpy(at, PyBytes_AS_STRING(where), count)
        at += count
    block.from_[0] = stdin
    block.from_[1] = stdout
    block.from_[2] = stderr
    block.close_others = close_others
    block.restore_signals = restore_signals
    block.new_session = new_session
    block.group = group
    block.mask = mask

    if pipe2(ends, O_CLOEXEC) < 0:
        _fail(errno)
    self.fd = ends[0]
    if ends[1] < 3:
        # Where the child's own standard streams go.
        high = c_fcntl(ends[1], F_DUPFD_CLOEXEC, 3)
        error = errno
        c_close(ends[1])
        if high < 0:
            _fail(error)
        ends[1] = high
    block.report = ends[1]
    kept = sorted({*kept, block.report})
    block.keep = numbers
    block.keep_count = len(kept)
    for index in range(block.keep_count):
        numbers[index] = kept[index]
    self.owner = getpid()
    self.pid = cw_launch_start(block, at)
    error = errno
    c_close(ends[1])
    if self.pid < 0:
        if error == EINVAL or error == ENOSYS or error == EPERM:
            unsupported = True  # an emulator or a tracer that has only the usual kinds of clone
            return None
        _fail(error)
    return self
