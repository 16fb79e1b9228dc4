"""Programs are started without waiting for them to run, and the rest is as ``subprocess.Popen`` does it.

A lease on the program's file (F_SETLEASE in fcntl(2)) holds back whoever executes it for as long as a test likes: it
stands for a slow disk. On asyncio the thread that holds the lease would stand still, for it waits for the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from ..support.loops import run

PIPE = asyncio.subprocess.PIPE


@pytest.fixture
def held_program(tmp_path):
    """The path of a copy of ``true``, a function that lets it run, and whether somebody has tried to run it."""
    path = tmp_path / "true"
    shutil.copy(shutil.which("true"), path)
    fd = os.open(path, os.O_RDONLY)
    tried = []
    before = signal.signal(signal.SIGIO, lambda *_: tried.append(True))
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as exc:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
        pytest.skip(f"no leases on this file system: {exc}")

    def release():
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    yield path, release, tried
    with contextlib.suppress(OSError):
        release()
    os.close(fd)
    signal.signal(signal.SIGIO, before)


async def until(condition):
    while not condition:
        await asyncio.sleep(0.001)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))


def test_the_loop_goes_on_while_a_program_is_loaded(clearway_factory, held_program):
    path, release, tried = held_program

    async def main():
        task = asyncio.create_task(asyncio.create_subprocess_exec(path))
        await until(tried)
        others = [await asyncio.create_subprocess_exec("true") for _ in range(3)]
        assert [await other.wait() for other in others] == [0, 0, 0]
        assert not task.done()
        release()
        assert await (await task).wait() == 0

    run(clearway_factory, main)


def test_cancelled_while_a_program_is_loaded(clearway_factory, held_program):
    path, _, tried = held_program

    async def main():
        before = children()
        task = asyncio.create_task(asyncio.create_subprocess_exec(path, stdin=PIPE, stdout=PIPE))
        await until(tried)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == before

    run(clearway_factory, main)


def test_a_loop_closed_while_a_program_is_loaded(clearway_factory, held_program):
    path, _, tried = held_program
    before = children()
    loop = clearway_factory()
    task = loop.create_task(asyncio.create_subprocess_exec(path))
    loop.run_until_complete(until(tried))
    loop.close()
    task._log_destroy_pending = False
    del task
    gc.collect()
    assert children() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_killed_before_its_program_runs(clearway_factory, held_program, number):
    """The parent's handlers are not the child's, although it shares the memory."""
    path, _, tried = held_program

    async def main():
        before = children()
        handled = []
        old = signal.signal(signal.SIGUSR1, lambda *_: handled.append(True))
        task = asyncio.create_task(asyncio.create_subprocess_exec(path))
        await until(tried)
        (pid,) = children() - before
        os.kill(pid, number)
        assert await (await task).wait() == -number
        signal.signal(signal.SIGUSR1, old)
        assert not handled

    run(clearway_factory, main)


def test_a_child_of_fork_leaves_a_launch_to_its_parent(clearway_factory, held_program):
    path, release, tried = held_program

    async def main():
        task = asyncio.create_task(asyncio.create_subprocess_exec(path))
        await until(tried)
        loop = asyncio.get_running_loop()
        pid = os.fork()
        if pid == 0:
            for other in asyncio.all_tasks(loop):
                other.get_coro().close() if other is task else None
            gc.collect()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        release()
        assert await (await task).wait() == 0

    run(clearway_factory, main)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, errno.ENOENT),
        (lambda path: path.write_text("echo hi\n"), errno.EACCES),
        (lambda path: (path.write_text("echo hi\n"), path.chmod(0o755)), errno.ENOEXEC),
        (lambda path: (path.write_text("#!/nonexistent\n"), path.chmod(0o755)), errno.ENOENT),
        (lambda path: path.mkdir(), errno.EACCES),
    ],
    ids=["absent", "not executable", "no program", "no interpreter", "directory"],
)
def test_what_cannot_be_run(factory, tmp_path, make, expected):
    path = tmp_path / "program"
    make(path)

    async def main():
        before = children()
        with pytest.raises(OSError) as caught:
            await asyncio.create_subprocess_exec(path, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        # By posix_spawn, from 3.13 on, asyncio names it by a string.
        assert (caught.value.errno, os.fspath(caught.value.filename)) == (expected, str(path))
        assert children() == before

    run(factory, main)


def test_a_directory_that_is_not_there(factory, tmp_path):
    async def main():
        with pytest.raises(FileNotFoundError) as caught:
            await asyncio.create_subprocess_exec("true", cwd=tmp_path / "absent", stdout=PIPE)
        assert caught.value.filename == tmp_path / "absent"

    run(factory, main)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["true", "a\0b"], {}),
        (["true\0"], {}),
        (["true"], {"cwd": "a\0b"}),
        (["true"], {"env": {"A": "a\0b"}}),
        (["true"], {"env": {"A=B": "c"}}),
        (["true"], {"pass_fds": (-1,)}),
    ],
    ids=["argument", "program", "directory", "value", "name", "descriptor"],
)
def test_what_is_refused_before_there_is_a_child(factory, args, options):
    async def main():
        with pytest.raises(ValueError):
            await asyncio.create_subprocess_exec(*args, stdin=PIPE, stdout=PIPE, **options)

    run(factory, main)


def test_no_descriptor_left_for_the_pipes(factory):
    async def main():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for spare in range(9):
            # Those in use are not the lowest ones: earlier tests have closed some.
            used = {int(name) for name in os.listdir("/proc/self/fd")}
            free = [fd for fd in range(max(used) + 10) if fd not in used]
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], hard))
            try:
                process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            except OSError as exc:
                assert exc.errno == errno.EMFILE
            else:
                assert await process.communicate(b"x") == (b"x", None)
                break
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        else:
            raise AssertionError("nine spare descriptors are not enough")

    run(factory, main)


def test_the_path_is_that_of_the_environment_given(factory, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "word").write_text("")  # found first, and no program
    program = tmp_path / "two" / "word"
    program.write_text('#!/bin/sh\necho "$0 $# $NAME"\n')
    program.chmod(0o755)
    path = f"{tmp_path / 'absent'}:{tmp_path / 'one'}:{tmp_path / 'two'}"

    async def main():
        process = await asyncio.create_subprocess_exec(
            "word", "a b", "", stdout=PIPE, env={"PATH": path, "NAME": "ü"}
        )
        out, _ = await process.communicate()
        assert out.decode() == f"{program} 2 ü\n"

    run(factory, main)


def test_what_is_there_and_no_program_is_told_before_what_is_not_there(factory, tmp_path):
    (tmp_path / "word").write_text("")

    async def main():
        path = f"{tmp_path}:{tmp_path / 'absent'}"
        with pytest.raises(PermissionError) as caught:
            await asyncio.create_subprocess_exec("word", env={"PATH": path})
        assert caught.value.filename == "word"

    run(factory, main)


def test_changes_of_the_environment_are_passed_on(factory, monkeypatch):
    monkeypatch.setenv("WORD", "said")

    async def main():
        process = await asyncio.create_subprocess_shell('echo "$WORD"', stdout=PIPE)
        assert await process.communicate() == (b"said\n", None)

    run(factory, main)


def test_descriptors(factory, tmp_path):
    """Those of ``pass_fds`` and 0 to 2 are the child's, and no others, unless it is to have them."""

    async def main():
        kept, other = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(other, True)
        show = "import os; print([n for n in range(256) if os.path.exists(f'/proc/self/fd/{n}')])"
        for options in ({"pass_fds": (kept,)}, {"close_fds": False}, {}):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-SEc", show, stdout=PIPE, **options
            )
            out, _ = await process.communicate()
            seen = json.loads(out)
            assert seen[:3] == [0, 1, 2]
            assert (kept in seen) == ("pass_fds" in options)
            assert (other in seen) == ("close_fds" in options)
            if "close_fds" not in options:
                assert seen[3:] == ([kept] if options else [])
        assert not os.get_inheritable(kept)
        os.close(kept)
        os.close(other)

    run(factory, main)


