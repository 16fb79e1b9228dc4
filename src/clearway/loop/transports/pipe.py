"""The transports of pipes, and of what is used like one: FIFOs, sockets, terminals.

A pipe cannot be received from with socket calls, so it is read and written with read(2) and write(2) when its feed
says so. The reading half ends at the end of file; the writing half hears of its reader's end as a hang-up.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from asyncio import constants, transports
from asyncio.log import logger
from contextvars import copy_context
from typing import Any

from clearway.buffers.account import Account
from clearway.engine.interface import Feed, FeedOwner
from clearway.kernel.sysio import run_method1
from clearway.loop.errors import insist_on_protocol
from clearway.steps import Handle

#: Above this many pending bytes the protocol is asked to pause (asyncio: 64 KiB in _FlowControlMixin).
HIGH_WATER = 64 * 1024

#: Bytes of one read: a pipe's default capacity (pipe(7)), and below malloc's mmap threshold of 128 KiB.
READ_SIZE = 64 * 1024

#: Reads in one step before others get their turn.
READS_PER_STEP = 4

#: Buffers of one writev(2); Linux allows 1,024.
WRITES_AT_ONCE = 64

_READ_SIZE = READ_SIZE  # C integers when compiled
_READS_PER_STEP = READS_PER_STEP
_WRITES_AT_ONCE = WRITES_AT_ONCE


class PipeTransport(FeedOwner):
    """What both halves have in common: a pipe, a protocol, and the way they end."""

    def __init__(self, loop: Any, pipe: Any, protocol: Any, extra: dict[str, Any] | None) -> None:
        self._pipe = None
        insist_on_protocol(protocol)
        self._loop = loop
        self._fileno = pipe.fileno()
        self._mode = os.fstat(self._fileno).st_mode
        if not (stat.S_ISFIFO(self._mode) or stat.S_ISSOCK(self._mode) or stat.S_ISCHR(self._mode)):
            raise ValueError("Pipe transport is only for pipes, sockets and character devices")
        os.set_blocking(self._fileno, False)
        self._pipe = pipe
        self._extra = {} if extra is None else extra
        self._extra["pipe"] = pipe
        self._protocol = protocol
        self._closing = False
        self._ending = False
        self._context = copy_context()

    def __repr__(self) -> str:
        info = [f"<clearway.{type(self).__name__}"]
        if self._pipe is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._fileno}")
        if self._pipe is not None:
            info.extend(self._state())
        return " ".join(info) + ">"

    def __del__(self) -> None:
        if self._pipe is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2)
            self._feed.close()
            self._pipe.close()

    def _state(self) -> list[str]:
        raise NotImplementedError

    def context(self) -> Any:
        return self._context

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return bool(self._closing)

    def _introduce(self) -> None:
        self._feed.enter()
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.connection_made() failed", exc)
        finally:
            self._feed.leave()

    def _start_feed(self) -> None:
        try:
            self._feed.start()
        except OSError as exc:
            # e.g. PermissionError: /dev/null cannot be waited for by epoll.
            self._report("this descriptor cannot be waited for", exc)
            self._shut(exc)

    def _shut(self, exc: BaseException | None, context: Any = None) -> None:
        """Begin the end: ``connection_lost`` in a step of its own.

        :param context: where that runs; None for the caller's. A step of the feed's has none of its own.
        """
        self._closing = True
        self._feed.stop()
        if not self._ending:
            self._ending = True
            self._loop.call_soon(self._end, exc, context=context)

    def _end(self, exc: BaseException | None) -> None:
        """The last step, but not while a call of the protocol is suspended: this one comes after it."""
        if self._feed.busy:
            self._feed.last = Handle(self._finish, (exc,), self._loop)
        else:
            self._finish(exc)

    def _finish(self, exc: BaseException | None) -> None:
        """The transport's last step."""
        try:
            self._protocol.connection_lost(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report("protocol.connection_lost() failed", error)
        finally:
            self._feed.close()
            pipe = self._pipe
            self._pipe = None
            pipe.close()
            self._protocol = None

    def _report(self, message: str, exc: BaseException) -> None:
        self._loop.call_exception_handler(
            {
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )


class ReadPipeTransport(PipeTransport):
    """The reading half (an ``asyncio.ReadTransport``).

    :raises ValueError: ``pipe`` is a regular file or a directory.
    """

    max_size = READ_SIZE

    # See StreamTransport: an extension class cannot derive from one with slots of its own.
    @property
    def __class__(self) -> type:  # type: ignore[override]
        return transports.ReadTransport

    def __init__(self, loop: Any, pipe: Any, protocol: Any, extra: dict[str, Any] | None) -> None:
        PipeTransport.__init__(self, loop, pipe, protocol, extra)
        self._paused = False
        self._made = False
        self._account: Account = loop._ledger.account("pipe receive")
        self._feed: Feed = loop._engine.open_feed(self._fileno, self, True, True)
        self.set_protocol(protocol)

    def _state(self) -> list[str]:
        return ["open", "polling" if self._feed.reading else "idle"]

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self._closing or self._paused:
            return
        self._paused = True
        self._feed.stop()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._made:
            self._start_feed()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def close(self) -> None:
        if not self._closing:
            self._shut(None)

    def _begin(self, waiter: Any) -> None:
        """The transport's first step."""
        try:
            self._introduce()
        finally:
            self._made = True
            if not self._closing and not self._paused:
                self._start_feed()
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def readable(self) -> None:
        feed = self._feed
        for _ in range(_READS_PER_STEP):
            try:
                data = os.read(self._fileno, _READ_SIZE)
            except BlockingIOError:
                feed.can_read = False
                return
            except OSError as exc:
                self._fatal_error(exc)
                return
            if len(data) == 0:
                self._read_end()
                return
            self._account.add(len(data), 0)
            try:
                run_method1(self._context, self._protocol, "data_received", data)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._report("protocol.data_received() failed", exc)
            if not feed.reading:
                return

    def _read_end(self) -> None:
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        # In steps of their own: whom the last data woke runs before.
        self._loop.call_soon(self._tell_end, context=self._context.copy())
        self._shut(None, self._context.copy())

    def _tell_end(self) -> None:
        self._feed.enter()
        try:
            self._protocol.eof_received()
        finally:
            self._feed.leave()

    def _fatal_error(self, exc: OSError) -> None:
        if exc.errno == errno.EIO:  # how a terminal says that its other end is gone
            if self._loop.get_debug():
                logger.debug("%r: fatal read error on pipe transport", self, exc_info=True)
        else:
            self._report("Fatal read error on pipe transport", exc)
        self._shut(exc, self._context.copy())


class WritePipeTransport(PipeTransport):
    """The writing half (an ``asyncio.WriteTransport``).

    :raises ValueError: ``pipe`` is a regular file or a directory.
    """

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return transports._FlowControlMixin  # type: ignore[attr-defined, no-any-return]

    def __init__(self, loop: Any, pipe: Any, protocol: Any, extra: dict[str, Any] | None) -> None:
        PipeTransport.__init__(self, loop, pipe, protocol, extra)
        self._lost_writes = 0
        self._account: Account = loop._ledger.account("pipe send")
        self._protocol_paused = False
        self._high_water = HIGH_WATER
        self._low_water = HIGH_WATER // 4
        self._out: list[Any] = []
        self._pending = 0
        # As in asyncio, whoever made the output pile up hears of it in his own.
        self._output_context = self._context
        self._feed: Feed = loop._engine.open_feed(self._fileno, self, False, True)

    def _state(self) -> list[str]:
        return ["open", "polling" if self._out else "idle", f"bufsize={self._pending}"]

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def can_write_eof(self) -> bool:
        return True

    # isinstance() says that this is an asyncio.Transport, as it does of asyncio's own; and as there, it cannot read.

    def is_reading(self) -> bool:
        raise NotImplementedError("this is the writing half of a pipe")

    def pause_reading(self) -> None:
        raise NotImplementedError("this is the writing half of a pipe")

    def resume_reading(self) -> None:
        raise NotImplementedError("this is the writing half of a pipe")

    def get_write_buffer_size(self) -> int:
        return self._pending

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (self._low_water, self._high_water)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water = high
        self._low_water = low
        self._maybe_pause_protocol()

    def write(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if isinstance(data, memoryview) and (data.format != "B" or data.ndim != 1):
            data = data.cast("B")
        size = len(data)
        if not size:
            return
        if self._closing:
            if self._lost_writes >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self._lost_writes += 1
            return
        sent = 0
        if not self._out:
            try:
                sent = os.write(self._fileno, data)
            except BlockingIOError:
                pass
            except OSError as exc:
                self._fatal_error(exc)
                return
            self._account.add(sent, 0)
            if sent == size:
                return
            self._feed.wait_writable()
            self._output_context = copy_context()
        if type(data) is bytes:
            self._out.append(memoryview(data)[sent:] if sent else data)
        else:
            # The caller may change it once we have returned.
            with memoryview(data) as view:
                self._out.append(bytes(view[sent:]))
            self._account.add(0, size - sent)
        self._pending += size - sent
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        data = b"".join(list_of_data)
        self._account.add(0, len(data))
        self.write(data)

    def write_eof(self) -> None:
        """Close once what is pending has been written: that is how the end is said on a pipe."""
        if self._closing:
            return
        self._closing = True
        if not self._out:
            self._shut(None)

    def close(self) -> None:
        if self._pipe is not None and not self._closing:
            self.write_eof()

    def abort(self) -> None:
        self._close_now(None)

    def _begin(self, waiter: Any) -> None:
        """The transport's first step."""
        try:
            self._introduce()
        finally:
            # A terminal has no reader whose end could be heard of.
            if not self._ending and not stat.S_ISCHR(self._mode):
                self._start_feed()
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def readable(self) -> None:
        """The reader has hung up."""
        self._feed.can_read = False
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self._close_now(BrokenPipeError() if self._out else None, self._context.copy())

    def writable(self) -> None:
        if self._ending:
            return  # the reader's end came with it
        out = self._out
        while out:
            try:
                sent = os.writev(self._fileno, out[:_WRITES_AT_ONCE])
            except BlockingIOError:
                break
            except OSError as exc:
                self._fatal_error(exc, self._output_context.copy())
                return
            self._pending -= sent
            self._account.add(sent, 0)
            taken = 0
            while taken < len(out) and sent >= len(out[taken]):
                sent -= len(out[taken])
                taken += 1
            del out[:taken]
            if sent:
                out[0] = memoryview(out[0])[sent:]
        if out:
            self._feed.wait_writable()
        if self._protocol_paused and self._pending <= self._low_water:
            self._output_context.run(self._resume_protocol)
        if not self._out and self._closing and not self._ending:
            self._ending = True
            self._feed.stop()
            self._output_context.run(self._finish, None)

    def _close_now(self, exc: BaseException | None, context: Any = None) -> None:
        self._out.clear()
        self._pending = 0
        self._shut(exc, context)

    def _fatal_error(self, exc: OSError, context: Any = None) -> None:
        self._lost_writes += 1
        if self._loop.get_debug():
            logger.debug("%r: fatal write error on pipe transport", self, exc_info=True)
        self._close_now(exc, context)

    def _maybe_pause_protocol(self) -> None:
        if self._pending <= self._high_water or self._protocol_paused:
            return
        self._protocol_paused = True
        self._feed.enter()
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.pause_writing() failed", exc)
        finally:
            self._feed.leave()

    def _resume_protocol(self) -> None:
        self._protocol_paused = False
        try:
            self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report("protocol.resume_writing() failed", exc)
