"""The page that lists a directory."""

from __future__ import annotations

import html
import os
import stat
import time
from dataclasses import dataclass
from urllib.parse import quote, quote_from_bytes

from clearway.kernel.beneath import open_beneath

#: Entries on a page: some 2 MB of it. More are counted and not shown.
ENTRIES_MAX = 10_000

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em }}
table {{ border-collapse: collapse; width: 100% }}
th {{ text-align: left }} td, th {{ padding: .15em .6em; border-bottom: 1px solid #8883 }}
.number {{ text-align: right; font-variant-numeric: tabular-nums }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
<thead><tr><th>Name</th><th class="number">Bytes</th><th>Modified (UTC)</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
{note}</body>
</html>
"""
_ROW = '<tr><td><a href="{link}">{name}</a></td><td class="number">{size}</td><td>{when}</td></tr>'


@dataclass(frozen=True)
class Entry:
    """One line: ``size`` is -1 and ``modified`` counts for a directory."""

    name: bytes
    is_directory: bool
    size: int
    modified: float


def render(root: int, fd: int, path: bytes, *, hidden: bool) -> bytes:
    """The page for an open directory, in UTF-8. Asks the disk: call it in a thread.

    Directories first, then files, each by name. Left out are hidden names, what is neither a file nor a directory,
    and links that lead out of the directory or nowhere.

    :param root: a descriptor of the directory that is served.
    :param path: of the one that is listed, beneath it; b"" or with a slash at the end.
    :raises OSError: it cannot be read.
    """
    names = [name for name in map(os.fsencode, os.listdir(fd)) if hidden or name[:1] != b"."]
    shown = sorted(names)[:ENTRIES_MAX]
    found = [entry for entry in (_look(root, fd, path, name) for name in shown) if entry]
    found.sort(key=lambda entry: (not entry.is_directory, entry.name))
    rows = ['<tr><td><a href="../">../</a></td><td></td><td></td></tr>'] if path else []
    rows += [_row(entry) for entry in found]
    more = len(names) - ENTRIES_MAX
    title = html.escape("/" + path.decode("utf-8", "replace"))
    note = f"<p>{more:,} more are not shown.</p>\n" if more > 0 else ""
    page = _PAGE.format(title=title, rows="\n".join(rows), note=note)
    return page.encode()


def _look(root: int, directory: int, path: bytes, name: bytes) -> Entry | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            # What it leads to is shown only if it would be served, too: whether it is there is nobody's business.
            fd = open_beneath(root, path + name, os.O_PATH)
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
    except OSError:
        return None  # removed meanwhile, or a link that leads out
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, True, -1, status.st_mtime)
    if stat.S_ISREG(status.st_mode):
        return Entry(name, False, status.st_size, status.st_mtime)
    return None


def _row(entry: Entry) -> str:
    slash = "/" if entry.is_directory else ""
    return _ROW.format(
        # "./" keeps a name with a colon from being taken for a scheme.
        link="./" + quote_from_bytes(entry.name) + slash,
        name=html.escape(entry.name.decode("utf-8", "replace")) + slash,
        size=f"{entry.size:,}" if entry.size >= 0 else "",
        when=time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.modified)),
    )


def location(path: bytes) -> bytes:
    """Where a directory that was asked for without a slash is: never another host, as ``//host/`` would be."""
    return b"/" + quote(path.lstrip(b"/")).encode() + b"/"
