"""Pipes that bytes are spliced through, kept for the next one who needs one.

A pipe is held only while there are bytes in it, so ten thousand idle connections need none. Two bounds apply: the
kernel gives the pipes of one user at most ``/proc/sys/fs/pipe-user-pages-soft`` pages (64 MiB) before they shrink to
two pages each, and a reader that is slow keeps the pipe with its bytes. When ``MAX_PIPES`` are out the next
piece goes through memory of this process instead, which is slower but waits for nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os

#: Bytes a pipe is asked to hold. A page per slot: 256 KiB is what a socket's buffers hold at their defaults.
PIPE_SIZE = 256 * 1024
#: Empty pipes that are kept open.
MAX_IDLE = 16
#: Pipes out at a time: with PIPE_SIZE just the kernel's soft limit for one user, less what the rest may need.
MAX_PIPES = 192


class Pipe:
    """Both ends of a non-blocking pipe and the count of bytes in it.

    :raises OSError: EMFILE or ENFILE, no descriptors left.
    """

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        try:
            self.size = fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except PermissionError:
            # This user's pipes are at their soft limit: it works as it is, in smaller pieces.
            self.size = fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ)

    def drain(self) -> bytes:
        """Take out what is in it."""
        data = bytearray()
        while self.held:
            part = os.read(self.reader, self.held)
            self.held -= len(part)
            data += part
        return bytes(data)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """The pipes of this process."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._out = 0

    def take(self) -> Pipe | None:
        """An empty pipe; None when as many are out as may be, or the process has no descriptors left."""
        if self._out >= MAX_PIPES:
            return None
        if self._idle:
            pipe = self._idle.pop()
        else:
            try:
                pipe = Pipe()
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    return None
                raise
        self._out += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take a pipe back. One with bytes left in it is closed."""
        self._out -= 1
        if pipe.held or len(self._idle) >= MAX_IDLE:
            pipe.close()
        else:
            self._idle.append(pipe)

    @property
    def in_use(self) -> int:
        """Pipes that are out."""
        return self._out

    def trim(self) -> None:
        """Close the pipes nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def _after_fork_in_child(self) -> None:
        # The parent splices through the same pipes.
        self.trim()
        self._out = 0


pool = PipePool()
os.register_at_fork(after_in_child=pool._after_fork_in_child)
