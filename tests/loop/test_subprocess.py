"""Subprocesses: all ways of joining them, their ends told once, and no zombie left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys

import pytest

from ..support.loops import in_thread, run
from ..support.net import pattern, settle

PIPE = asyncio.subprocess.PIPE


def children():
    """Direct children of this process, zombies among them."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))


@pytest.fixture(autouse=True)
def no_child_left():
    before = children()
    yield
    assert children() <= before, "children left, running or zombies"


def test_output_and_status(factory):
    async def main():
        process = await asyncio.create_subprocess_shell(
            "cat; echo complaint >&2; exit 7", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        data = pattern(1_000_000)
        assert await process.communicate(data) == (data, b"complaint\n")
        assert process.returncode == 7
        assert await process.wait() == 7

    run(factory, main)


def test_joined_and_discarded_output(factory):
    async def main():
        process = await asyncio.create_subprocess_shell(
            "echo one; echo two >&2", stdout=PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert await process.communicate() == (b"one\ntwo\n", None)
        process = await asyncio.create_subprocess_shell(
            "echo one; echo two >&2", stdout=asyncio.subprocess.DEVNULL, stderr=PIPE
        )
        assert await process.communicate() == (None, b"two\n")
        read_fd, write_fd = os.pipe()
        process = await asyncio.create_subprocess_exec("echo", "file", stdout=write_fd)
        os.close(write_fd)
        assert await process.wait() == 0
        assert os.read(read_fd, 100) == b"file\n"
        os.close(read_fd)

    run(factory, main)


@pytest.mark.parametrize("how", ["kill", "terminate", "send_signal"])
def test_signals(factory, how):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        numbers = {
            "kill": signal.SIGKILL,
            "terminate": signal.SIGTERM,
            "send_signal": signal.SIGUSR1,
        }
        if how == "send_signal":
            process.send_signal(signal.SIGUSR1)
        else:
            getattr(process, how)()
        assert await process.wait() == -numbers[how]
        with pytest.raises(ProcessLookupError):
            process.kill()

    run(factory, main)


def test_preexec_fn_session_environment_and_directory(factory, tmp_path):
    async def main():
        process = await asyncio.create_subprocess_shell(
            'umask; pwd; echo "$WORD"; ps -o sid= -p $$ | tr -d " "; echo $$',
            stdout=PIPE,
            preexec_fn=lambda: os.umask(0o027) and None,
            start_new_session=True,
            cwd=tmp_path,
            env={**os.environ, "WORD": "said"},
        )
        out, _ = await process.communicate()
        mask, where, word, session, pid = out.decode().split()
        assert (mask, where, word) == ("0027", str(tmp_path), "said")
        assert session == pid == str(process.pid)

    run(factory, main)


def test_a_process_group_dies_together(factory):
    async def main():
        process = await asyncio.create_subprocess_shell(
            "sleep 1000 & sleep 1000 & echo ready; wait", stdout=PIPE, process_group=0
        )
        assert await process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGKILL)
        # The end of file comes when the last of the three has let go of the pipe.
        assert await process.stdout.read() == b""
        assert await process.wait() == -signal.SIGKILL

    run(factory, main)


def test_a_program_that_is_not_there(factory):
    async def main():
        before = children()
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/nonexistent/program", stdout=PIPE, stdin=PIPE)
        assert children() == before

    run(factory, main)


def test_the_order_a_protocol_hears_of_things(factory):
    class Notes(asyncio.SubprocessProtocol):
        def __init__(self):
            self.events = []
            self.over = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.events.append("made")

        def pipe_data_received(self, fd, data):
            self.events.append((fd, data))

        def pipe_connection_lost(self, fd, exc):
            self.events.append(("lost", fd))

        def process_exited(self):
            self.events.append("exited")

        def connection_lost(self, exc):
            self.events.append("lost")
            self.over.set_result(exc)

    async def main():
        loop = asyncio.get_running_loop()
        transport, notes = await loop.subprocess_exec(
            Notes, "echo", "word", stdin=None, stderr=None
        )
        assert transport.get_pid() > 0
        assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
        assert await notes.over is None
        assert notes.events[0] == "made" and notes.events[-1] == "lost"
        assert sorted(map(str, notes.events[1:-1])) == sorted(
            map(str, ["exited", (1, b"word\n"), ("lost", 1)])
        )
        assert notes.events.index((1, b"word\n")) < notes.events.index(("lost", 1))
        assert transport.get_returncode() == 0
        transport.close()

    run(factory, main)


def test_somebody_else_s_children_and_sigchld_handlers_are_left_alone(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        heard = []
        loop.add_signal_handler(signal.SIGCHLD, heard.append, 1)
        before = signal.getsignal(signal.SIGCHLD)
        other = subprocess.Popen(["true"])
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert signal.getsignal(signal.SIGCHLD) is before
        assert await in_thread(other.wait) == 0
        while not heard:
            await settle(1)
        loop.remove_signal_handler(signal.SIGCHLD)

    run(clearway_factory, main)


def test_no_thread_and_no_handler(clearway_factory):
    import threading

    async def main():
        threads = threading.active_count()
        handler = signal.getsignal(signal.SIGCHLD)
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        assert threading.active_count() == threads
        assert signal.getsignal(signal.SIGCHLD) is handler
        process.stdin.close()
        assert await process.wait() == 0

    run(clearway_factory, main)


def test_without_pidfd_a_thread_waits(clearway_factory, monkeypatch):
    def refused(pid, flags=0):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refused)

    async def main():
        process = await asyncio.create_subprocess_shell("cat; exit 5", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(b"x") == (b"x", None)
        assert process.returncode == 5

    run(clearway_factory, main)


def test_a_status_that_somebody_has_taken(clearway_factory, caplog):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)  # before the loop can
        assert await process.wait() == 255

    run(clearway_factory, main)
    assert "already read" in caplog.text


def test_poll_on_the_popen_object_does_no_harm(clearway_factory):
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "sh", "-c", "exit 3", stdin=None, stdout=None, stderr=None
        )
        popen = transport.get_extra_info("subprocess")
        await in_thread(popen.wait)
        assert popen.returncode == 3
        assert await asyncio.wait_for(transport._wait(), 5) == 3
        transport.close()

    run(clearway_factory, main)


