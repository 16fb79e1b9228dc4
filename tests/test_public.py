"""The public face: run, new_event_loop, options, refusals, and `python -m clearway run`."""

from __future__ import annotations

import asyncio
import errno
import os
import sys

import pytest

import clearway

from .support.loops import finish
from .support.programs import environment, loop_program, python, succeeded

# A filter for this process and its children that answers io_uring_setup with an errno, as the
# seccomp profiles of Docker and others do (there: EPERM). 425 is its number on every architecture.
REFUSE_URING = """
import ctypes, struct, sys
def refuse(code):
    # BPF: load the system call's number; if it is 425 return ERRNO|code, else ALLOW.
    program = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, 425)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | code)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((38, 1, 0, 0, 0), (22, 2, head, 0, 0)):  # NO_NEW_PRIVS; SECCOMP FILTER
        if libc.prctl(*arguments):
            print("prctl:", ctypes.get_errno())
            sys.exit(77)
refuse(int(sys.argv[1]))
"""


async def answer():
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def engine_of(loop):
    return loop._engine.name


def test_run_gives_the_result():
    assert clearway.run(answer()) == "clearway"
    assert clearway.run(answer(), engine="epoll", debug=True) == "clearway"


def test_run_passes_exceptions_on_and_leaves_nothing_running():
    async def fail():
        asyncio.create_task(asyncio.sleep(3600))
        raise LookupError("from main")

    with pytest.raises(LookupError, match="from main"):
        clearway.run(fail())


def test_a_loop_is_an_asyncio_loop():
    loop = clearway.new_event_loop()
    assert isinstance(loop, clearway.EventLoop)
    assert isinstance(loop, asyncio.AbstractEventLoop)
    finish(loop)


def test_the_runner_takes_our_factory():
    with asyncio.Runner(loop_factory=clearway.new_event_loop) as runner:
        assert runner.run(answer()) == "clearway"


def test_selector_is_asyncio_s_own_behind_our_face():
    loop = clearway.new_event_loop(engine="selector")
    try:
        loop.run_until_complete(asyncio.sleep(0))
        assert isinstance(loop, asyncio.SelectorEventLoop)
    finally:
        loop.close()


@pytest.mark.parametrize(
    "option, value",
    [
        ("engine", "kqueue"),
        ("engine", ""),
        ("preempt", "sometimes"),
        ("quantum", 0),
        ("quantum", -0.1),
        ("quantum", float("nan")),
        ("quantum", 3600),
        ("policy", "lottery"),
    ],
)
def test_a_wrong_value_of_an_option(option, value):
    with pytest.raises(ValueError) as caught:
        clearway.new_event_loop(**{option: value})
    text = str(caught.value)
    assert option in text, "the message names the option"
    if isinstance(value, str):
        expected = {"engine": "epoll", "preempt": "report", "policy": "fair"}[option]
        assert expected in text, "the message says what is possible"


@pytest.mark.parametrize(
    "option, value", [("engine", 5), ("quantum", "fast"), ("preempt", b"on"), ("quantum", [1])]
)
def test_a_wrong_type_of_an_option(option, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        clearway.new_event_loop(**{option: value})
    assert option in str(caught.value)


def test_an_unknown_option():
    with pytest.raises(TypeError) as caught:
        clearway.new_event_loop(engin="epoll")
    assert "engin" in str(caught.value)
    coro = answer()
    with pytest.raises(TypeError):
        clearway.run(coro, engin="epoll")
    coro.close()


@pytest.mark.parametrize("wrong", [None, 5, answer, [1], "main()"])
def test_run_wants_a_coroutine(wrong):
    # asyncio raises ValueError up to 3.13 and TypeError from 3.14 on.
    with pytest.raises((ValueError, TypeError), match="coroutine"):
        clearway.run(wrong)


def test_run_inside_a_running_loop():
    async def main():
        coro = answer()
        with pytest.raises(RuntimeError, match="running"):
            clearway.run(coro)
        coro.close()

    clearway.run(main())


@pytest.mark.parametrize("engine", ["epoll", "uring", "selector", "auto"])
def test_the_environment_chooses_the_engine(engine):
    code = """
    import clearway
    loop = clearway.new_event_loop()
    print(getattr(getattr(loop, "_engine", None), "name", "selector"))
    loop.close()
    """
    done = python(code=code, env=environment(CLEARWAY_ENGINE=engine))
    if engine == "uring" and done.returncode:
        assert "uring" in done.stderr
        pytest.skip("this machine refuses io_uring")
    assert succeeded(done).strip() in ([engine] if engine != "auto" else ["uring", "epoll"])


def test_an_argument_beats_the_environment():
    code = "import clearway; loop = clearway.new_event_loop(engine='epoll')\n"
    code += "print(loop._engine.name); loop.close()"
    done = python(code=code, env=environment(CLEARWAY_ENGINE="selector"))
    assert succeeded(done).strip() == "epoll"


def test_a_wrong_environment_is_named():
    code = "import clearway; clearway.new_event_loop()"
    done = python(code=code, env=environment(CLEARWAY_ENGINE="fast"))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ValueError" in last and "CLEARWAY_ENGINE" in last and "epoll" in last


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.ENOMEM, errno.EACCES])
def test_a_refused_ring(code):
    """auto falls back and works; uring by name is an error that says why and what to do."""
    body = """
    import asyncio, errno, clearway
    loop = clearway.new_event_loop()
    assert loop._engine.name == "epoll", loop._engine.name
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    try:
        clearway.new_event_loop(engine="uring")
    except (OSError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print("no error")
    """
    done = python(str(int(code)), code=REFUSE_URING + "\n" + __import__("textwrap").dedent(body))
    if done.returncode == 77:
        pytest.skip(f"no seccomp here: {done.stdout}")
    said = succeeded(done)
    assert "no error" not in said
    assert errno.errorcode[code] in said or os.strerror(code) in said
    assert "epoll" in said or "auto" in said, "the message says what to do"


