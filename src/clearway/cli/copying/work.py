"""Carrying out a plan. Each file is copied under another name and renamed when it is whole."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clearway import files, open_file
from clearway.cli.copying.plan import Item, Plan
from clearway.loop.workers import in_worker

#: Files copied at a time: small ones wait for directories and inodes, not for bandwidth.
JOBS = 4
#: Bytes compared at a time by ``verify``.
COMPARED = 1024 * 1024

#: What will not be better with the next file.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class Different(OSError):
    """What was written is not what was read."""


@dataclass
class Account:
    """What has been done so far: exact also when it is interrupted.

    :ivar files: whole files that are in place.
    :ivar size: their bytes.
    :ivar moving: bytes of files that are on their way.
    :ivar failed: (path, why), in the order in which it happened.
    :ivar unfinished: files that were on their way when it ended. Nothing is left of them.
    """

    files: int = 0
    size: int = 0
    directories: int = 0
    links: int = 0
    moving: dict[Path, int] = field(default_factory=dict)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)

    @property
    def moved(self) -> int:
        """Bytes, those on their way included."""
        return self.size + sum(self.moving.values())


class Copier:
    """Carries out a plan.

    :param verify: read each copy back from the disk and compare before it is put in place.
    :param sync: have each file on the disk before it is put in place.
    :param on_progress: called with the account after each piece.
    """

    def __init__(
        self,
        plan: Plan,
        account: Account,
        *,
        verify: bool = False,
        sync: bool = False,
        on_progress: Callable[[Account], object] = lambda _: None,
    ) -> None:
        self._plan = plan
        self.account = account
        self._verify = verify
        self._sync = sync
        self._on_progress = on_progress

    async def run(self) -> None:
        """Copy everything; what fails is in the account.

        :raises OSError: something after which there is no point in going on, a full disk for instance.
        """
        self.account.failed += self._plan.left_out
        skipped: list[Path] = []
        for item in self._plan.directories:
            try:
                await self._directory(item)
            except OSError as exc:
                self._fail(item, exc)
                skipped.append(item.target)
        for item in self._plan.links:
            try:
                await self._link(item)
            except OSError as exc:
                self._fail(item, exc)
        waiting = iter(self._plan.files)

        async def work() -> None:
            for item in waiting:
                await self._file(item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(JOBS):
                    group.create_task(work())
        except* OSError as failed:
            raise failed.exceptions[0] from None
        # Last, as everything that is put into a directory changes its times; and the inner ones first.
        for item in reversed(self._plan.directories):
            if item.target not in skipped:
                try:
                    await in_worker(shutil.copystat, item.source, item.target)
                except OSError as exc:
                    self._fail(item, exc)

    def _fail(self, item: Item, exc: OSError) -> None:
        self.account.failed.append((item.source, exc.strerror or str(exc)))
        if exc.errno in _HOPELESS:
            raise exc

    async def _directory(self, item: Item) -> None:
        try:
            await files.mkdir(item.target, 0o700)
        except FileExistsError:
            if not await files.isdir(item.target):
                raise
        self.account.directories += 1

    async def _link(self, item: Item) -> None:
        where = await files.readlink(item.source)
        new = _beside(item.target)
        try:
            await files.symlink(where, new)
            await files.replace(new, item.target)
        except BaseException as failed:
            _, cancelled = await _remove(new)
            if cancelled is not None:
                raise cancelled from failed
            raise
        self.account.links += 1

    async def _file(self, item: Item) -> None:
        account = self.account
        account.moving[item.source] = 0
        try:
            await self._copy(item)
        except OSError as exc:
            self._fail(item, exc)
        except BaseException:
            if item.source in account.moving:
                account.unfinished.append(item.source)
            raise
        finally:
            account.moving.pop(item.source, None)

    async def _copy(self, item: Item) -> None:
        new = _beside(item.target)

        def progress(done: int, _: int) -> None:
            self.account.moving[item.source] = done
            self._on_progress(self.account)

        size = 0
        renaming = False
        try:
            # For nobody else to read before it has the source's permissions.
            async with open_file(new, "xb", permissions=0o600):
                pass
            size = await files.copyfile(item.source, new, preserve=True, progress=progress)
            if self._sync or self._verify:
                async with open_file(new, "rb") as copy:
                    await copy.flush(fsync=True)
                    if self._verify:
                        await _compare(item.source, copy.fileno(), size)
            renaming = True
            await files.replace(new, item.target)
        except BaseException as failed:
            removed, cancelled = await _remove(new)
            if not removed and renaming:
                # The cancellation came when it was in place already.
                self._in_place(item, size)
            if cancelled is not None:
                raise cancelled from failed
            raise
        self._in_place(item, size)

    def _in_place(self, item: Item, size: int) -> None:
        self.account.moving.pop(item.source)
        self.account.files += 1
        self.account.size += size
        self._on_progress(self.account)


def _beside(target: Path) -> Path:
    return target.parent / f".clearway-{secrets.token_hex(8)}"


async def _remove(path: Path) -> tuple[bool, asyncio.CancelledError | None]:
    """Remove it, also when cancelled meanwhile, as happens when the copying of other files fails at the same time.

    :returns: False when there was nothing to be removed; and the cancellation that came meanwhile.
    """
    removal = asyncio.ensure_future(files.remove(path))
    cancelled: asyncio.CancelledError | None = None
    while not removal.done():
        try:
            await asyncio.wait([removal])
        except asyncio.CancelledError as exc:
            cancelled = exc
    try:
        removal.result()
    except FileNotFoundError:
        return False, cancelled
    return True, cancelled


async def _compare(source: Path, copy: int, size: int) -> None:
    """Read the copy from the disk, not from the cache, and compare it with the source.

    :raises Different: they differ.
    """
    os.posix_fadvise(copy, 0, 0, os.POSIX_FADV_DONTNEED)
    async with open_file(source, "rb") as original:
        at = 0
        while True:
            ours = await in_worker(os.pread, copy, COMPARED, at)
            theirs = await original.pread(COMPARED, at)
            if ours != theirs:
                raise Different(errno.EIO, f"the copy differs within {COMPARED} bytes from {at}")
            at += len(ours)
            if not ours:
                break
    if at != size:
        raise Different(errno.EIO, f"the copy has {at} bytes and not {size}")
