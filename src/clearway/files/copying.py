"""``copyfile``: from file to file within the kernel, a piece at a time.

copy_file_range(2) shares blocks where the file system can (btrfs, XFS) and otherwise copies in the page cache. Where
it cannot be used, sendfile(2) is tried, then reading and writing. Holes stay holes. Each piece is a blocking call in a
thread, so that a cancellation and the progress are never more than one piece away.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable

from clearway.files._host import StrPath, running_host

#: Bytes per piece: 10 ms at 1.6 GB/s.
PIECE = 16 * 1024 * 1024
#: Bytes read and written at a time where the kernel does not copy by itself.
BUFFER = 1024 * 1024

#: "Not between these two files": other file systems, special ones, old kernels, a security module.
_CANNOT = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
)


async def copyfile(
    source: StrPath,
    destination: StrPath,
    *,
    preserve: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Copy the contents of a file to another, which is created or replaced, as ``shutil.copyfile``.

    When it fails or is cancelled, a destination that was created by it is removed again.

    :param preserve: copy permissions, times and extended attributes too (``shutil.copystat``).
    :param progress: is called with (bytes done, bytes in all) after each piece; holes count as done.
    :returns: bytes in the copy.
    :raises shutil.SameFileError: both are the same file.
    :raises shutil.SpecialFileError: one of them is no regular file.
    :raises OSError: reading or writing failed; ENOSPC: the disk is full.
    """
    host = running_host()
    copy = _Copy(source, destination)
    try:
        await host.run(copy.open)
        while await host.run(copy.step):
            if progress is not None:
                progress(copy.done, max(copy.size, copy.done))
        await host.run(lambda: copy.close(preserve))
    except BaseException:
        await host.run(copy.abandon)
        raise
    if progress is not None:
        progress(copy.done, copy.done)
    return copy.done


class _Copy:
    """A copy under way. Its methods block."""

    def __init__(self, source: StrPath, destination: StrPath) -> None:
        self._from = source
        self._to = destination
        self._source = -1
        self._target = -1
        self._created = False
        self._method: Callable[[int], int] = self._by_range
        self._data_end = -1  # of the stretch of data that is being copied; -1: unknown
        self.size = 0
        self.done = 0

    def open(self) -> None:
        self._source = os.open(self._from, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._source)
        self._check_kind(status.st_mode, self._from)
        self.size = status.st_size
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._target = os.open(self._to, flags | os.O_CREAT | os.O_EXCL, 0o666)
            self._created = True
        except FileExistsError:
            # Not truncated before it is known to be another file.
            self._target = os.open(self._to, flags | os.O_CREAT, 0o666)
        there = os.fstat(self._target)
        self._check_kind(there.st_mode, self._to)
        if os.path.samestat(status, there):
            raise shutil.SameFileError(f"{self._from!r} and {self._to!r} are the same file")
        os.ftruncate(self._target, 0)
        if not self.size:
            self._method = self._by_buffer  # files of /proc say 0 and have contents

    @staticmethod
    def _check_kind(mode: int, path: StrPath) -> None:
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise shutil.SpecialFileError(f"{path!r} is not a regular file")

    def step(self) -> bool:
        """Copy the next piece; False at the end of the file."""
        length = PIECE
        if self.size:
            self._find_data()
            length = min(PIECE, self._data_end - self.done) if self._data_end >= 0 else PIECE
            if length == 0:
                return False
        count = self._copy(length)
        self.done += count
        if self.done == self._data_end:
            self._data_end = -1
        return count > 0

    def _find_data(self) -> None:
        """Skip a hole."""
        if self._data_end >= 0:
            return
        try:
            start = os.lseek(self._source, self.done, os.SEEK_DATA)
            self._data_end = os.lseek(self._source, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                return  # the file system does not tell: all is data
            # Nothing but a hole is left.
            start = self._data_end = os.fstat(self._source).st_size
        if start > self.done:
            os.ftruncate(self._target, start)
            self.done = start

    def _copy(self, length: int) -> int:
        while True:
            try:
                return self._method(length)
            except OSError as exc:
                if exc.errno not in _CANNOT or self._method == self._by_buffer:
                    exc.filename = (
                        self._to if exc.errno in (errno.ENOSPC, errno.EDQUOT) else self._from
                    )
                    raise
                self._method = (
                    self._by_sendfile if self._method == self._by_range else self._by_buffer
                )

    def _by_range(self, length: int) -> int:
        return os.copy_file_range(self._source, self._target, length, self.done, self.done)

    def _by_sendfile(self, length: int) -> int:
        os.lseek(self._target, self.done, os.SEEK_SET)
        return os.sendfile(self._target, self._source, self.done, length)

    def _by_buffer(self, length: int) -> int:
        data = os.pread(self._source, min(length, BUFFER), self.done)
        view = memoryview(data)
        at = self.done
        while view:
            written = os.pwrite(self._target, view, at)
            view = view[written:]
            at += written
        return len(data)

    def close(self, preserve: bool) -> None:
        if preserve:
            shutil.copystat(self._from, self._to)
        os.close(self._source)
        self._source = -1
        target, self._target = self._target, -1
        os.close(target)

    def abandon(self) -> None:
        """Let go; remove what this copy created."""
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
        if self._created:
            try:
                os.unlink(self._to)
            except FileNotFoundError:
                pass
