"""The functions of ``os`` and ``os.path`` that ask the disk, none of which stops the loop.

They take what the originals take and raise what those raise. What changes a directory goes through the ring where
there is one, the rest through threads. Functions that only look stop waiting when they are cancelled; those that
change something stay until it is certain what has happened.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, AnyStr, Self, TypeVar

from clearway.files._host import (
    AT_FDCWD,
    Request,
    StrPath,
    c_path,
    calling,
    running_host,
)
from clearway.kernel import fileio

T = TypeVar("T")

#: Directory entries per hand-over to a thread.
ENTRIES = 256

# The working directory once more, in a field without a sign.
_HERE = AT_FDCWD & 0xFFFFFFFF
_REMOVEDIR = 0x200  # AT_REMOVEDIR


async def _look(function: Callable[..., T], *args: Any, **options: Any) -> T:
    return await running_host().look(functools.partial(function, *args, **options))


async def _change(function: Callable[..., T], *args: Any, **options: Any) -> T:
    return await running_host().run(functools.partial(function, *args, **options))


# -- looking -------------------------------------------------------------------------------------------------


async def stat(path: StrPath | int, *, follow_symlinks: bool = True) -> os.stat_result:
    """As ``os.stat``."""
    return await _look(os.stat, path, follow_symlinks=follow_symlinks)


async def lstat(path: StrPath) -> os.stat_result:
    """As ``os.lstat``: of a symbolic link itself."""
    return await _look(os.lstat, path)


async def exists(path: StrPath) -> bool:
    """Whether there is something at ``path``; False as well where that cannot be found out, as ``os.path.exists``."""
    return await _look(os.path.exists, path)


async def isfile(path: StrPath) -> bool:
    """Whether a regular file is at ``path``, symbolic links followed."""
    return await _look(os.path.isfile, path)


async def isdir(path: StrPath) -> bool:
    """Whether a directory is at ``path``, symbolic links followed."""
    return await _look(os.path.isdir, path)


async def islink(path: StrPath) -> bool:
    """Whether a symbolic link is at ``path``."""
    return await _look(os.path.islink, path)


async def getsize(path: StrPath) -> int:
    """Bytes in the file at ``path``."""
    return await _look(os.path.getsize, path)


async def samefile(one: StrPath, other: StrPath) -> bool:
    """Whether both paths lead to the same file."""
    return await _look(os.path.samefile, one, other)


async def access(path: StrPath, mode: int) -> bool:
    """As ``os.access``."""
    return await _look(os.access, path, mode)


async def statvfs(path: StrPath) -> os.statvfs_result:
    """As ``os.statvfs``: the file system that ``path`` is on."""
    return await _look(os.statvfs, path)


async def readlink(path: AnyStr | os.PathLike[AnyStr]) -> AnyStr:
    """As ``os.readlink``: where a symbolic link points."""
    return await _look(os.readlink, path)


async def realpath(path: AnyStr | os.PathLike[AnyStr], *, strict: bool = False) -> AnyStr:
    """As ``os.path.realpath``: without symbolic links."""
    return await _look(os.path.realpath, path, strict=strict)


async def listdir(path: AnyStr | os.PathLike[AnyStr]) -> list[AnyStr]:
    """As ``os.listdir``: the names in a directory."""
    return await _look(os.listdir, path)


class Scan(AsyncIterator["os.DirEntry[AnyStr]"]):
    """What ``scandir`` gives: an asynchronous iterator, and a context manager that closes the directory."""

    def __init__(self, path: Any) -> None:
        self._path = path
        self._source: Any = None
        self._batch: Iterator[os.DirEntry[AnyStr]] = iter(())
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> os.DirEntry[AnyStr]:
        while True:
            for entry in self._batch:
                return entry
            if self._over:
                raise StopAsyncIteration
            self._batch = iter(await _change(self._next_batch))

    def _next_batch(self) -> list[os.DirEntry[AnyStr]]:
        if self._source is None:
            self._source = os.scandir(self._path)
        batch = list(itertools.islice(self._source, ENTRIES))
        for entry in batch:
            entry.is_dir()  # follows a link now, in this thread, and remembers
        self._over = len(batch) < ENTRIES
        return batch

    async def close(self) -> None:
        """Close the directory: for a loop that is left before the last entry."""
        self._over = True
        self._batch = iter(())
        if self._source is not None:
            await _change(self._source.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def scandir(path: AnyStr | os.PathLike[AnyStr]) -> Scan[AnyStr]:
    """As ``os.scandir``, for ``async for``: the entries of a directory, ENTRIES at a time.

    ``is_dir``, ``is_file`` and ``is_symlink`` of an entry know the answer; its ``stat`` asks the disk on the spot:
    ``await files.stat(entry.path)`` does not.
    """
    os.fspath(path)
    return Scan(path)


async def walk(
    top: AnyStr | os.PathLike[AnyStr],
    *,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
    """As ``os.walk``, from the top down: (directory, names of directories, names of files) for each directory.

    :param onerror: is called with the error of a directory that cannot be listed; None leaves it out.
    """
    waiting: list[AnyStr] = [os.fspath(top)]
    while waiting:
        directory = waiting.pop()
        directories: list[AnyStr] = []
        files: list[AnyStr] = []
        links: set[AnyStr] = set()
        try:
            async for entry in scandir(directory):
                if entry.is_dir():
                    directories.append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
                else:
                    files.append(entry.name)
        except OSError as exc:
            if onerror is not None:
                onerror(exc)
            continue
        yield directory, directories, files
        # The caller may have changed the list, as with os.walk.
        for name in reversed(directories):
            if followlinks or name not in links:
                waiting.append(os.path.join(directory, name))


# -- changing ------------------------------------------------------------------------------------------------


async def _on_path(
    function: Callable[..., Any], opcode: int, path: StrPath, length: int = 0, flags: int = 0
) -> None:
    """An operation on one path, in the ring or by ``function()``."""
    host = running_host()
    name = c_path(path)
    request = Request(calling(function), name, opcode, AT_FDCWD, name.address, length, 0, flags)
    await host.perform(request, path)


async def _on_paths(
    function: Callable[..., Any], opcode: int, source: StrPath, target: StrPath, length: int
) -> None:
    """The same on two paths."""
    host = running_host()
    names = (c_path(source), c_path(target))
    request = Request(
        calling(function), names, opcode, AT_FDCWD, names[0].address, length, names[1].address
    )
    await host.perform(request, source, target)


async def mkdir(path: StrPath, mode: int = 0o777) -> None:
    """As ``os.mkdir``."""
    await _on_path(functools.partial(os.mkdir, path, mode), fileio.MKDIRAT, path, length=mode)


async def makedirs(path: StrPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """As ``os.makedirs``: with the directories above it."""
    await _change(os.makedirs, path, mode, exist_ok)


async def rename(source: StrPath, target: StrPath) -> None:
    """As ``os.rename``; a file at ``target`` is replaced, in one step."""
    await _on_paths(
        functools.partial(os.rename, source, target), fileio.RENAMEAT, source, target, _HERE
    )


async def replace(source: StrPath, target: StrPath) -> None:
    """As ``os.replace``: the same, everywhere."""
    await rename(source, target)


async def remove(path: StrPath) -> None:
    """As ``os.remove``: a file, not a directory."""
    await _on_path(functools.partial(os.unlink, path), fileio.UNLINKAT, path)


async def unlink(path: StrPath) -> None:
    """As ``os.unlink``: the same as ``remove``."""
    await remove(path)


async def rmdir(path: StrPath) -> None:
    """As ``os.rmdir``: an empty directory."""
    await _on_path(functools.partial(os.rmdir, path), fileio.UNLINKAT, path, flags=_REMOVEDIR)


async def symlink(source: StrPath, target: StrPath) -> None:
    """As ``os.symlink``: a symbolic link at ``target`` that points to ``source``."""
    await _on_paths(
        functools.partial(os.symlink, source, target), fileio.SYMLINKAT, source, target, 0
    )


async def link(source: StrPath, target: StrPath) -> None:
    """As ``os.link``: another name for the file ``source``."""
    await _on_paths(
        functools.partial(os.link, source, target), fileio.LINKAT, source, target, _HERE
    )


async def chmod(path: StrPath, mode: int, *, follow_symlinks: bool = True) -> None:
    """As ``os.chmod``."""
    await _change(os.chmod, path, mode, follow_symlinks=follow_symlinks)


async def chown(path: StrPath, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
    """As ``os.chown``; -1 leaves the user or the group as it is."""
    await _change(os.chown, path, uid, gid, follow_symlinks=follow_symlinks)


async def utime(
    path: StrPath,
    times: tuple[float, float] | None = None,
    *,
    ns: tuple[int, int] | None = None,
    follow_symlinks: bool = True,
) -> None:
    """As ``os.utime``: access and modification time, in seconds or nanoseconds; default: now."""
    options: dict[str, Any] = {} if ns is None else {"ns": ns}
    await _change(os.utime, path, times, follow_symlinks=follow_symlinks, **options)


async def truncate(path: StrPath, length: int) -> None:
    """As ``os.truncate``: make the file at ``path`` ``length`` bytes long."""
    await _change(os.truncate, path, length)


async def rmtree(path: StrPath) -> None:
    """Remove a directory and all below it, never through a symbolic link.

    :raises OSError: something could not be removed; what was before it is gone.
    """
    import shutil

    await _change(shutil.rmtree, path)
