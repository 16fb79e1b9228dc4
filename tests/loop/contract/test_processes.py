"""Subprocesses: pipes, signals, order of callbacks, errors."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT

import pytest

from ...support.net import settle
from .harness import Scenarios, Trace, compare

scenario = Scenarios()


@pytest.mark.parametrize("function", scenario, ids=lambda f: f.__name__)
def test_same_as_asyncio(factories, function):
    compare(factories, function)


class Watcher(asyncio.SubprocessProtocol):
    def __init__(self, trace: Trace, **on):
        self.trace = trace
        self.on = on
        self.lost = asyncio.get_running_loop().create_future()
        self.got = asyncio.get_running_loop().create_future()
        self.exited = asyncio.get_running_loop().create_future()

    def note(self, event, *what):
        self.trace(event, *what)
        if event in self.on:
            self.on[event](self, *what)

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def pipe_data_received(self, fd, data):
        if not self.got.done():
            self.got.set_result(None)
        self.note("data", fd, data)

    def pipe_connection_lost(self, fd, exc):
        self.note("pipe lost", fd, exc)

    def process_exited(self):
        if not self.exited.done():
            self.exited.set_result(None)
        self.note("exited")

    def connection_lost(self, exc):
        if not self.lost.done():
            self.lost.set_result(None)
        self.note("lost", exc)


async def shell(trace: Trace, command, on=None, **options):
    p = Watcher(trace, **(on or {}))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.subprocess_shell(lambda: p, command, **options)
    return transport, p


@scenario
async def life(trace: Trace) -> None:
    # One pipe, so that the order of independent descriptors is not the kernel's choice.
    transport, p = await shell(
        trace, "read line; echo $line; cat; exit 3", stdin=PIPE, stderr=STDOUT
    )
    trace("kinds", isinstance(transport, asyncio.SubprocessTransport), transport.is_closing())
    trace("info", sorted(transport._extra), transport.get_returncode())
    trace("popen", isinstance(transport.get_extra_info("subprocess"), subprocess.Popen))
    trace("pid", transport.get_pid() == transport.get_extra_info("subprocess").pid)
    for fd in (0, 1, 2, 3):
        pipe = transport.get_pipe_transport(fd)
        trace(
            fd,
            isinstance(pipe, asyncio.ReadTransport),
            isinstance(pipe, asyncio.WriteTransport),
        )
    trace("protocol", transport.get_protocol() is p)
    transport.get_pipe_transport(0).write(b"hello\n")
    await p.got
    # Closed by us first: which of two ends the kernel tells of first is its own choice.
    transport.get_pipe_transport(0).close()
    await p.lost
    await settle()
    trace("code", transport.get_returncode(), transport.is_closing())
    trace("protocol", transport.get_protocol())
    trace("popen", transport.get_extra_info("subprocess") is not None)
    for name, args in (
        ("terminate", ()),
        ("kill", ()),
        ("send_signal", (signal.SIGHUP,)),
        ("close", ()),
        ("close", ()),
    ):
        trace.call(name, getattr(transport, name), *args)


@scenario
async def life_of_a_process(trace: Trace) -> None:
    process = await asyncio.create_subprocess_exec("true", stdin=DEVNULL)
    trace("streams", process.stdin, process.stdout, process.stderr)
    await trace.wait("wait", process.wait())
    await trace.wait("wait", process.wait())
    trace("code", process.returncode)
    trace.call("kill", process.kill)
    trace.call("terminate", process.terminate)
    trace.call("signal", process.send_signal, 0)
    await trace.wait("communicate", process.communicate())


@scenario
async def communicate(trace: Trace) -> None:
    for given in (b"", b"input", bytearray(b"input"), bytes(300_000)):
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await trace.wait("out", process.communicate(given))
        trace("code", process.returncode)
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    await trace.wait("broken pipe", process.communicate(bytes(1_000_000)))
    process = await asyncio.create_subprocess_exec("true", stdout=PIPE)
    await trace.wait("no stdin", process.communicate(b"x"))
    process = await asyncio.create_subprocess_shell(
        "echo out; echo err >&2", stdout=PIPE, stderr=STDOUT
    )
    await trace.wait("joined", process.communicate())
    process = await asyncio.create_subprocess_exec("sleep", "60", stdout=PIPE)
    waiting = asyncio.ensure_future(process.communicate())
    await settle()
    waiting.cancel()
    await trace.wait("cancelled", waiting)
    process.kill()
    trace("killed", await process.wait())


@scenario
async def standard_input(trace: Trace) -> None:
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    process.stdin.write(b"one")
    await process.stdin.drain()
    trace(await process.stdout.readexactly(3))
    process.stdin.write_eof()
    trace("closing", process.stdin.is_closing())
    trace(await process.stdout.read())
    trace(await process.wait())
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
    await process.wait()
    await settle()
    process.stdin.write(b"late")
    await trace.wait("drain", process.stdin.drain())
    await trace.wait("drain", process.stdin.drain())
    process.stdin.close()
    await trace.wait("closed", process.stdin.wait_closed())


@scenario
async def signals(trace: Trace) -> None:
    for how in ("terminate", "kill"):
        process = await asyncio.create_subprocess_exec("sleep", "60")
        getattr(process, how)()
        trace(how, await process.wait(), process.returncode)
        trace.call(how, getattr(process, how))
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.send_signal(signal.SIGUSR1)
    trace("usr1", await process.wait())
    process = await asyncio.create_subprocess_exec("sleep", "60")
    trace.call("wrong", process.send_signal, 12345)
    trace.call("wrong", process.send_signal, "x")
    process.kill()
    await process.wait()


@scenario
async def wrong_programs(trace: Trace) -> None:
    for args, options in (
        (("/nonexistent/program",), {}),
        (("/",), {}),
        (("true",), {"cwd": "/nonexistent"}),
        (("true",), {"cwd": __file__}),
        ((), {}),
        ((7,), {}),
        (("true", None), {}),
        (("true",), {"universal_newlines": True}),
        (("true",), {"text": True}),
        (("true",), {"encoding": "ascii"}),
        (("true",), {"errors": "strict"}),
        (("true",), {"bufsize": 1}),
        (("true",), {"shell": True}),
        (("true",), {"stdin": "x"}),
        (("true",), {"nonsense": 1}),
        (("true\0",), {}),
        (("true",), {"preexec_fn": lambda: 1 / 0}),
        (("true",), {"user": "nobody-at-all"}),
        (("true",), {"close_fds": False, "pass_fds": (0,)}),
    ):
        try:
            process = await asyncio.create_subprocess_exec(*args, **options)
        except BaseException as exc:
            trace(args, sorted(options), type(exc).__name__, str(exc)[:60])
        else:
            trace(args, sorted(options), await process.wait())
    for command in (None, 7, ["true"], ""):
        try:
            process = await asyncio.create_subprocess_shell(command)
        except BaseException as exc:
            trace(command, type(exc).__name__, str(exc)[:60])
        else:
            trace(command, await process.wait())
    await trace.wait("shell=False", asyncio.create_subprocess_shell("true", shell=False))


@scenario
async def options(trace: Trace) -> None:
    async def out(*args, **kwargs):
        process = await asyncio.create_subprocess_exec(*args, stdout=PIPE, **kwargs)
        data, _ = await process.communicate()
        return data, process.returncode

    r, w = os.pipe()
    trace("pass_fds", await out("sh", "-c", f"echo x >/proc/self/fd/{w}", pass_fds=(w,)))
    trace(os.read(r, 10))
    os.close(r)
    os.close(w)
    trace("cwd", await out("pwd", cwd="/"))
    trace("env", await out("env", env={"A": "b"}))
    code = "import os; print(os.getsid(0) == os.getpid())"
    trace("session", await out(sys.executable, "-c", code, start_new_session=True))
    trace("executable", await out("x", "-c", "echo $0", executable="/bin/sh"))
    trace("path", await out(b"echo", b"bytes"))
    trace("umask", await out("sh", "-c", "umask", umask=0o22))
    code = "import signal; print(signal.getsignal(signal.SIGPIPE))"
    for restore in (True, False):
        data, _ = await out(sys.executable, "-c", code, restore_signals=restore)
        trace("signals", data)
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    trace("mask", await out(sys.executable, "-c", code))


@scenario
async def no_pipes(trace: Trace) -> None:
    transport, p = await shell(trace, "exit 4", stdin=None, stdout=None, stderr=None)
    trace([transport.get_pipe_transport(fd) for fd in range(3)])
    await p.lost
    await settle()
    trace(transport.get_returncode(), transport.is_closing())
    transport.close()


@scenario
async def pipes_that_outlive_the_process(trace: Trace) -> None:
    transport, p = await shell(trace, "exec 3<&0; cat <&3 & exit 0", stderr=None)
    await p.exited
    await settle()
    trace("code", transport.get_returncode(), transport.is_closing(), p.lost.done())
    transport.get_pipe_transport(0).close()
    await p.lost
    transport.close()


@scenario
async def closing(trace: Trace) -> None:
    transport, p = await shell(trace, "exec sleep 60")
    transport.close()
    trace("closing", transport.is_closing())
    transport.close()
    await p.lost
    trace("code", transport.get_returncode())


@scenario
async def closing_in_callbacks(trace: Trace) -> None:
    for where in ("made", "data"):
        transport, p = await shell(
            trace,
            "echo x; exec sleep 60" if where == "data" else "exec sleep 60",
            on={where: lambda p, *_: p.transport.close()},
            stdin=None,
            stderr=None,
        )
        await p.lost
        trace("code", transport.get_returncode())


@scenario
async def callbacks_that_fail(trace: Trace) -> None:
    def fail(*what):
        raise ArithmeticError("of the protocol")

    for where in ("data", "pipe lost", "exited", "lost"):
        transport, p = await shell(trace, "echo x; read x", on={where: fail}, stderr=None)
        await p.got
        transport.get_pipe_transport(0).close()
        await p.exited
        await settle(10)
        trace(where, "done", p.lost.done(), transport.get_returncode(), transport.is_closing())
        transport.close()
        await settle(10)


@scenario
async def made_that_fails(trace: Trace) -> None:
    def fail(*what):
        raise ArithmeticError("of the protocol")

    transport, p = await shell(
        trace, "exit 2", on={"made": fail}, stdin=None, stdout=None, stderr=None
    )
    await p.lost
    trace("code", transport.get_returncode())
    transport.close()


@scenario
async def contexts(trace: Trace) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

    def see(p, *what):
        trace("var", var.get())

    var.set("made")
    transport, p = await shell(
        trace,
        "echo x; read x",
        on=dict.fromkeys(("made", "data", "pipe lost"), see),
        stderr=None,
    )
    var.set("later")
    await p.got
    transport.get_pipe_transport(0).close()
    await p.lost
    transport.close()


@scenario
async def a_factory_that_fails(trace: Trace) -> None:
    loop = asyncio.get_running_loop()

    def broken():
        raise ArithmeticError("factory")

    await trace.wait("exec", loop.subprocess_exec(broken, "true"))
    await trace.wait("shell", loop.subprocess_shell(broken, "true"))


@scenario
async def flow_control(trace: Trace) -> None:
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, limit=10)
    process.stdin.write(bytes(500_000))
    draining = asyncio.ensure_future(process.stdin.drain())
    await settle()
    trace("draining", draining.done())
    total = 0
    while total < 500_000:
        total += len(await process.stdout.read(100_000))
    await trace.wait("drained", draining)
    process.stdin.write(b"a long line without an end\n")
    await trace.wait("line", process.stdout.readline())
    process.stdin.close()
    await process.wait()


@scenario
async def debug_texts(trace: Trace) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    trace(await process.communicate())
    loop.set_debug(False)


@scenario
async def waited_for_by_many(trace: Trace) -> None:
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    waits = [asyncio.ensure_future(process.wait()) for _ in range(3)]
    await settle()
    waits[0].cancel()
    process.stdin.close()
    trace(await asyncio.gather(*waits, return_exceptions=True))
