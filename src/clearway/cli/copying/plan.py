"""What is to be copied: the source is looked through before the first byte is moved."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from clearway import files


class CopyRefused(Exception):
    """It makes no sense to copy this there; the text says why."""


@dataclass(frozen=True)
class Item:
    """One thing to be made at ``target``."""

    source: Path
    target: Path
    size: int = 0


@dataclass
class Plan:
    """Everything that a copy consists of.

    :ivar directories: parents before what is in them.
    :ivar left_out: what is neither file, directory nor link, or could not be looked at: (path, why).
    """

    directories: list[Item] = field(default_factory=list)
    links: list[Item] = field(default_factory=list)
    files: list[Item] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(item.size for item in self.files)


async def make_plan(source: Path, target: Path) -> Plan:
    """Look through ``source``. A ``target`` that is a directory is what it is copied into.

    A link that is named as the source is followed; links within it are copied as links.

    :raises CopyRefused: the two are the same, or one lies within the other.
    :raises OSError: the source cannot be looked at.
    """
    status = await files.stat(source)
    if await files.isdir(target):
        name = source.resolve().name if source.name in ("", "..") else source.name
        target = target / name
    plan = Plan()
    if not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode):
            raise CopyRefused(f"{source} is neither a file nor a directory")
        if await files.isdir(target):
            raise CopyRefused(f"{target} is a directory")
        if await files.exists(target) and await files.samefile(source, target):
            raise CopyRefused(f"{source} and {target} are the same file")
        plan.files.append(Item(source, target, status.st_size))
        return plan
    if await files.exists(target) and not await files.isdir(target):
        raise CopyRefused(f"{target} is not a directory")
    real_source = Path(await files.realpath(os.fspath(source)))
    real_target = Path(await files.realpath(os.fspath(target)))
    if real_source == real_target:
        raise CopyRefused(f"{source} and {target} are the same directory")
    if real_target.is_relative_to(real_source) or real_source.is_relative_to(real_target):
        raise CopyRefused(f"one of {source} and {target} lies within the other")
    await _look_through(source, target, plan)
    return plan


async def _look_through(source: Path, target: Path, plan: Plan) -> None:
    waiting = [(source, target)]
    while waiting:
        here, there = waiting.pop()
        plan.directories.append(Item(here, there))
        try:
            async for entry in files.scandir(here):
                path, new = here / entry.name, there / entry.name
                if entry.is_symlink():
                    plan.links.append(Item(path, new))
                elif entry.is_dir():
                    waiting.append((path, new))
                elif entry.is_file():
                    try:
                        size = (await files.lstat(path)).st_size
                    except FileNotFoundError:
                        continue  # removed meanwhile
                    plan.files.append(Item(path, new, size))
                else:
                    plan.left_out.append((path, "neither a file, a directory nor a link"))
        except OSError as exc:
            plan.left_out.append((here, exc.strerror or str(exc)))
