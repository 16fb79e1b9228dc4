"""Opening a file that must lie beneath a directory, however its path and the links on it were made.

openat2(2) (Linux 5.6) has the kernel hold every step of the path to that: RESOLVE_BENEATH refuses ``..``, absolute
paths and symbolic links that lead out, with EXDEV. RESOLVE_CACHED (5.12) opens only what needs no disk, so that a
program that may not wait can try it on the spot.

Where openat2 is missing or forbidden (an old seccomp profile) the path is walked one component at a time and no
symbolic link is followed: stricter, and as safe.
"""

from __future__ import annotations

import ctypes
import errno
import os

#: The same on every architecture, as all numbers since 5.1.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_CACHED = 0x20

#: Attempts while directories on the way are being renamed, which openat2 answers with EAGAIN.
_TRIES = 16


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def _bind(library: type[ctypes.CDLL]) -> ctypes._NamedFuncPointer:
    syscall = library(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    # Promoted to long: a variadic int argument would leave the upper half of its register undefined.
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_long,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_long,
    )
    return syscall


# The one that may wait lets other threads run; the one that may not keeps the GIL, which is cheaper.
_waiting = _bind(ctypes.CDLL)
_at_once = _bind(ctypes.PyDLL)
_SIZE = ctypes.sizeof(_OpenHow)
_MISSING = (errno.ENOSYS, errno.EPERM)
_has_openat2 = True


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Open ``path`` beneath ``directory``; may wait for a disk.

    :param directory: a descriptor of a directory.
    :param path: relative, without a null byte; links on it are followed as long as they stay beneath.
    :param flags: as for ``os.open``; O_CREAT is not for this. O_CLOEXEC is added.
    :returns: the descriptor.
    :raises OSError: EXDEV or ELOOP: it leads out of the directory; and all that ``os.open`` raises.
    """
    global _has_openat2
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_TRIES):
        if not _has_openat2:
            break
        fd = int(_waiting(_SYS_OPENAT2, directory, path, ctypes.addressof(how), _SIZE))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number == errno.ENOSYS or (number == errno.EPERM and not _is_allowed(directory)):
            _has_openat2 = False
        elif number not in (errno.EAGAIN, errno.EINTR):
            raise OSError(number, os.strerror(number), path)
    else:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
    return _walk(directory, path, flags)


def open_cached(directory: int, path: bytes, flags: int) -> int:
    """The same without waiting: -1 when that is not possible, or not known to be.

    :raises OSError: what the kernel can say without a disk, ENOENT for instance.
    """
    if not _has_openat2:
        return -1
    how = _OpenHow(
        flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_CACHED
    )
    fd = int(_at_once(_SYS_OPENAT2, directory, path, ctypes.addressof(how), _SIZE))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    # EINVAL: Linux before 5.12. The two of _MISSING: ``open_beneath`` finds out.
    if number in (errno.EAGAIN, errno.EINTR, errno.EINVAL, *_MISSING):
        return -1
    raise OSError(number, os.strerror(number), path)


def _is_allowed(directory: int) -> bool:
    """Whether openat2 works at all: EPERM may be the file's answer or that of a seccomp profile."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH)
    fd = int(_waiting(_SYS_OPENAT2, directory, b".", ctypes.addressof(how), _SIZE))
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def _walk(directory: int, path: bytes, flags: int) -> int:
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names or path.startswith(b"/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    last = names.pop() if names else b"."
    at = os.dup(directory)
    try:
        for name in names:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)
