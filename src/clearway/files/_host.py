"""What a loop offers to files: a ring or threads, and a budget for what completes at once.

Three ways to carry out an operation, cheapest first: on the spot, if it provably does not wait (``kernel.fileio``);
by the loop's ring; by a thread. The first has a budget, so that a task that reads nothing but cached data yields to
the others. Any asyncio loop will do; only clearway's own has a ring.

Cancelling. The kernel, or a thread, uses the memory of an operation until it is over. So a task that is cancelled
stays until then: when an ``await`` returns or raises, be it CancelledError, nobody touches the caller's memory any
more, and what was moved is known exactly. The ring is asked to hurry.
"""

from __future__ import annotations

import asyncio
import errno
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from clearway.engine.operations import FileOperation
from clearway.files import _workers
from clearway.kernel import fileio
from clearway.kernel.fileio import Block
from clearway.loop.core import INLINE_BUDGET, LoopCore
from clearway.loop.statistics import ledger_of

T = TypeVar("T")

StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# As in the select module, which has them on Linux only.
EPOLLIN = 1
EPOLLOUT = 4

#: The descriptor that stands for the working directory.
AT_FDCWD = -100
#: Offset that means "at the descriptor's own position" to the ring.
AT_POSITION = 2**64 - 1


class Request(FileOperation):
    """One operation and the task that waits for it.

    :param keep: whatever must live until the operation is over, its memory first of all.
    :param work: the same as a blocking call for a thread: what it returned, or minus its errno.
    :ivar block: the memory it uses, pinned by it.
    :ivar owner: what counts its operations in flight: ``owner.landed()`` is called when this one is over.
    :ivar orphaned: the task that waited was destroyed.
    :ivar by_thread: not for a ring.
    :ivar done: it is over, and ``result`` says how.
    :ivar error: what ``work`` raised beyond an errno.
    """

    def __init__(
        self,
        work: Callable[[], int],
        keep: Any,
        opcode: int = -1,
        fd: int = -1,
        address: int = 0,
        length: int = 0,
        offset: int = 0,
        flags: int = 0,
        forced: bool = False,
    ) -> None:
        FileOperation.__init__(self, opcode, fd, address, length, offset, flags, forced)
        self.work = work
        self.keep = keep
        self.waiter: asyncio.Future[None] | None = None
        self.block: Block | None = None
        self.owner: Any = None
        self.orphaned = False
        self.by_thread = opcode < 0
        self.done = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """It is over: wake who waits. Called in the loop's thread."""
        self.done = True
        if self.block is not None:
            self.block.pins -= 1
        if self.owner is not None:
            self.owner.landed()
        if self.orphaned:
            self.dispose()
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def do(self) -> None:
        """Carry it out in the calling thread."""
        try:
            self.result = self.work()
        except BaseException as exc:
            self.error = exc

    def dispose(self) -> None:
        """Nobody waits any more: let go of a descriptor that was opened."""
        if self.opcode == fileio.OPENAT and self.result >= 0 and self.error is None:
            os.close(self.result)


def calling(function: Callable[..., object], *args: Any) -> Callable[[], int]:
    """``function(*args)`` as the work of a request: 0, or minus the errno it fails with."""

    def work() -> int:
        try:
            function(*args)
        except OSError as exc:
            return -(exc.errno or errno.EIO)
        return 0

    return work


def c_path(path: StrPath) -> Block:
    """``path`` as the kernel takes it.

    :raises ValueError: there is a null byte in it.
    """
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte in " + repr(path))
    return Block.of(encoded + b"\0")


def transfer_request(
    fd: int, block: Block, start: int, length: int, offset: int, writing: bool, keep: Any
) -> Request:
    """A request to read into or write from ``block[start:start + length]``.

    :param offset: bytes from the start of the file; negative: at the descriptor's own position.
    """

    def work() -> int:
        return (block.write if writing else block.read)(fd, start, length, offset)

    request = Request(
        work,
        keep,
        fileio.WRITE if writing else fileio.READ,
        fd,
        block.address + start,
        length,
        AT_POSITION if offset < 0 else offset,
    )
    request.block = block
    block.pins += 1
    return request


