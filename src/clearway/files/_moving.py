"""How bytes get between a file and memory: one class per kind of file.

What they share: ``fill`` and ``drain`` go on until all was moved, the file ends or an error; whatever waits does so
outside the loop's thread; and the memory is out of everybody's hands when they return.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from typing import Any

from clearway.buffers import Account
from clearway.files._host import EPOLLIN, EPOLLOUT, Host, Request, failure, transfer_request
from clearway.kernel.fileio import NO_WAY, Block

#: Bytes moved by one inline call: at 5 to 10 GB/s from the page cache, 25 to 50 us of the loop's time.
INLINE_MAX = 256 * 1024
#: Bytes moved by one request to the ring or a thread: large beside its cost, small beside a cancellation's wait.
PIECE = 1024 * 1024
#: O_DIRECT wants memory, offset and length in multiples of the logical block size of the device: 512 or 4,096.
DIRECT_ALIGNMENT = 4096


class Mover:
    """Moves bytes of a regular file or a block device, through the page cache.

    :param fd: the descriptor, which it owns.
    :param name: what errors are about.
    :ivar flights: operations that the kernel or a thread carries out now.
    :ivar inline: what is cached may be read on the spot.
    :ivar read: bytes that were read, and copied on the way. :ivar written: the same for writing.
    """

    inline = True

    def __init__(self, host: Host, fd: int, name: Any) -> None:
        self.host = host
        self.fd = fd
        self.name = name
        self.flights = 0
        self._landing: asyncio.Future[None] | None = None
        self._inline_writes = True
        self.read = Account("file read", host.ledger.account("file read"))
        self.written = Account("file write", host.ledger.account("file write"))

    def __del__(self) -> None:
        # Whoever forgot to close it has been told. Operations in flight hold a reference, so there are none.
        if self.fd >= 0:
            os.close(self.fd)

    def landed(self) -> None:
        self.flights -= 1
        if not self.flights and self._landing is not None and not self._landing.done():
            self._landing.set_result(None)

    async def settle(self, request: Request) -> tuple[int, asyncio.CancelledError | None]:
        """``Host.settle``, counted as in flight. EINTR starts it anew."""
        self.flights += 1
        request.owner = self
        return await self.host.settle(request)

    async def move(
        self, block: Block, start: int, length: int, offset: int, writing: bool
    ) -> tuple[int, asyncio.CancelledError | None]:
        return await self.settle(
            transfer_request(self.fd, block, start, length, offset, writing, self)
        )

    async def fill(self, block: Block, length: int, offset: int) -> int:
        """Read ``length`` bytes from ``offset`` into ``block``: the count, less only at the end of the file.

        :raises OSError: reading failed; how far it came is not told, as nothing was taken from the file.
        """
        done = 0
        host = self.host
        while done < length:
            count = NO_WAY
            if self.inline:
                if host.over_budget():
                    await host.pass_on()
                count = block.read_now(self.fd, done, min(length - done, INLINE_MAX), offset + done)
            if count < 0:
                count, cancelled = await self.move(
                    block, done, min(length - done, PIECE), offset + done, False
                )
                if cancelled is not None:
                    raise cancelled
                if count == -errno.EINTR:
                    continue
                if count < 0:
                    raise failure(count, self.name)
            if count == 0:
                break
            done += count
            self.read.add(count, 0)
        return done

    async def drain(
        self, block: Block, length: int, offset: int
    ) -> tuple[int, BaseException | None]:
        """Write ``block[:length]`` at ``offset`` (negative: at the descriptor's own position).

        :returns: the count that the file took, and what kept it from taking more.
        """
        done = 0
        host = self.host
        while done < length:
            at = -1 if offset < 0 else offset + done
            count = NO_WAY
            cancelled = None
            try:
                if self._inline_writes and self.inline:
                    if host.over_budget():
                        await host.pass_on()
                    count = block.write_now(self.fd, done, min(length - done, INLINE_MAX), at)
                    # ext4, for one, has no buffered write that does not wait (Linux 6.18).
                    self._inline_writes = count != NO_WAY
                if count < 0:
                    part = min(length - done, PIECE)
                    count, cancelled = await self.move(block, done, part, at, True)
            except asyncio.CancelledError as exc:
                return done, exc
            except OSError as exc:
                count = -(exc.errno or errno.EIO)
            if count > 0:
                done += count
                self.written.add(count, 0)
            if cancelled is not None:
                return done, cancelled
            if count <= 0 and count != -errno.EINTR:
                return done, self.failed_write(count or -errno.EIO, done, length)
        return done, None

    def failed_write(self, result: int, done: int, length: int) -> OSError:
        """The exception for a write that stopped; ``characters_written`` says how far it came."""
        text = os.strerror(-result)
        if length:
            text += f" ({done:,} of {length:,} bytes were written)"
        error = OSError(-result, text, self.name)
        error.characters_written = done  # type: ignore[attr-defined]
        return error

    async def idle(self) -> asyncio.CancelledError | None:
        """Wait until nothing is in flight; a cancellation meanwhile is returned."""
        cancelled: asyncio.CancelledError | None = None
        while self.flights:
            if self._landing is None or self._landing.done():
                self._landing = self.host.loop.create_future()
            try:
                await asyncio.shield(self._landing)
            except asyncio.CancelledError as exc:
                cancelled = cancelled or exc
        return cancelled


class DirectMover(Mover):
    """The same past the page cache (O_DIRECT): what is not aligned goes through memory that is."""

    inline = False

    async def fill(self, block: Block, length: int, offset: int) -> int:
        if not (block.address | length | offset) % DIRECT_ALIGNMENT and block.address:
            return await Mover.fill(self, block, length, offset)
        first = offset - offset % DIRECT_ALIGNMENT
        done = 0
        while done < length:
            want = min(length - done + offset + done - first, PIECE)
            want += -want % DIRECT_ALIGNMENT
            aligned = Block.into(mmap.mmap(-1, want))
            count = await Mover.fill(self, aligned, want, first)
            skip = offset + done - first
            useful = max(0, min(count - skip, length - done))
            block.copy(done, aligned, skip, useful)
            self.read.add(0, useful)
            done += useful
            first += count
            if count < want:
                break
        return done

    async def drain(
        self, block: Block, length: int, offset: int
    ) -> tuple[int, BaseException | None]:
        if offset < 0 or (length | offset) % DIRECT_ALIGNMENT:
            return 0, ValueError(
                f"a file opened with direct=True is written in multiples of {DIRECT_ALIGNMENT} bytes, "
                f"at multiples of it: not {length} bytes at {offset}"
            )
        if block.address and not block.address % DIRECT_ALIGNMENT:
            return await Mover.drain(self, block, length, offset)
        done = 0
        error: BaseException | None = None
        while done < length and error is None:
            part = min(length - done, PIECE)
            aligned = Block.into(mmap.mmap(-1, part))
            aligned.copy(0, block, done, part)
            self.written.add(0, part)
            count, error = await Mover.drain(self, aligned, part, offset + done)
            done += count
        return done, error


class StreamMover(Mover):
    """Moves bytes of what has no positions: a pipe, a terminal, another character device.

    They are opened non-blocking. A pipe is tried on the spot and then waited for, so a cancelled read has taken
    nothing; a device is tried in a thread, because drivers are free to ignore that they should not block.

    :param device: it is a character device.
    """

    inline = False

    def __init__(self, host: Host, fd: int, name: Any, device: bool) -> None:
        super().__init__(host, fd, name)
        self._device = device

    async def receive(self, size: int) -> tuple[bytes, asyncio.CancelledError | None]:
        """At least one and at most ``size`` bytes, b"" at the end; and a cancellation that came too late."""
        host = self.host
        while True:
            if host.over_budget():
                await host.pass_on()
            block = Block.fresh(size)
            cancelled = None
            if self._device:
                count, cancelled = await self.settle(self._request(block, 0, size, False))
            else:
                count = block.read(self.fd, 0, size, -1)
            if count >= 0:
                self.read.add(count, 0)
                return block.finish(count), cancelled
            if cancelled is not None:
                raise cancelled
            if count == -errno.EAGAIN:
                await host.wait_ready(self.fd, EPOLLIN)
            elif count != -errno.EINTR:
                raise failure(count, self.name)

    def _request(self, block: Block, start: int, length: int, writing: bool) -> Request:
        request = transfer_request(self.fd, block, start, length, -1, writing, self)
        # Not in a ring: it would fail a non-blocking device instead of waiting, or wait where nobody can cancel.
        request.by_thread = True
        return request

    async def drain(
        self, block: Block, length: int, offset: int
    ) -> tuple[int, BaseException | None]:
        done = 0
        host = self.host
        while done < length:
            part = min(length - done, INLINE_MAX)
            cancelled = None
            try:
                if host.over_budget():
                    await host.pass_on()
                if self._device:
                    count, cancelled = await self.settle(self._request(block, done, part, True))
                else:
                    count = block.write(self.fd, done, part, -1)
                if count > 0:
                    done += count
                    self.written.add(count, 0)
                if cancelled is not None:
                    return done, cancelled
                if count == -errno.EAGAIN:
                    await host.wait_ready(self.fd, EPOLLOUT)
                elif count < 0 and count != -errno.EINTR:
                    return done, self.failed_write(count, done, length)
            except asyncio.CancelledError as exc:
                return done, exc
        return done, None
