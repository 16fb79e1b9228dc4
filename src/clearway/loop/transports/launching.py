"""``subprocess.Popen`` without the wait for the program to run: the loop waits for that, with everything else.

The standard library stops its thread from the start of a child until the program in it runs (or does not), 50 µs on an
idle machine and several hundred where the cores are busy; ``kernel.launch`` does not. What only the standard library
can do, a ``preexec_fn`` or another user, it does, in its own way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from select import EPOLLIN
from typing import Any

from clearway.kernel.launch import CHDIR, EXEC, Launch, launch
from clearway.steps import Handle

_STANDARD = subprocess.Popen

#: What ``Popen.__init__`` calls the method that ``Popen`` below replaces with, in every Python from 3.11 on.
_PARAMETERS = (
    *("self", "args", "executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env"),
    *("startupinfo", "creationflags", "shell"),
    *("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals"),
    *("gid", "gids", "uid", "umask", "start_new_session", "process_group"),
)


class Popen(subprocess.Popen[bytes]):
    """A ``subprocess.Popen`` whose program may not run yet: ``launched`` says when it does.

    :ivar launch: the child on its way; None: it has arrived, as after ``subprocess.Popen``.
    """

    launch: Launch | None = None
    #: The names that an error is told with: of the program and of its directory.
    names: tuple[Any, Any] = (None, None)

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: bool,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: bool,
        gid: Any,
        gids: Any,
        uid: Any,
        umask: int,
        start_new_session: bool,
        process_group: int,
    ) -> None:
        """What ``Popen.__init__`` calls last, when the pipes are there."""
        special = preexec_fn is not None or gid is not None or gids is not None or uid is not None
        if not special and not (isinstance(args, os.PathLike) and shell):
            words = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
            program = executable
            if shell:
                words = ["/bin/sh", "-c", *words]
                if executable:
                    words[0] = executable
            if program is None:
                program = words[0]
            sys.audit("subprocess.Popen", program, words, cwd, env)
            self.launch = launch(
                words,
                _where_to_look(program, env),
                close_fds,
                map(int, pass_fds),
                cwd,
                None if env is None else _encoded(env),
                p2cread,
                c2pwrite,
                errwrite,
                restore_signals,
                start_new_session,
                process_group,
                umask,
            )
            if self.launch is not None:
                self.names = (program, cwd)
                self.pid = self.launch.pid
                self._child_created = True
                ends = (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
                self._close_pipe_fds(*ends)  # type: ignore[attr-defined]
                return
        super()._execute_child(  # type: ignore[misc]
            *(args, executable, preexec_fn, close_fds, pass_fds, cwd, env),
            *(startupinfo, creationflags, shell),
            *(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals),
            *(gid, gids, uid, umask, start_new_session, process_group),
        )

    def arrive(self) -> None:
        """Take in how the launch went; wait for that if it is not decided yet.

        :raises OSError: the program could not be run; the child is gone and the pipes are closed.
        """
        assert self.launch is not None
        error, stage = self.launch.finish()
        self.launch = None
        if not error:
            return
        self.discard()
        name = self.names[0] if stage == EXEC else self.names[1] if stage == CHDIR else None
        text = os.strerror(error)
        raise OSError(error, text) if name is None else OSError(error, text, name)

    def discard(self) -> None:
        """Leave neither a process nor a pipe."""
        self.kill()
        if self.launch is not None:
            self.launch.finish()
            self.launch = None
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


async def start(loop: Any, args: Any, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    """``subprocess.Popen(args, **options)``, but others run while the program is loaded.

    :raises OSError: as ``Popen``.
    """
    if subprocess.Popen is not _STANDARD or not subprocess._USE_VFORK or not _fits():  # type: ignore[attr-defined]
        # Replaced, or told to use fork(2) (what the standard library documents for a vfork(2) that makes trouble).
        return subprocess.Popen(args, **options)
    proc = Popen(args, **options)
    if proc.launch is None:
        return proc
    owner = os.getpid()
    try:
        waiter = loop.create_future()
        step = Handle(_arrived, (waiter,), loop, None, False)
        poll = loop._engine.poll(proc.launch.fd, EPOLLIN, step)
        try:
            await waiter
        except BaseException:
            poll.cancel()
            raise
        proc.arrive()
    except BaseException:
        # In a child of fork() that lets go of this coroutine it is not its process to end.
        if proc.launch is not None and owner == os.getpid():
            proc.discard()
        raise
    return proc


def _arrived(waiter: Any) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _fits() -> bool:
    """Whether this Python's ``Popen`` calls the method in the way that ours expects."""
    code = _STANDARD._execute_child.__code__  # type: ignore[attr-defined]
    return bool(code.co_varnames[: code.co_argcount] == _PARAMETERS)


def _where_to_look(program: Any, env: Any) -> list[bytes]:
    """The paths that a program's name stands for."""
    name = os.fsencode(program)
    if b"/" in name:
        return [name]
    return [os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env)]


def _encoded(env: Any) -> list[bytes]:
    """The environment as the kernel wants it."""
    entries = []
    for key, value in env.items():
        key = os.fsencode(key)
        if b"=" in key:
            raise ValueError("illegal environment variable name")
        entries.append(key + b"=" + os.fsencode(value))
    return entries
