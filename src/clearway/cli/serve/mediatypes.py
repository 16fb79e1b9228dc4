"""Content types by the endings of names, the same on every machine: no ``/etc/mime.types`` is read."""

from __future__ import annotations

import mimetypes
import os

#: What the standard library's table lacks or has under an older name (IANA's registry, and RFC 9239 for scripts).
_TYPES = {
    ".avif": "image/avif",
    ".flac": "audio/flac",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
#: A compressed file is served as what it is, not as what it would be: nobody asked for it to be unpacked.
_COMPRESSED = {
    ".br": "application/octet-stream",
    ".bz2": "application/x-bzip2",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".xz": "application/x-xz",
    ".z": "application/x-compress",
    ".zst": "application/zstd",
}
#: Text that is not called so.
_ALSO_TEXT = ("application/toml", "application/xhtml+xml", "application/yaml", "image/svg+xml")


class MediaTypes:
    """Looks types up, and remembers.

    :param charset: of everything that is text.
    """

    def __init__(self, charset: str) -> None:
        self._table = mimetypes.MimeTypes(filenames=())
        for ending, kind in {**_TYPES, **_COMPRESSED}.items():
            self._table.add_type(kind, ending)
        self._charset = charset
        self._known: dict[str, str] = {}

    def of(self, path: bytes) -> str:
        """The ``Content-Type`` of the file at ``path``."""
        ending = os.path.splitext(os.fsdecode(path))[1].lower()
        found = self._known.get(ending)
        if found is None:
            found = self._find(ending)
            # Endings come from names that exist, but there may be any number of them.
            if len(self._known) < 1000:
                self._known[ending] = found
        return found

    def _find(self, ending: str) -> str:
        kind = self._table.types_map[True].get(ending)
        if kind is None:
            return "application/octet-stream"
        if kind.startswith("text/") or kind in _ALSO_TEXT:
            return f"{kind}; charset={self._charset}"
        return kind