# -- python -m clearway run ------------------------------------------------------------------------

ALL_WAYS = """
import asyncio, sys

async def name():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

if __name__ == "__main__":
    names = [asyncio.run(name())]
    with asyncio.Runner() as runner:
        names.append(runner.run(name()))
    loop = asyncio.new_event_loop()
    names.append(loop.run_until_complete(name()))
    loop.close()
    print(*names, *sys.argv[1:])
"""


@pytest.fixture
def script(tmp_path):
    def write(text, name="script.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_run_command_replaces_the_loop_everywhere(script):
    path = script(ALL_WAYS)
    done = python("-m", "clearway", "run", path, "--engine", "of", "my own")
    # What follows the script belongs to the script.
    assert succeeded(done).split() == ["clearway"] * 3 + ["--engine", "of", "my", "own"]


def test_run_command_of_a_module(script, tmp_path):
    script(ALL_WAYS, "modname.py")
    done = python("-m", "clearway", "run", "-m", "modname", "-x", cwd=tmp_path)
    assert succeeded(done).split() == ["clearway"] * 3 + ["-x"]
    (tmp_path / "package").mkdir()
    script(ALL_WAYS, "package/__main__.py")
    done = python("-m", "clearway", "run", "-m", "package", cwd=tmp_path)
    assert succeeded(done).split() == ["clearway"] * 3


def test_run_command_is_like_python_itself(script, tmp_path):
    """The same program sees the same world under both."""
    script("value = 5", "neighbour.py")
    path = script(
        "import sys, os, __main__, neighbour\n"
        "print(sys.argv, __name__, __file__, __main__.here if hasattr(__main__, 'here') else '')\n"
        "here = 1\n"
        "print(__main__.here, sys.path[0], neighbour.value, __spec__, __package__)\n"
        "import pickle\n"
        "class Thing: pass\n"
        "print(pickle.loads(pickle.dumps(Thing)) is Thing)\n"
    )
    plain = succeeded(python(path, "a", "b"))
    ours = succeeded(python("-m", "clearway", "run", path, "a", "b"))
    assert ours == plain


@pytest.mark.parametrize(
    "body, code",
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('words')", 1),
        ("1 / 0", 1),
        ("import sys; sys.exit()", 0),
        ("import asyncio\nasync def f(): raise SystemExit(9)\nasyncio.run(f())", 9),
        ("def f(:", 1),
    ],
)
def test_run_command_exit_codes(script, body, code):
    path = script(body)
    plain = python(path)
    ours = python("-m", "clearway", "run", path)
    assert ours.returncode == plain.returncode == code
    assert ours.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_run_command_traceback_starts_in_the_program(script):
    path = script("def deep():\n    1 / 0\n\ndeep()\n")
    done = python("-m", "clearway", "run", path)
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("Traceback")
    assert path in lines[1], f"machinery in the traceback:\n{done.stderr}"


def test_run_command_passes_options(script):
    path = script(
        "import asyncio\n"
        "async def f():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    print(loop._engine.name, loop.get_debug())\n"
        "asyncio.run(f())\n"
    )
    done = python("-m", "clearway", "run", "--engine", "epoll", "--debug", path)
    assert succeeded(done).split() == ["epoll", "True"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--engine", "steam", "script.py"],
        ["--no-such-option", "script.py"],
        ["-m"],
        ["/nonexistent/script.py"],
        ["-m", "no_such_module_anywhere"],
    ],
)
def test_run_command_wrong_use(arguments):
    done = python("-m", "clearway", "run", *arguments)
    assert done.returncode in (1, 2)
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr, "a usage error is a sentence, not a traceback"


def test_run_command_keyboard_interrupt(script):
    """Ctrl-C ends it as it ends python: by the signal, so that a shell loop stops too."""
    import signal

    path = script(
        "import asyncio, os, signal\n"
        "async def f():\n"
        "    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(f())\n"
    )
    plain = python(path)
    ours = python("-m", "clearway", "run", path)
    assert ours.returncode == plain.returncode == -signal.SIGINT
    assert ours.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_the_loop_kinds_of_a_child(factory):
    """The children of other tests really use the loop they name."""
    done = loop_program(factory.name, "print(type(make_loop()).__module__.partition('.')[0])")
    expected = "clearway" if factory.is_clearway else "asyncio"
    assert succeeded(done).strip() == expected


def test_importing_is_quiet_and_light():
    done = python("-W", "error", "-c", "import sys, clearway; print('ok', 'ssl' in sys.modules)")
    assert succeeded(done).startswith("ok")
    assert done.stderr == ""
    done = python(
        code="""
        import sys, clearway
        heavy = {"rich", "uvicorn", "numpy", "click", "clearway.cli", "clearway.testing"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert succeeded(done).strip() == "[]"
    assert sys.version_info >= (3, 11)