def in_other_process(factory, program):
    """What a program that runs on its own says; it is given LOOP, a function that makes a loop."""
    make = (
        "asyncio.SelectorEventLoop"
        if factory.name == "asyncio"
        else f"lambda: clearway.new_event_loop(engine={factory.name!r})"
    )
    imports = "import asyncio, clearway, os, signal, subprocess, sys\n"
    source = f"{imports}LOOP = {make}\n{textwrap.dedent(program)}"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_standard_streams_that_are_closed_or_swapped(factory, tmp_path):
    """The pipes' own descriptors then lie where those of the child go."""
    out = in_other_process(
        factory,
        f"""
        os.chdir({str(tmp_path)!r})
        result = os.dup(1)
        loop = LOOP()

        async def say(**streams):
            process = await asyncio.create_subprocess_shell(
                "cat; echo out; echo err >&2", **streams)
            return await process.communicate(b"in ")

        async def main():
            PIPE = asyncio.subprocess.PIPE
            said = []
            for closed in ([0], [1], [2], [0, 1], [1, 2], [0, 2], [0, 1, 2]):
                saved = [(fd, os.dup(fd)) for fd in range(3)]
                for fd in closed:
                    os.close(fd)
                pair = await say(stdin=PIPE, stdout=PIPE, stderr=PIPE)
                for fd, copy in saved:
                    os.dup2(copy, fd)
                    os.close(copy)
                said.append(pair)
            # 1 and 2 the other way round
            with open("out", "wb") as one, open("err", "wb") as two:
                saved = [(fd, os.dup(fd)) for fd in (1, 2)]
                os.dup2(one.fileno(), 1)
                os.dup2(two.fileno(), 2)
                process = await asyncio.create_subprocess_shell(
                    "echo out; echo err >&2", stdout=2, stderr=1)
                await process.wait()
                for fd, copy in saved:
                    os.dup2(copy, fd)
            said.append((open("err", "rb").read(), open("out", "rb").read()))
            return said

        os.write(result, repr(loop.run_until_complete(main())).encode())
        loop.close()
        """,
    )
    assert eval(out) == [(b"in out\n", b"err\n")] * 7 + [(b"out\n", b"err\n")]


