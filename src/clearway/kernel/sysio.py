"""The system calls of the hot path in ordinary Python: the stand-in for ``sysio.pyx`` when nothing is compiled.

The interface, results and errors are the same; ``tests/kernel/test_sysio.py`` runs on either.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

IOV_CAPACITY = 64  # as in sysio.pyx

monotonic = time.monotonic


def check_signals() -> int:
    """Nothing to do: the interpreter runs signal handlers between the bytecodes of this very module."""
    return 0


class Scratch:
    """Receives at most ``size`` bytes at a time; ``full`` says whether the last receive filled them all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.full = False

    def receive(self, fd: int) -> bytes | None:
        """Bytes received, b"" at end of file, None where the call would block."""
        try:
            data = os.read(fd, self.size)
        except BlockingIOError:
            self.full = False
            return None
        self.full = len(data) == self.size
        return data


def receive_into(fd: int, buffer: Any) -> int:
    """Receive into a writable buffer: the count, 0 at end of file, -1 where the call would block."""
    if not len(memoryview(buffer)):
        raise RuntimeError("get_buffer() returned an empty buffer")
    try:
        return os.readv(fd, [buffer])
    except BlockingIOError:
        return -1


def receive_some(fd: int) -> bytes:
    """Up to 512 bytes from a non-blocking socket; empty where there are none, or an error."""
    try:
        return os.read(fd, 512)
    except OSError:
        return b""


def can_receive(fd: int) -> bool:
    """Whether a receive would yield something: data, the end of it, or an error."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def send_some(fd: int, data: Any, offset: int) -> int:
    """Send data[offset:]: the count that was taken, -1 where the call would block."""
    try:
        return os.write(fd, memoryview(data)[offset:] if offset else data)
    except BlockingIOError:
        return -1


def send_list(fd: int, chunks: list[bytes], index: int, offset: int) -> int:
    """Send chunks[index:], the first from ``offset``; the count that was taken, -1 if it would block."""
    vectors: list[Any] = list(chunks[index : index + IOV_CAPACITY])
    if offset:
        vectors[0] = memoryview(vectors[0])[offset:]
    try:
        return os.writev(fd, vectors)
    except BlockingIOError:
        return -1


def accept_one(sock: socket.socket, fd: int) -> int:
    """Accept a connection: its non-blocking, close-on-exec descriptor, or -1 where none is waiting."""
    try:
        got, _ = sock._accept()  # type: ignore[attr-defined]
    except (BlockingIOError, ConnectionAbortedError):
        return -1
    os.set_blocking(got, False)
    return int(got)


def pack_addresses(fd: int) -> bytes | None:
    """Both addresses of a connected TCP socket in few bytes, or None: here always, so they are kept as they are."""
    return None


def close_fd(fd: int) -> None:
    """Close a descriptor, as ``socket.close`` does: an error of a connection that was reset is none of closing it."""
    try:
        os.close(fd)
    except ConnectionResetError:
        pass


class Poller:
    """An epoll set and the events of its last wait."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._events: list[tuple[int, int]] = []

    def fileno(self) -> int:
        return self._epoll.fileno()

    def wait(self, timeout_ns: int) -> int:
        """Wait for events, at most ``timeout_ns`` (negative: for ever); how many there are."""
        timeout = -1 if timeout_ns < 0 else timeout_ns / 1e9
        self._events = self._epoll.poll(timeout)
        return len(self._events)

    def fd_at(self, index: int) -> int:
        return self._events[index][0]

    def mask_at(self, index: int) -> int:
        return self._events[index][1]

    def add(self, fd: int, mask: int) -> int:
        self._epoll.register(fd, mask)
        return 0

    def modify(self, fd: int, mask: int) -> int:
        try:
            self._epoll.modify(fd, mask)
        except FileNotFoundError:
            self._epoll.register(fd, mask)
        return 0

    def remove(self, fd: int) -> int:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # it, or the set, was closed first, which removes it as well
        return 0

    def close(self) -> None:
        self._epoll.close()


class ContextEntered(RuntimeError):
    """The context is entered already; nothing was called. Only raised when compiled: nothing else suspends steps.

    :ivar callback: what was not called.
    """

    callback: Any = None


def run_in_context(context: Context, callback: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """``context.run(callback, *args)``."""
    return context.run(callback, *args)


def run_method1(context: Context, owner: Any, name: str, arg: Any) -> Any:
    """``context.run(owner.name, arg)``, where ``name`` is looked up now."""
    return context.run(getattr(owner, name), arg)
