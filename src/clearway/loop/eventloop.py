"""``EventLoop``: the compiled core with the rest of asyncio's surface around it.

What is not hot is inherited from the standard library's loop on purpose: name resolution, the staggered
connects of happy eyeballs, argument checks, executors and the shut-down of async generators are well kept
there, and each interpreter brings the version its users expect. What moves bytes or schedules steps is ours.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import selectors
import signal
import socket
import ssl
import sys
import threading
import weakref
from asyncio import base_events, events, tasks
from asyncio.log import logger
from collections.abc import Callable
from typing import Any

from clearway.buffers.account import Ledger
from clearway.engine import make_engine
from clearway.engine.sizes import DEFAULT_SIZES
from clearway.kernel.dgram import Datagrams
from clearway.loop.core import CLOCK_RESOLUTION_S, LoopCore
from clearway.loop.errors import add_place, add_to_message
from clearway.loop.options import LoopOptions
from clearway.loop.remedies import (
    address_of_datagram,
    address_of_internet,
    address_of_name,
    address_of_unix,
    insist_on_socket,
    no_address,
    with_remedy,
)
from clearway.loop.server import Acceptor
from clearway.loop.sockets import SocketMethods
from clearway.loop.statistics import LoopStatistics, read_statistics
from clearway.loop.transports.datagram import DatagramTransport
from clearway.loop.transports.pipe import ReadPipeTransport, WritePipeTransport
from clearway.loop.transports.process import has_own_child_watcher, start_process
from clearway.loop.transports.stream import StreamTransport
from clearway.loop.transports.tls import TLSTransport
from clearway.scheduler import domains
from clearway.scheduler.preemption import Scheduler, is_compiled
from clearway.scheduler.timeouts import interrupt
from clearway.steps import Handle

# Server._attach and _detach take the transport since 3.12.? (3.13.0 and the later 3.12 releases).
_SERVER_COUNTS_TRANSPORTS = base_events.Server._attach.__code__.co_argcount > 1  # type: ignore[attr-defined]

_loops: weakref.WeakSet[EventLoop]

#: At the end of a program, a task that was cancelled may compute for so much longer, mode "on". Ctrl-C is pressed
#: again after about two seconds, and what is worth finishing is worth not being cancelled.
END_GRACE_S = 1.0

_Base = asyncio.SelectorEventLoop
_stop_when_done = base_events._run_until_complete_cb  # type: ignore[attr-defined]


class EventLoop(LoopCore, SocketMethods, asyncio.SelectorEventLoop):
    """The event loop. Made by ``clearway.new_event_loop(**options)``.

    :param options: see ``clearway.loop.options.LoopOptions``.
    :raises OSError: the engine that was asked for is refused by the kernel; the text says what to do.
    """

    #: A subclass may have other sizes.
    _ring_sizes = DEFAULT_SIZES

    #: asyncio's default, until it sets its own.
    _slow_after = 0.1
    _handler: Any = None

    def __init__(self, options: LoopOptions | None = None) -> None:
        self._options = options if options is not None else LoopOptions()
        LoopCore.__init__(
            self,
            Scheduler(
                self._options.preempt,
                self._options.quantum,
                self._options.policy,
                self._options.report_after,
                elsewhere="report" if self._options.process_wide else None,
            ),
        )
        if not is_compiled():
            self._scheduler.check()  # there will never be a thread in which "on" works
        self._closed = True  # until there is an engine, __del__ has nothing to complain about
        self._engine = make_engine(self._options.engine, self._steps, self._ring_sizes)
        self._ledger = Ledger()
        self._ledger.accounts.update(receive=self._engine.received, send=self._engine.sent)
        self._ssock = self._csock = None
        # Sets _closed, _stopping, _thread_id, which live in the core.
        asyncio.SelectorEventLoop.__init__(self, _SelectorView(self._engine))  # type: ignore[arg-type]
        self._clock_resolution = CLOCK_RESOLUTION_S
        self._transports: dict[int, Any] = {}  # type: ignore[assignment]
        self._acceptors: dict[int, Acceptor] = {}
        self._datagrams: Datagrams | None = None
        self._corked: set[DatagramTransport] = set()
        if self._options.debug is not None:
            self.set_debug(self._options.debug)
        _loops.add(self)

    def __repr__(self) -> str:
        return (
            f"<{self.__class__.__name__} engine={self._engine.name} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # Each of these stands in the core and in a base class; the core's is the one that counts.
    time = LoopCore.time
    call_soon = LoopCore.call_soon
    call_later = LoopCore.call_later
    call_at = LoopCore.call_at
    call_soon_threadsafe = LoopCore.call_soon_threadsafe
    create_future = LoopCore.create_future

    # What is inherited from asyncio, with errors that say what to do.
    getaddrinfo = with_remedy("resolve", _Base.getaddrinfo, address_of_name)
    create_server = with_remedy(
        "listen", insist_on_socket(_Base.create_server), address_of_internet
    )
    create_connection = with_remedy("connect", _Base.create_connection, address_of_internet)
    create_unix_server = with_remedy("listen", _Base.create_unix_server, address_of_unix)
    create_unix_connection = with_remedy("connect", _Base.create_unix_connection, address_of_unix)
    create_datagram_endpoint = with_remedy(
        "bind", _Base.create_datagram_endpoint, address_of_datagram
    )
    subprocess_exec = with_remedy("start", _Base.subprocess_exec, no_address)
    subprocess_shell = with_remedy("start", _Base.subprocess_shell, no_address)

    @property
    def engine_name(self) -> str:
        """ "uring" or "epoll"."""
        return str(self._engine.name)

    # -- running ---------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        if self._forked:
            self._refuse()
        self._check_closed()
        self._check_running()
        self._scheduler.check()
        self._set_coroutine_origin_tracking(self._debug)
        old_hooks = sys.get_asyncgen_hooks()
        wakeup = None
        self._engine.attach()
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            wakeup = self._take_wakeup_fd()
            self._scheduler.enter(self)
        finally:
            self._give_wakeup_fd(wakeup)
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*old_hooks)
            self._engine.detach()

    def run_until_complete(self, future: Any) -> Any:
        if self._scheduler.mode == "on" and isinstance(future, tasks._GatheringFuture):  # type: ignore[attr-defined]
            # What asyncio.Runner and servers do at the end: everything has been cancelled and is waited for.
            ending = [task for task in future._children if getattr(task, "cancelling", int)()]
            if ending and len(ending) == len(future._children):
                self.call_later(END_GRACE_S, self._interrupt_ending, ending)
        try:
            return super().run_until_complete(future)
        except (KeyboardInterrupt, SystemExit):
            # Had the future just been done, its stop() is still queued, and would stop whoever runs the loop next:
            # asyncio.Runner, which then could not wait for the tasks it has cancelled.
            for step in self._steps:
                if isinstance(step, Handle) and step._callback is _stop_when_done:
                    (done,) = step._args
                    if done.cancelled() or not isinstance(
                        done.exception(), KeyboardInterrupt | SystemExit
                    ):
                        step.cancel()
            raise

    def _interrupt_ending(self, ending: list[Any]) -> None:
        """Raise the CancelledError of tasks that compute and compute where they were suspended."""
        ending = [task for task in ending if not task.done()]
        for task in ending:
            if self._scheduler.is_suspended(task):
                interrupt(task, asyncio.CancelledError())
        if ending:
            self.call_later(END_GRACE_S, self._interrupt_ending, ending)

    def stop(self) -> None:
        self._stopping = True

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(enabled)
        self._watch_slow_steps()

    @property
    def slow_callback_duration(self) -> float:
        """In debug mode, steps of more than so many seconds are logged, with the line that was running."""
        return self._slow_after

    @slow_callback_duration.setter
    def slow_callback_duration(self, seconds: float) -> None:
        self._slow_after = seconds
        self._watch_slow_steps()

    def _watch_slow_steps(self) -> None:
        if not self._closed and self.is_running() and self._thread_id != threading.get_ident():
            self.call_soon_threadsafe(self._watch_slow_steps)
            return
        self._scheduler.debug(self._slow_after if self._debug else 0.0)

    def close(self) -> None:
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        if self._forked:
            self._closed = True
            return
        self._end_suspended_steps()
        for acceptor in list(self._acceptors.values()):
            acceptor.stop()
        self._acceptors.clear()
        for sig in list(self._signal_handlers):
            self.remove_signal_handler(sig)
        self._close_self_pipe()
        base_events.BaseEventLoop.close(self)
        self._timers.clear()
        del self._steps[:]
        self._head = 0
        self._selector = None
        self._engine.close()
        # What nobody closed is the garbage collector's, which warns of it.
        self._transports.clear()

    def _end_suspended_steps(self) -> None:
        self._stopping = True
        try:
            ignored = self._scheduler.close()
        finally:
            self._stopping = False
        for name in ignored:
            logger.error(
                "%s was suspended when its loop was closed and went on computing after CancelledError "
                "had been raised in it; it has been abandoned",
                name,
            )

    def statistics(self) -> LoopStatistics:
        """Figures of this loop since it was made."""
        return read_statistics(self)

    def create_task(
        self,
        coro: Any,
        *,
        priority: int | None = None,
        weight: float | None = None,
        preemptible: bool | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Schedule a coroutine, as ``asyncio.AbstractEventLoop.create_task``.

        :param priority: how urgent it is under the policy "priority"; higher first. Inherited by the tasks it
            makes, as are the next two. Default: that of the task that makes it, else 0.
        :param weight: its share under the policy "fair", relative to the default of 1.0.
        :param preemptible: False keeps its steps from being suspended.
        """
        if priority is not None or weight is not None or preemptible is not None:
            context = options.get("context")
            if context is None:
                options["context"] = context = contextvars.copy_context()
            domains.prepare_context(
                context, priority=priority, weight=weight, preemptible=preemptible
            )
        return super().create_task(coro, **options)

    def _abandon(self) -> None:
        """In the child of a fork: this loop is the parent's."""
        self._forked = True
        self._thread_id = None
        self._sleeping = False
        self._engine.abandon()

    # -- the wake-up descriptor of the interpreter ---------------------------------------------------------

    def _make_self_pipe(self) -> None:
        pass  # made when first needed; threads wake the loop through the engine

    def _need_self_pipe(self) -> None:
        if self._csock is None:
            self._ssock, self._csock = socket.socketpair()
            self._ssock.setblocking(False)
            self._csock.setblocking(False)
            self._add_reader(self._ssock, self.drain_wakeups)
            self._signal_fd = self._ssock.fileno()

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            if self._ssock.fileno() >= 0:  # at interpreter exit the sockets may go first
                self._remove_reader(self._ssock)
            self._ssock.close()
            self._csock.close()
            self._ssock = self._csock = None
            self._signal_fd = -1

    def _take_wakeup_fd(self) -> int | None:
        """Have the interpreter's C signal handler write to us, so that no signal is missed between the last
        bytecode and the wait. None where that is not ours to do: another thread, or another owner."""
        if threading.current_thread() is not threading.main_thread():
            return None
        self._need_self_pipe()
        old = signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        if old not in (-1, self._csock.fileno()):
            signal.set_wakeup_fd(old)
            return None
        return old

    def _give_wakeup_fd(self, old: int | None) -> None:
        if old is None or self._signal_handlers:
            return  # with handlers of ours it stays until they are removed
        current = signal.set_wakeup_fd(-1)
        if current not in (-1, self._csock.fileno()):
            signal.set_wakeup_fd(current)  # somebody took it over meanwhile

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "signals arrive in the main thread only, so add_signal_handler() works there only; have the main "
                "thread handle the signal and tell this loop by call_soon_threadsafe()"
            )
        self._need_self_pipe()
        super().add_signal_handler(sig, callback, *args)

    def remove_signal_handler(self, sig: int) -> bool:
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers and self._thread_id == threading.get_ident():
            # The base class gave the wake-up descriptor back; a running loop still wants it.
            self._take_wakeup_fd()
        return removed

    def _add_callback_signalsafe(self, handle: Any) -> None:
        self.call_soon_threadsafe(handle._callback, *handle._args, context=handle._context)

    def _write_to_self(self) -> None:
        self._engine.wake()

    # -- readiness -----------------------------------------------------------------------------------------

    def _add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Handle:
        self._check_closed()
        handle = Handle(callback, args, self, None, self._debug)
        old = self._engine.set_reader(_fileno(fd), handle)
        if old is not None:
            old.cancel()
        return handle

    def _remove_reader(self, fd: Any) -> bool:
        if self._closed or self._forked:
            return False
        old = self._engine.set_reader(_fileno(fd), None)
        if old is None:
            return False
        old.cancel()
        return True

    def _add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Handle:
        self._check_closed()
        handle = Handle(callback, args, self, None, self._debug)
        old = self._engine.set_writer(_fileno(fd), handle)
        if old is not None:
            old.cancel()
        return handle

    def _remove_writer(self, fd: Any) -> bool:
        if self._closed or self._forked:
            return False
        old = self._engine.set_writer(_fileno(fd), None)
        if old is None:
            return False
        old.cancel()
        return True

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        fileno = _fileno(fd)
        transport = self._transports.get(fileno)
        if type(transport) is weakref.ref:
            transport = transport()
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    # -- transports and servers ------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        **_: Any,
    ) -> StreamTransport:
        self._ensure_fd_no_transport(sock)
        transport = StreamTransport(self, sock.fileno(), sock, protocol, extra)
        if server is not None:
            self._attach_to_server(server, transport)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            base_events._set_nodelay(sock)  # type: ignore[attr-defined]
        self.call_soon(transport._begin, waiter)
        return transport

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **_: Any,
    ) -> Any:
        transport = TLSTransport(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, transport, extra=extra, server=server)
        return transport

    async def start_tls(  # type: ignore[override]
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> TLSTransport:
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        encrypted = TLSTransport(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        # Nothing may arrive before the new protocol knows its transport.
        transport.pause_reading()
        transport.set_protocol(encrypted)
        made = self.call_soon(encrypted.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        return encrypted

    def flush(self) -> None:
        for transport in self._corked:
            transport.flush_corked()
        self._engine.flush()

    def _get_datagrams(self) -> Datagrams:
        """The datagram buffers of this loop, made when its first datagram socket is."""
        if self._datagrams is None:
            self._datagrams = Datagrams()
        return self._datagrams

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        address: Any = None,
        waiter: Any = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        self._ensure_fd_no_transport(sock)
        transport = DatagramTransport(self, sock, protocol, address, extra)
        self.call_soon(transport._begin, waiter)
        return transport

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> ReadPipeTransport:
        transport = ReadPipeTransport(self, pipe, protocol, extra)
        self.call_soon(transport._begin, waiter)
        return transport

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: dict[str, Any] | None = None
    ) -> WritePipeTransport:
        transport = WritePipeTransport(self, pipe, protocol, extra)
        self.call_soon(transport._begin, waiter)
        return transport

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if has_own_child_watcher():
            return await super()._make_subprocess_transport(
                protocol, args, shell, stdin, stdout, stderr, bufsize, extra=extra, **kwargs
            )
        return await start_process(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra, kwargs
        )

    def _attach_to_server(self, server: Any, transport: StreamTransport) -> None:
        if _SERVER_COUNTS_TRANSPORTS:
            server._attach(transport)
        else:
            server._attach()
        transport._server = server

    def _detach_from_server(self, server: Any, transport: StreamTransport) -> None:
        if _SERVER_COUNTS_TRANSPORTS:
            server._detach(transport)
        else:
            server._detach()

    def _start_serving(
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **_: Any,
    ) -> None:
        acceptor = Acceptor(
            self,
            protocol_factory,
            sock,
            sslcontext,
            server,
            backlog,
            {
                "ssl_handshake_timeout": ssl_handshake_timeout,
                "ssl_shutdown_timeout": ssl_shutdown_timeout,
            },
        )
        self._acceptors[sock.fileno()] = acceptor
        acceptor.start()

    def _stop_listening(self, sock: socket.socket) -> None:
        acceptor = self._acceptors.pop(sock.fileno(), None)
        if acceptor is not None:
            acceptor.stop()

    def _stop_serving(self, sock: socket.socket) -> None:
        self._stop_listening(sock)
        super()._stop_serving(sock)  # Unix sockets are unlinked there; it closes the socket

    # -- errors ----------------------------------------------------------------------------------------------

    # ``call_exception_handler`` itself is left as it is: programs replace it in asyncio's class.

    @property
    def _exception_handler(self) -> Any:
        """What asyncio calls: the program's handler, with ``peer`` and ``step`` added to what it is told where an error
        has to do with a transport (see ``clearway.loop.errors``)."""
        handler = self._handler
        if handler is None:
            return None
        return lambda loop, context: handler(loop, add_place(self, context))

    @_exception_handler.setter
    def _exception_handler(self, handler: Any) -> None:
        self._handler = handler

    def get_exception_handler(self) -> Any:
        return self._handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:  # type: ignore[override]
        super().default_exception_handler(add_to_message(add_place(self, context)))

    def _describe_step(self, step: Any) -> str:
        if isinstance(step, Handle):
            return str(base_events._format_handle(step))  # type: ignore[attr-defined]
        return repr(step)


class _SelectorView:
    """What stands where the base class wants a selector: it only answers what the engine watches."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def close(self) -> None:
        pass

    def select(self, timeout: float | None = None) -> list[Any]:
        """:raises RuntimeError: always: whoever asks wants to make the turns of the loop himself."""
        raise RuntimeError(
            "clearway makes the turns of its loop itself, and the loop cannot be run again while it runs: a library "
            "that has replaced the loop's methods to do so (nest_asyncio) works on asyncio's own loop only. Await "
            "instead of calling run_until_complete() inside of the loop, or run the other loop in a thread"
        )

    def get_map(self) -> dict[int, Any]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        fd = _fileno(fileobj)
        watched = 0
        if self._engine.get_reader(fd) is not None:
            watched |= selectors.EVENT_READ
        if self._engine.get_writer(fd) is not None:
            watched |= selectors.EVENT_WRITE
        if not watched:
            raise KeyError(fileobj)
        return selectors.SelectorKey(fileobj, fd, watched, None)


def _fileno(fd: Any) -> int:
    if isinstance(fd, int):
        number = fd
    else:
        try:
            number = int(fd.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fd!r}") from None
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


def _after_fork_in_child() -> None:
    for loop in list(_loops):
        if not loop.is_closed():
            loop._abandon()


_loops = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