class Host:
    """The running loop, as files see it.

    :ivar loop: the loop.
    :ivar ledger: the accounts of the loop.
    :ivar pool: what its files read leases from that have no pool of their own; made when it is first needed.
    :ivar over_budget: counts an operation that completes at once; True when the running step should yield first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Any = loop
        self.pool: Any = None
        self.ledger = ledger_of(loop)
        self._inline = 0
        # What takes requests; None: threads do.
        self._ring: Any = None
        self.over_budget: Callable[[], bool] = self._count
        if isinstance(loop, LoopCore):
            self._ring = loop._engine
            self.over_budget = loop._over_budget

    def _count(self) -> bool:
        # Steps cannot be told apart on a foreign loop: counted from one yield to the next.
        self._inline += 1
        return self._inline > INLINE_BUDGET

    async def settle(self, request: Request) -> tuple[int, asyncio.CancelledError | None]:
        """Carry out ``request`` where it stops nobody, and stay until it is over.

        :returns: its result, and the cancellation that reached the task meanwhile: the caller accounts for the
            first before it raises the second.
        """
        ring = None if request.by_thread else self._ring
        if ring is None or not ring.submit_operation(request):
            ring = None
            self._start(request)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not request.done:
                request.waiter = self.loop.create_future()
                try:
                    await request.waiter
                except asyncio.CancelledError as exc:
                    if cancelled is None:
                        cancelled = exc
                        if ring is not None:
                            ring.cancel_operation(request)
        finally:
            request.orphaned = not request.done
        if request.error is not None and cancelled is None:
            raise request.error
        return request.result, cancelled

    def _start(self, request: Request) -> None:
        """Have a thread carry out ``request``."""
        loop = self.loop

        def work() -> None:
            request.do()
            try:
                loop.call_soon_threadsafe(request.run)
            except RuntimeError:
                request.dispose()  # the loop was closed

        _workers.submit(work)

    async def perform(self, request: Request, *paths: Any) -> int:
        """Carry out ``request``, and stay until it is over even when cancelled.

        :param paths: what an error is about.
        :raises OSError: it failed.
        """
        result, cancelled = await self.settle(request)
        if cancelled is not None:
            raise cancelled
        if result < 0:
            raise failure(result, *paths)
        return result

    async def run(self, work: Callable[[], T]) -> T:
        """Call ``work()`` in a thread, stay until it is over even when cancelled, return what it returned."""
        answer: list[T] = []

        def call() -> int:
            answer.append(work())
            return 0

        await self.perform(Request(call, None))
        return answer[0]

    async def look(self, work: Callable[[], T]) -> T:
        """The same for what only looks: a cancelled caller does not wait for it."""
        answer: list[T] = []

        def call() -> int:
            answer.append(work())
            return 0

        request = Request(call, None)
        request.waiter = self.loop.create_future()
        self._start(request)
        await request.waiter
        if request.error is not None:
            raise request.error
        return answer[0]

    async def pass_on(self) -> None:
        """Let the other ready steps run once."""
        self._inline = 0
        await asyncio.sleep(0)

    async def wait_ready(self, fd: int, mask: int) -> None:
        """Wait until ``fd`` is ready for ``mask`` (EPOLLIN or EPOLLOUT); at once if it cannot be waited for."""
        loop = self.loop
        if hasattr(loop, "_wait_ready"):
            try:
                await loop._wait_ready(fd, mask)
            except PermissionError:
                pass  # always ready, as /dev/null
            return
        future = loop.create_future()

        def ready() -> None:
            if not future.done():
                future.set_result(None)

        add, remove = (
            (loop.add_reader, loop.remove_reader)
            if mask == EPOLLIN
            else (loop.add_writer, loop.remove_writer)
        )
        try:
            add(fd, ready)
        except PermissionError:
            return
        try:
            await future
        finally:
            remove(fd)


_hosts: weakref.WeakValueDictionary[int, Host] = weakref.WeakValueDictionary()


def running_host() -> Host:
    """The host of the running loop.

    :raises RuntimeError: no loop is running.
    """
    loop = asyncio.get_running_loop()
    host = _hosts.get(id(loop))
    if host is None or host.loop is not loop:
        host = _hosts[id(loop)] = Host(loop)
    return host


def failure(result: int, *paths: Any) -> OSError:
    """The exception for a result that is minus an errno, of the subclass that belongs to it."""
    number = -result
    if number == errno.ECANCELED:
        return OSError(number, "the event loop that carried it out is gone")
    names = [os.fspath(path) for path in paths]
    if len(names) == 2:
        return OSError(number, os.strerror(number), names[0], None, names[1])
    return OSError(number, os.strerror(number), *names)
