"""``open_file``: from a path and a mode to an open file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, overload

from clearway.buffers import Pool
from clearway.files._codec import TextCodec
from clearway.files._host import AT_FDCWD, Host, Request, StrPath, c_path, failure, running_host
from clearway.files._moving import DirectMover, Mover, StreamMover
from clearway.files.binary import BinaryFile
from clearway.files.text import TextFile
from clearway.kernel import fileio

FileT = TypeVar("FileT", BinaryFile, TextFile)


class Mode:
    """A mode string of ``open``, taken apart.

    :raises ValueError: it is none.
    """

    def __init__(self, mode: str) -> None:
        letters = set(mode)
        kinds = letters & set("rwxa")
        if letters - set("rwxabt+") or len(mode) != len(letters) or len(kinds) != 1:
            raise ValueError(
                f"invalid mode {mode!r}: exactly one of r, w, x and a, and perhaps +, b or t"
            )
        if "b" in letters and "t" in letters:
            raise ValueError(f"invalid mode {mode!r}: b and t exclude each other")
        self.text = "b" not in letters
        self.readable = "r" in kinds or "+" in letters
        self.writable = "r" not in kinds or "+" in letters
        self.appending = "a" in kinds
        flags = {(True, True): os.O_RDWR, (True, False): os.O_RDONLY, (False, True): os.O_WRONLY}
        self.flags = flags[self.readable, self.writable] | os.O_CLOEXEC
        if "w" in kinds:
            self.flags |= os.O_CREAT | os.O_TRUNC
        elif "x" in kinds:
            self.flags |= os.O_CREAT | os.O_EXCL
        elif "a" in kinds:
            self.flags |= os.O_CREAT | os.O_APPEND


class Opening(Generic[FileT]):
    """What ``open_file`` gives: await it for the file, or use it in ``async with``, which closes the file."""

    def __init__(
        self,
        path: StrPath,
        mode: str,
        codec: TextCodec | None,
        direct: bool,
        permissions: int,
        pool: Pool | None,
    ) -> None:
        self._path = path
        self._mode = mode
        self._codec = codec
        self._direct = direct
        self._permissions = permissions
        self._pool = pool
        self._file: FileT | None = None

    def __await__(self) -> Generator[Any, Any, FileT]:
        return self._open().__await__()

    async def __aenter__(self) -> FileT:
        self._file = await self._open()
        return self._file

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        await self._file.close()

    async def _open(self) -> FileT:
        host = running_host()
        mode = Mode(self._mode)
        binary = await _open_binary(
            host, self._path, mode, self._mode, self._direct, self._permissions, self._pool
        )
        if self._codec is None:
            return binary  # type: ignore[return-value]
        return TextFile(binary, self._codec)  # type: ignore[return-value]


# The modes that type checkers can tell apart.
BinaryMode = Literal["rb", "wb", "xb", "ab", "r+b", "rb+", "w+b", "wb+", "x+b", "xb+", "a+b", "ab+"]
TextMode = Literal["r", "w", "x", "a", "r+", "w+", "x+", "a+", "rt", "wt", "xt", "at"]


@overload
def open_file(
    path: StrPath,
    mode: BinaryMode,
    *,
    direct: bool = ...,
    permissions: int = ...,
    pool: Pool | None = ...,
) -> Opening[BinaryFile]: ...
@overload
def open_file(
    path: StrPath,
    mode: TextMode = ...,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    permissions: int = ...,
) -> Opening[TextFile]: ...
@overload
def open_file(
    path: StrPath,
    mode: str,
    *,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    direct: bool = ...,
    permissions: int = ...,
    pool: Pool | None = ...,
) -> Opening[Any]: ...
def open_file(
    path: StrPath,
    mode: str = "r",
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    direct: bool = False,
    permissions: int = 0o666,
    pool: Pool | None = None,
) -> Opening[Any]:
    """Open a file without stopping the loop: ``async with clearway.open_file(path) as file``, or await it.

    A directory is refused as by ``open``. A pipe, a terminal or another character device is opened as a stream
    without positions, whose reads and writes wait for the other side; opening a named pipe for reading waits for
    nobody, and opening one for writing that nobody reads fails with ENXIO.

    :param path: what to open.
    :param mode: as for ``open``: "r", "w", "x" or "a", with "+" for both directions and "b" for bytes.
    :param encoding: of a text file, as for ``io.TextIOWrapper``, as are the next two.
    :param errors: what to do about what cannot be encoded or decoded.
    :param newline: None, "", "\\n", "\\r" or "\\r\\n".
    :param direct: past the page cache (O_DIRECT), for binary files. Writes come in multiples of 4,096 bytes; reads
        that are not aligned to 4,096 bytes in length, offset and memory are copied once more.
    :param permissions: of a file that is created, before the umask.
    :param pool: where ``read_lease`` takes its memory; default: one of 256 blocks of 64 KiB for all files of a loop.
    :returns: a ``BinaryFile`` or ``TextFile``, once awaited.
    :raises ValueError: the mode makes no sense.
    :raises OSError: it cannot be opened.
    """
    parsed = Mode(mode)
    codec = None
    if parsed.text:
        if direct:
            raise ValueError('direct=True needs a binary mode: add "b"')
        codec = TextCodec(encoding, errors, newline)
    else:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"{name}={value!r} needs a text mode: take the b off {mode!r}")
    # TypeError now rather than when it is awaited.
    return Opening(os.fspath(path), mode, codec, direct, permissions, pool)


async def _open_binary(
    host: Host,
    path: StrPath,
    mode: Mode,
    mode_text: str,
    direct: bool,
    permissions: int,
    pool: Pool | None,
) -> BinaryFile:
    flags = mode.flags
    if direct:
        if not hasattr(os, "O_DIRECT"):
            raise ValueError("direct=True needs Linux")
        flags |= os.O_DIRECT
    # A named pipe without a writer, or a line without a carrier, would block the open itself.
    fd = await _open_descriptor(host, path, flags | os.O_NONBLOCK, permissions)
    try:
        status = os.fstat(fd)  # of an inode that was just looked up
        kind = status.st_mode
        if stat.S_ISDIR(kind):
            raise failure(-errno.EISDIR, path)
        mover: Mover
        if stat.S_ISREG(kind) or stat.S_ISBLK(kind):
            # Nothing to wait for here; but a ring takes the flag as "fail rather than wait for the disk".
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
            mover = (DirectMover if direct else Mover)(host, fd, path)
        else:
            mover = StreamMover(host, fd, path, stat.S_ISCHR(kind))
        return BinaryFile(
            host,
            mover,
            mode_text,
            readable=mode.readable,
            writable=mode.writable,
            appending=mode.appending,
            size=status.st_size if stat.S_ISREG(kind) else 0,
            pool=pool,
        )
    except BaseException:
        os.close(fd)
        raise


async def _open_descriptor(host: Host, path: StrPath, flags: int, permissions: int) -> int:
    encoded = c_path(path)

    def work() -> int:
        try:
            return os.open(path, flags, permissions)
        except OSError as exc:
            return -(exc.errno or errno.EIO)

    request = Request(
        work,
        encoded,
        fileio.OPENAT,
        AT_FDCWD,
        encoded.address,
        permissions,
        0,
        flags,
    )
    fd, cancelled = await host.settle(request)
    if cancelled is not None:
        if fd >= 0:
            os.close(fd)
        raise cancelled
    if fd < 0:
        raise failure(fd, path)
    return fd
