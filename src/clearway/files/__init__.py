"""Files that never stop the loop: ``open_file`` and the functions of ``os`` that touch the disk.

``await clearway.files.stat(path)`` is ``os.stat(path)``, and so on; ``open_file`` is also ``clearway.open_file``.
They work on any asyncio loop; on clearway's own with io_uring they need no threads.
"""

from __future__ import annotations

from clearway.files.binary import BinaryFile
from clearway.files.copying import copyfile
from clearway.files.opening import open_file
from clearway.files.paths import (
    access,
    chmod,
    chown,
    exists,
    getsize,
    isdir,
    isfile,
    islink,
    link,
    listdir,
    lstat,
    makedirs,
    mkdir,
    readlink,
    realpath,
    remove,
    rename,
    replace,
    rmdir,
    rmtree,
    samefile,
    scandir,
    stat,
    statvfs,
    symlink,
    truncate,
    unlink,
    utime,
    walk,
)
from clearway.files.text import TextFile

__all__ = [
    "BinaryFile",
    "TextFile",
    "access",
    "chmod",
    "chown",
    "copyfile",
    "exists",
    "getsize",
    "isdir",
    "isfile",
    "islink",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "open_file",
    "readlink",
    "realpath",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "rmtree",
    "samefile",
    "scandir",
    "stat",
    "statvfs",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "walk",
]
