"""Whether a piece of a file lies in the page cache: reading it then never waits for a disk.

Two questions, because neither answers alone. cachestat(2) (Linux 6.5) counts the cached pages of a range in one
call, but counts those too that a read-ahead is still filling. A one-byte preadv2(2) with RWF_NOWAIT (4.14) says
whether its page is filled, but only that page; some file systems (tmpfs) refuse it. Where cachestat is missing
or forbidden, a byte of each read-ahead unit is asked for instead.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

_PAGE = mmap.PAGESIZE
#: The same on every architecture, as all numbers since 5.1.
_SYS_CACHESTAT = 451
#: Bytes between the probes where there is no cachestat: the default read-ahead of a block device (128 KiB), which
#: is fetched as a whole.
_PROBE_STEP = 128 * 1024


class _CachestatRange(ctypes.Structure):
    """``struct cachestat_range`` of linux/mman.h."""

    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Cachestat(ctypes.Structure):
    """``struct cachestat`` of linux/mman.h."""

    _fields_ = (
        ("nr_cache", ctypes.c_uint64),
        ("nr_dirty", ctypes.c_uint64),
        ("nr_writeback", ctypes.c_uint64),
        ("nr_evicted", ctypes.c_uint64),
        ("nr_recently_evicted", ctypes.c_uint64),
    )


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_has_cachestat = True


def cached_pages(fd: int, offset: int, count: int) -> int:
    """The cached pages of ``count`` bytes from ``offset``; -1 where the kernel does not say.

    :raises OSError: EBADF for a bad descriptor.
    """
    global _has_cachestat
    if not _has_cachestat:
        return -1
    wanted = _CachestatRange(offset, count)
    found = _Cachestat()
    # Promoted to long: a variadic int argument would leave the upper half of its register undefined.
    if not _syscall(
        ctypes.c_long(_SYS_CACHESTAT),
        ctypes.c_long(fd),
        ctypes.byref(wanted),
        ctypes.byref(found),
        ctypes.c_long(0),
    ):
        return int(found.nr_cache)
    error = ctypes.get_errno()
    if error == errno.EBADF:
        raise OSError(error, os.strerror(error))
    if error in (errno.ENOSYS, errno.EPERM):
        _has_cachestat = False  # an older kernel, or a seccomp profile that does not know it
    return -1


def is_resident(fd: int, offset: int, count: int) -> bool:
    """Whether reading ``count`` bytes (above 0) of a regular file from ``offset`` would not wait for a disk.

    :param count: bytes, not beyond the end of the file.
    :returns: False also where the file system does not tell.
    :raises OSError: the descriptor cannot be read.
    """
    last = offset + count - 1
    pages = cached_pages(fd, offset, count)
    if pages >= 0:
        if pages < last // _PAGE - offset // _PAGE + 1:
            return False
        return _is_filled(fd, last, True)
    return all(_is_filled(fd, at, False) for at in (*range(offset, last, _PROBE_STEP), last))


def _is_filled(fd: int, offset: int, unknown: bool) -> bool:
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            return unknown
        raise
    return True
