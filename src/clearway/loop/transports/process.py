"""Subprocesses: started as by ``subprocess.Popen`` (``launching``), waited for by a pidfd.

A pidfd (Linux 5.3) polls readable when its process ends, so nothing here installs a SIGCHLD handler, starts a
thread or waits for a process that is not its own: handlers of the user's, other loops and ``subprocess`` go on
undisturbed. Where pidfds are forbidden (some seccomp profiles) a thread per process waits instead.

The standard library's transport connects each pipe in a task; here all is ready when the process is started, and
the protocol hears of everything in one pass of the loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import warnings
from asyncio import events, transports
from asyncio.log import logger
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from select import EPOLLIN
from typing import Any

from clearway.loop.transports.launching import start
from clearway.loop.transports.pipe import ReadPipeTransport, WritePipeTransport
from clearway.steps import Handle

#: What the standard library reports for a process that somebody else has waited for.
STATUS_UNKNOWN = 255

PIPE = subprocess.PIPE


class SubprocessTransport(transports.SubprocessTransport):
    """The transport of a running process (an ``asyncio.SubprocessTransport``)."""

    def __init__(
        self,
        loop: Any,
        protocol: Any,
        args: Any,
        proc: subprocess.Popen[bytes],
        extra: dict[str, Any] | None,
    ) -> None:
        super().__init__(extra)
        self._loop = loop
        self._protocol = protocol
        self._closed = True  # until it is whole, __del__ has nothing to complain about
        self._finished = False
        self._returncode: int | None = None
        self._exit_waiters: list[asyncio.Future[int]] = []
        self._pipes: dict[int, _PipeProtocol] = {}
        self._context = copy_context()
        self._pidfd = -1
        # Calls that must wait until the protocol knows its transport; None: it does.
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = []
        self._proc: subprocess.Popen[bytes] | None = proc
        self._pid = proc.pid
        self._closed = False
        self._extra["subprocess"] = self._proc  # type: ignore[attr-defined]
        try:
            self._watch()
            self._connect(proc)
        except BaseException:
            self._closed = True
            self._kill_and_reap()
            raise
        if loop.get_debug():
            program = args if isinstance(args, (bytes, str)) else args[0]
            logger.debug("process %r created: pid %s", program, self._pid)

    # -- what users see ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        info = ["<clearway.SubprocessTransport"]
        if self._closed:
            info.append("closed")
        info.append(f"pid={self._pid}")
        info.append("running" if self._returncode is None else f"returncode={self._returncode}")
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            if fd in self._pipes:
                info.append(f"{name}={self._pipes[fd].pipe!r}")
        return " ".join(info) + ">"

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2)
            if not self._loop.is_closed():
                self.close()
                return
            # The pipes and the pidfd can only be let go of: their loop will not run again.
            self._closed = True
            if self._proc is not None and self._returncode is None:
                self._proc.kill()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closed

    def get_pid(self) -> int:
        return self._pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> Any:
        pipe = self._pipes.get(fd)
        return None if pipe is None else pipe.pipe

    def send_signal(self, signal: int) -> None:
        """Send a signal; nothing happens when the process has ended.

        :raises ProcessLookupError: the transport is gone.
        """
        proc = self._proc
        if proc is None:
            raise ProcessLookupError()
        if self._returncode is not None or proc.returncode is not None:
            return
        # Not reaped yet, so the number cannot have been given to another process.
        try:
            os.kill(self._pid, signal)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes, and kill the process if it still runs: it is reaped then as always."""
        if self._closed:
            return
        self._closed = True
        for pipe in self._pipes.values():
            pipe.pipe.close()
        if self._proc is not None and self._returncode is None and self._proc.returncode is None:
            if self._loop.get_debug():
                logger.warning("Close running child process: kill %r", self)
            try:
                self._proc.kill()
            except (ProcessLookupError, PermissionError):
                pass  # ended meanwhile; or it runs as another user

    # -- beginning -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have ``_on_exit`` called when the process ends."""
        loop = self._loop
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            threading.Thread(
                target=self._wait_in_thread, name=f"waitpid-{self._pid}", daemon=True
            ).start()
            return
        step = Handle(self._on_exit, (), loop, self._context, False)
        self._exit_poll = loop._engine.poll(self._pidfd, EPOLLIN, step)

    def _wait_in_thread(self) -> None:
        status = _reap(self._pid, 0)
        try:
            self._loop.call_soon_threadsafe(self._exited, status)
        except RuntimeError:
            logger.warning("Loop %r that handles pid %r is closed", self._loop, self._pid)

    def _connect(self, proc: subprocess.Popen[bytes]) -> None:
        """Make the pipes' transports."""
        pipe: Any
        if _connects_pipes_itself(self._loop):
            return
        for fd, stream in enumerate((proc.stdin, proc.stdout, proc.stderr)):
            if stream is None:
                continue
            protocol = _PipeProtocol(self, fd)
            if fd == 0:
                pipe = WritePipeTransport(self._loop, stream, protocol, None)
            else:
                pipe = ReadPipeTransport(self._loop, stream, protocol, None)
            protocol.pipe = pipe
            self._pipes[fd] = protocol

    async def _connect_by_loop(self) -> None:
        """Have a loop that wants to see to it make the pipes' transports."""
        proc = self._proc
        assert proc is not None
        for fd, stream in enumerate((proc.stdin, proc.stdout, proc.stderr)):
            if stream is not None:
                protocol = _PipeProtocol(self, fd)
                connect = self._loop.connect_read_pipe if fd else self._loop.connect_write_pipe
                protocol.pipe, _ = await connect(partial(_same, protocol), stream)
                self._pipes[fd] = protocol

    def _introduce(self) -> None:
        calls = self._deferred or []
        self._deferred = None
        self._call(self._protocol.connection_made, self)
        for callback, args in calls:
            self._call(callback, *args)

    def _begin(self, waiter: Any) -> None:
        """The transport's first step: introduce it to its protocol, then let the pipes read."""
        self._introduce()
        for pipe in self._pipes.values():
            pipe.pipe._begin(None)
        if not waiter.done():
            waiter.set_result(None)

    # -- ending ----------------------------------------------------------------------------------------------

    def _on_exit(self) -> None:
        """The pidfd says that the process has ended."""
        proc = self._proc
        assert proc is not None
        os.close(self._pidfd)
        self._pidfd = -1
        # Under Popen's own lock, so that a poll() or wait() of the user's in another thread and this one never
        # both ask the kernel: the second would be told that there is no such child.
        with proc._waitpid_lock:  # type: ignore[attr-defined]
            if proc.returncode is None:
                proc.returncode = _reap(self._pid, os.WNOHANG)
            status = proc.returncode
        # Not in this step: what the process wrote before it ended has arrived as well and goes first.
        self._loop.call_soon(self._exited, status, context=self._context)

    def _exited(self, status: int) -> None:
        proc = self._proc
        assert proc is not None and self._returncode is None
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, status)
        if status == STATUS_UNKNOWN and proc.returncode is not None:
            status = proc.returncode  # the thread came second
        self._returncode = status
        if proc.returncode is None:
            proc.returncode = status  # or its finaliser would wait for the process
        self._call(self._protocol.process_exited)
        self._try_finish()

    def _pipe_lost(self, fd: int, exc: BaseException | None) -> None:
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _try_finish(self) -> None:
        if self._returncode is None or self._finished or self._deferred is not None:
            return
        if all(pipe.disconnected for pipe in self._pipes.values()):
            self._finished = True
            self._loop.call_soon(self._finish, context=self._context)

    def _finish(self) -> None:
        """The transport's last step."""
        self._call(self._protocol.connection_lost, None)
        for waiter in self._exit_waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)  # type: ignore[arg-type]
        self._exit_waiters.clear()
        self._proc = None
        self._protocol = None

    async def _wait(self) -> int:
        """Wait for the end of the process and its pipes; the return code."""
        if self._returncode is not None:
            return self._returncode
        waiter = self._loop.create_future()
        self._exit_waiters.append(waiter)
        return await waiter  # type: ignore[no-any-return]

    def _kill_and_reap(self) -> None:
        """The transport could not be made: leave neither a process nor a descriptor."""
        proc = self._proc
        assert proc is not None
        if self._pidfd >= 0:
            self._exit_poll.cancel()
            os.close(self._pidfd)
        proc.kill()
        proc.wait()
        for stream in (proc.stdin, proc.stdout, proc.stderr):
            if stream is not None:
                stream.close()

    def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Tell the protocol; its errors are reported and change nothing."""
        if self._deferred is not None:
            self._deferred.append((callback, args))
            return
        try:
            callback(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._loop.call_exception_handler(
                {
                    "message": f"{getattr(callback, '__qualname__', callback)}() failed",
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )


class _PipeProtocol(asyncio.Protocol):
    """Passes on what one of the process's pipes says."""

    def __init__(self, process: SubprocessTransport, fd: int) -> None:
        self.process = process
        self.fd = fd
        self.pipe: Any = None
        self.disconnected = False

    def data_received(self, data: bytes) -> None:
        process = self.process
        process._call(process._protocol.pipe_data_received, self.fd, data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.disconnected = True
        self.process._pipe_lost(self.fd, exc)

    def pause_writing(self) -> None:
        self.process._protocol.pause_writing()

    def resume_writing(self) -> None:
        self.process._protocol.resume_writing()


def _reap(pid: int, flags: int) -> int:
    """Wait for a child of ours; its return code."""
    try:
        _, status = os.waitpid(pid, flags)
    except ChildProcessError:
        logger.warning(
            "child process pid %d exit status already read: will report returncode %d",
            pid,
            STATUS_UNKNOWN,
        )
        return STATUS_UNKNOWN
    try:
        return os.waitstatus_to_exitcode(status)
    except ValueError:
        return status


async def start_process(
    loop: Any,
    protocol: Any,
    args: Any,
    shell: bool,
    stdin: Any,
    stdout: Any,
    stderr: Any,
    bufsize: int,
    extra: dict[str, Any] | None,
    options: dict[str, Any],
) -> SubprocessTransport:
    """What ``loop.subprocess_exec`` and ``subprocess_shell`` come down to."""
    joined = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "bufsize": bufsize}
    proc = await start(loop, args, {"shell": shell, **joined, **options})
    transport = SubprocessTransport(loop, protocol, args, proc, extra)
    try:
        if _connects_pipes_itself(loop):
            await transport._connect_by_loop()
            transport._introduce()
            transport._try_finish()
        else:
            waiter = loop.create_future()
            loop.call_soon(transport._begin, waiter)
            await waiter
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await transport._wait()
        raise
    return transport


def _same(protocol: _PipeProtocol) -> _PipeProtocol:
    return protocol


def _connects_pipes_itself(loop: Any) -> bool:
    """Whether somebody put a method of his own in the place of the loop's: then it sees the pipes."""
    own = asyncio.BaseEventLoop
    for name in ("connect_read_pipe", "connect_write_pipe"):
        if name in vars(loop) or getattr(type(loop), name) is not getattr(own, name):
            return True
    return False


def has_own_child_watcher() -> bool:
    """Whether the program chose how its children are waited for (before 3.14): then that is what counts.

    The standard library's own choices wait for one process each and disturb nobody, so they do not count.
    """
    if sys.version_info >= (3, 14):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        watcher = getattr(events.get_event_loop_policy(), "_watcher", None)
        return watcher is not None and type(watcher) not in (
            asyncio.ThreadedChildWatcher,
            asyncio.PidfdChildWatcher,
        )