def test_closing_kills(factory):
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "sleep", "1000")
        transport.close()
        assert await transport._wait() == -signal.SIGKILL

    run(factory, main)


def test_cancelled_while_starting(factory):
    async def main():
        task = asyncio.create_task(asyncio.create_subprocess_exec("sleep", "1000", stdout=PIPE))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(factory, main)


@pytest.mark.limit(60)
def test_many_short_children(clearway_factory):
    """Some at a time, as a job queue does; none is lost and none stays a zombie (the fixture looks)."""

    async def main():
        async def one(number):
            process = await asyncio.create_subprocess_exec("true")
            return await process.wait()

        for _ in range(10):
            assert await asyncio.gather(*map(one, range(40))) == [0] * 40

    run(clearway_factory, main)


def test_a_loop_in_another_thread(clearway_factory):
    """No child watcher to attach, so any thread's loop may start processes."""

    def other():
        loop = clearway_factory(preempt="report")

        async def main():
            process = await asyncio.create_subprocess_exec("echo", "hi", stdout=PIPE)
            return await process.communicate()

        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(other).result() == (b"hi\n", None)


def test_a_loop_that_is_closed_first(clearway_factory):
    """The process is killed with its transport, and nothing is said but the usual warning."""
    loop = clearway_factory()

    async def main():
        return await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)

    process = loop.run_until_complete(main())
    pid = process.pid
    loop.close()
    with pytest.warns(ResourceWarning):
        del process
        gc.collect()
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # subprocess's own clean-up was first
