"""Reading a file into the page cache before the loop sends it, so that a cold file never stops the loop.

sendfile(2) and splice(2) from a file wait for the disk in the calling thread, whatever the flags of the other end.
So each window of the file is asked about first (``kernel.pagecache``), and one that is not cached is fetched by a
worker thread with a sendfile(2) of its own, to /dev/null: that fills the cache the way the loop's sendfile will
read it, and copies nothing. (A window that is thrown out of the cache again before it is sent stalls the loop for
that one read.)
"""

from __future__ import annotations

import errno
import os

from clearway.kernel import pagecache
from clearway.loop.workers import in_worker

#: Bytes asked about, and fetched, at a time: about 10 ms of a disk that reads 100 MB/s, and 0.25 ms of sending.
WINDOW = 1024 * 1024
#: What sendfile(2) answers where it cannot be used at all.
_UNSUITED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Readahead:
    """Keeps ahead of one reader of one regular file.

    :param fd: the file; readable.
    :param end: where the file ended when it was asked, in bytes.
    :ivar fetched: bytes that were not in the cache.
    """

    def __init__(self, fd: int, end: int) -> None:
        self._fd = fd
        self._end = end
        self._ready_from = 0
        self._ready_to = 0
        self.fetched = 0

    def room(self, offset: int) -> int:
        """How many bytes can be read at ``offset`` without waiting; 0: ``fetch`` them first."""
        if self._ready_from <= offset < self._ready_to:
            return self._ready_to - offset
        count = min(WINDOW, self._end - offset)
        # Beyond the end as it was nothing is cold: what was appended since has just been written.
        if count > 0 and not pagecache.is_resident(self._fd, offset, count):
            return 0
        self._ready_from = offset
        self._ready_to = offset + WINDOW
        return WINDOW

    async def fetch(self, offset: int) -> None:
        """Bring the window at ``offset`` into the cache, and have the disk go on with the next one.

        :raises OSError: the disk failed.
        """
        count = min(WINDOW, self._end - offset)
        await in_worker(_fetch, self._fd, offset, count)
        self.fetched += count
        self._ready_from = offset
        self._ready_to = offset + count


def _fetch(fd: int, offset: int, count: int) -> None:
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        while count > 0:
            n = _fetch_piece(sink, fd, offset, count)
            if n == 0:
                return  # truncated meanwhile
            offset += n
            count -= n
    finally:
        os.close(sink)
    os.posix_fadvise(fd, offset, WINDOW, os.POSIX_FADV_WILLNEED)


def _fetch_piece(sink: int, fd: int, offset: int, count: int) -> int:
    try:
        return os.sendfile(sink, fd, offset, count)
    except OSError as exc:
        if exc.errno not in _UNSUITED:
            raise
    # A file system that cannot splice, or a filter of system calls. Whoever sends will find out and do without.
    return len(os.pread(fd, count, offset))