def test_signals_that_the_program_starts_with(factory):
    """Handlers are reset, what is ignored stays so but for SIGPIPE, and the mask is the parent's."""
    out = in_other_process(
        factory,
        """
        loop = LOOP()
        for number in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)  # a shell has them ignored by what runs in the background
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])

        async def main():
            for restore in (True, False):
                process = await asyncio.create_subprocess_exec(
                    "cat", "/proc/self/status",
                    stdout=asyncio.subprocess.PIPE, restore_signals=restore)
                out, _ = await process.communicate()
                status = dict(line.split(":") for line in out.decode().splitlines())
                masks = [int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")]
                # Not the two that the C library keeps for itself.
                print(*(
                    [n for n in range(1, 65) if mask & (1 << (n - 1)) and n not in (32, 33)]
                    for mask in masks))

        loop.run_until_complete(main())
        loop.close()
        """,
    )
    hup, pipe, usr2 = signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR2
    xfsz = signal.SIGXFSZ
    assert out.splitlines() == [
        f"[{hup:d}] [{usr2:d}] []",
        f"[{hup:d}] [{usr2:d}, {pipe:d}, {xfsz:d}] []",
    ]


def test_umask_session_group_and_directory(factory, tmp_path):
    async def main():
        show = "umask; pwd; cut -d' ' -f5,6 /proc/self/stat; echo $$"
        for options in ({"start_new_session": True}, {"process_group": 0}, {}):
            process = await asyncio.create_subprocess_shell(
                show, stdout=PIPE, umask=0o027, cwd=tmp_path, **options
            )
            out, _ = await process.communicate()
            mask, where, group, session, pid = out.decode().split()
            assert (mask, where) == ("0027", str(tmp_path))
            assert (session == pid) == ("start_new_session" in options)
            assert (group == pid) == bool(options)

    run(factory, main)


def test_a_replaced_popen_is_what_starts_it(factory, monkeypatch):
    seen = []

    class Mine(subprocess.Popen):
        def __init__(self, *args, **options):
            seen.append(args)
            super().__init__(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", Mine)

    async def main():
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0

    run(factory, main)
    assert seen == [(("true",),)]


def test_the_audit_event(factory):
    out = in_other_process(
        factory,
        """
        loop = LOOP()
        seen = []
        sys.addaudithook(lambda name, args: name == "subprocess.Popen" and seen.append(args))

        async def main():
            await (await asyncio.create_subprocess_exec("true", "x", cwd="/")).wait()

        loop.run_until_complete(main())
        loop.close()
        print(seen)
        """,
    )
    assert eval(out) == [("true", ["true", "x"], "/", None)]


def test_what_only_the_standard_library_can_do(factory):
    async def main():
        process = await asyncio.create_subprocess_exec("id", "-g", stdout=PIPE, group=os.getgid())
        assert await process.communicate() == (b"%d\n" % os.getgid(), None)

    run(factory, main)
