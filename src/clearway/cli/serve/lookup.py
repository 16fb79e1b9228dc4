"""From the target of a request to an open file beneath the directory that is served, and never to another.

Two things keep it there. The path is taken apart here, so that nothing odd (``..``, null bytes) reaches the kernel;
and the kernel opens it by a call that refuses to leave the directory, whatever links are on the way
(``kernel.beneath``). The second alone would do.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from clearway.kernel.beneath import open_beneath, open_cached
from clearway.loop.workers import in_worker

#: Never waits for the other side of a pipe, never makes a terminal ours.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class BadTarget(Exception):
    """The target of the request is no path: 400."""


class Hidden(Exception):
    """The path leads to or through a name that begins with a dot: as good as not there."""


@dataclass(slots=True)
class Found:
    """What a path led to. Whoever has it closes it.

    :ivar path: relative to the directory that is served.
    :ivar status: of the open descriptor.
    """

    fd: int
    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)

    async def close(self) -> None:
        """Close it; in a thread when it was removed meanwhile, as the last close then frees its blocks."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if os.fstat(fd).st_nlink:
                os.close(fd)
            else:
                await in_worker(os.close, fd)


def path_of(target: bytes, *, hidden: bool) -> bytes:
    """The path within the directory that a request's target means: b"" for the directory itself, with a slash at
    the end if the target has one.

    :param hidden: names that begin with a dot are to be served too.
    :raises BadTarget: it is none, or has a null byte, a broken escape, or dot segments (clients take those out:
        RFC 3986, section 5.2.4).
    :raises Hidden: one of its names begins with a dot.
    """
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            raise BadTarget
        target = target[absolute.end() :] or b"/"
    path = target.partition(b"?")[0].partition(b"#")[0]
    if b"%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadTarget
        path = unquote_to_bytes(path)
    if b"\0" in path:
        raise BadTarget
    if b"/." in path:
        for name in path.split(b"/"):
            if name in (b".", b".."):
                raise BadTarget
            if name.startswith(b".") and not hidden and name != b".well-known":
                raise Hidden
    path = path.lstrip(b"/")
    while b"//" in path:
        path = path.replace(b"//", b"/")
    return path


class Root:
    """The directory that is served.

    :param path: of it; it may be a symbolic link.
    :raises OSError: it is no directory or cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        # Not O_PATH: that would put off "permission denied" to the first request.
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)

    async def find(self, path: bytes) -> Found:
        """Open what is at ``path``.

        :raises OSError: it is not there, leads out (EXDEV, ELOOP), may not be read, ...
        """
        fd = open_cached(self.fd, path or b".", _FLAGS)
        if fd >= 0:
            # Of an inode that has just been looked up: nothing to wait for.
            return Found(fd, path, os.fstat(fd))
        found: list[Found] = []
        try:
            await in_worker(self._find, path, found)
        except BaseException:
            for one in found:
                os.close(one.fd)
            raise
        return found[0]

    def _find(self, path: bytes, found: list[Found]) -> None:
        fd = open_beneath(self.fd, path or b".", _FLAGS)
        try:
            found.append(Found(fd, path, os.fstat(fd)))
        except BaseException:
            os.close(fd)
            raise
