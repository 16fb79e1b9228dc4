"""``clearway run``: the same as ``python``, but for the loop. Python is the oracle."""

from __future__ import annotations

import signal
import zipfile
from pathlib import Path

import pytest

from clearway.scheduler.availability import refusal

from .command import both, clearway

#: Prints everything about its surroundings that a program can see and may rely on.
SURROUNDINGS = """\
import os, sys
print(sys.argv, sys.path[0], len(sys.path))
print(__name__, __file__, __package__, type(__builtins__).__name__)
print(__spec__ and __spec__.name, type(__loader__).__name__)
print(sys.modules["__main__"].__dict__ is globals())
print(sorted(name for name in globals() if name.startswith("__")))
"""

#: Says which loop each of asyncio's ways of making one gives.
LOOPS = """\
import asyncio, warnings
warnings.simplefilter("error", DeprecationWarning)
async def main():
    loop = asyncio.get_running_loop()
    print(type(loop).__module__.partition(".")[0], loop.get_debug())
asyncio.run(main())
with asyncio.Runner() as runner:
    runner.run(main())
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""


def write(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("how", [("script.py",), ("-m", "script")])
def test_every_way_of_asyncio_makes_a_clearway_loop(tmp_path: Path, how: tuple[str, ...]) -> None:
    write(tmp_path, "script.py", LOOPS)
    done = clearway("run", *how, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "clearway False\n" * 3


def test_a_thread_gets_a_clearway_loop_too(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "script.py",
        "import asyncio, threading\n"
        "async def main(): print(type(asyncio.get_running_loop()).__module__)\n"
        "thread = threading.Thread(target=lambda: asyncio.run(main()))\n"
        "thread.start()\nthread.join()\n",
    )
    done = clearway("run", script)
    assert done.stdout.startswith("clearway."), done.stderr


THREADED = """\
import asyncio, clearway, threading
async def main():
    loop = asyncio.get_running_loop()
    print(threading.current_thread().name, loop.statistics().scheduler.mode)
asyncio.run(main())
for name in "AB":
    thread = threading.Thread(target=lambda: asyncio.run(main()), name=name)
    thread.start()
    thread.join()
asyncio.run(main())
"""


@pytest.mark.skipif(refusal("on") is not None, reason=str(refusal("on")))
@pytest.mark.parametrize("how", ["option", "environment"])
def test_preempt_on_does_not_stop_a_program_that_runs_loops_in_threads(
    tmp_path: Path, how: str
) -> None:
    script = write(tmp_path, "script.py", THREADED)
    if how == "option":
        done = clearway("run", "--preempt", "on", script)
    else:
        done = clearway("run", script, CLEARWAY_PREEMPT="on")
    assert done.stdout == "MainThread on\nA report\nB report\nMainThread on\n", done.stderr
    # Said once, with the reason, and not again for each loop.
    assert done.stderr.count("runs in mode 'report'") == 1
    assert "main thread only" in done.stderr


def test_a_loop_that_was_told_to_preempt_refuses_a_thread(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "script.py",
        "import asyncio, clearway, threading\n"
        "async def main(): print('ran')\n"
        "def run(): clearway.run(main(), preempt='on')\n"
        "thread = threading.Thread(target=run)\n"
        "thread.start()\nthread.join()\n",
    )
    done = clearway("run", script)
    assert done.stdout == ""
    assert "RuntimeError: preempt='on' is not possible here" in done.stderr


def test_a_loop_made_in_one_thread_takes_the_mode_of_the_thread_that_runs_it(
    tmp_path: Path,
) -> None:
    script = write(
        tmp_path,
        "script.py",
        "import asyncio, clearway, threading\n"
        "async def main(): print(loop.statistics().scheduler.mode)\n"
        "loop = clearway.new_event_loop()\n"
        "run = lambda: loop.run_until_complete(main())\n"
        "run()\n"
        "thread = threading.Thread(target=run)\n"
        "thread.start()\nthread.join()\n"
        "run()\nloop.close()\n",
    )
    done = clearway("run", script, CLEARWAY_PREEMPT="on")
    assert done.stdout == "on\nreport\non\n", done.stderr


def test_a_loop_that_the_program_names_is_left_to_it(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "script.py",
        "import asyncio\n"
        "async def main(): print(type(asyncio.get_running_loop()).__module__)\n"
        "with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:\n"
        "    runner.run(main())\n",
    )
    assert clearway("run", script).stdout.startswith("asyncio.")


def test_debug_reaches_every_loop(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", LOOPS)
    assert clearway("run", "--debug", script).stdout == "clearway True\n" * 3


PROGRAMS = [
    ["script.py"],
    ["./script.py", "one", "--two", "-m", "--engine", "nonsense"],
    ["script.py", "--", "--debug"],
    ["deep/script.py", "-x"],
    ["link.py"],
    ["directory", "one"],
    ["archive.zip", "--debug"],
    ["-", "one"],
]
MODULES = [
    ["-m", "script", "one", "--debug"],
    ["-mscript", "one"],
    ["-m", "package", "-m", "other"],
    ["-m", "package.module"],
]


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        *(([], arguments) for arguments in PROGRAMS + MODULES),
        # Under -P modules are not looked for in the current directory, where these lie.
        *((["-P"], arguments) for arguments in PROGRAMS),
    ],
    ids=" ".join,
)
def test_the_surroundings_are_those_of_python(
    tmp_path: Path, flags: list[str], arguments: list[str]
) -> None:
    for name in ("script.py", "deep/script.py", "directory/__main__.py"):
        write(tmp_path, name, SURROUNDINGS)
    for name in ("package/__init__.py", "package/__main__.py", "package/module.py"):
        write(tmp_path, name, SURROUNDINGS)
    (tmp_path / "link.py").symlink_to(tmp_path / "deep/script.py")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", SURROUNDINGS)
    ours, theirs = both(arguments, tmp_path, stdin=SURROUNDINGS, flags=flags)
    assert theirs.returncode == 0, theirs.stderr
    assert (ours.stdout, ours.stderr, ours.returncode) == (
        theirs.stdout,
        theirs.stderr,
        theirs.returncode,
    )


ENDINGS = {
    "returns": "print('done')",
    "exit code": "import sys; sys.exit(7)",
    "exit text": "import sys; sys.exit('no good')",
    "exit None": "import sys; sys.exit()",
    "exception": "def f():\n    raise ValueError('wrong')\nf()",
    "chained": "try:\n    1 / 0\nexcept ArithmeticError as e:\n    raise KeyError('k') from e",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "syntax": "def f(:\n",
    "odd": "class Odd(BaseException): pass\nraise Odd('odd')",
    "hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno)\n1 / 0",
    "interrupt": "import atexit\natexit.register(print, 'atexit')\nraise KeyboardInterrupt",
    "signal": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)",
    "atexit": "import atexit\nx = 5\natexit.register(lambda: print(x, __name__))",
    "thread": (
        "import threading\nx = 5\n"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print(x))).start()"
    ),
    "last": (
        "import atexit, sys\natexit.register(lambda: print(sys.last_type, sys.last_value, "
        "sys.last_traceback.tb_frame.f_code.co_name, hasattr(sys, 'last_exc')))\n1 / 0"
    ),
    "future": "from __future__ import annotations\ndef f(x: y): pass\nprint(f.__annotations__)",
    "no future": "def f(x: int): pass\nprint(f.__annotations__)",
    "pickle": "import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is C)",
    "spawn": (
        "import multiprocessing\ndef work(x): return x + 1\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(work, [1, 2]))"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("how", ["script", "module"])
def test_a_program_ends_as_under_python(tmp_path: Path, ending: str, how: str) -> None:
    write(tmp_path, "program.py", ENDINGS[ending])
    arguments = ["program.py"] if how == "script" else ["-m", "program"]
    ours, theirs = both(arguments, tmp_path)
    assert ours.returncode == theirs.returncode
    assert ours.stdout == theirs.stdout
    assert ours.stderr == theirs.stderr


def test_an_interrupt_kills_by_sigint(tmp_path: Path) -> None:
    """What a shell loop looks at to decide whether to go on."""
    script = write(tmp_path, "program.py", ENDINGS["signal"])
    assert clearway("run", script).returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no script or -m module given"),
        (["--debug"], "no script or -m module given"),
        (["--"], "no script or -m module given"),
        (["-m"], "a module's name is missing"),
        (["--engine", "kqueue", "x.py"], "invalid choice: 'kqueue'"),
        (["--engine"], "expected one argument"),
        (["--quantum", "soon", "x.py"], "'soon' is not a length of time"),
        (["--quantum=1h", "x.py"], "'1h' is not a length of time"),
        (["--quantum", "9s", "x.py"], "quantum must lie between"),
        (["--nonsense", "x.py"], "unrecognized arguments: --nonsense"),
        (["--eng", "epoll", "x.py"], "unrecognized arguments: --eng"),
    ],
)
def test_wrong_usage_is_said_and_exits_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = clearway("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_environment_is_said_before_the_program_runs(tmp_path: Path) -> None:
    script = write(tmp_path, "script.py", "print('ran')")
    done = clearway("run", script, CLEARWAY_ENGINE="kqueue")
    assert (done.returncode, done.stdout) == (2, "")
    assert "CLEARWAY_ENGINE must be one of" in done.stderr


def test_a_missing_script_is_said_and_exits_2(tmp_path: Path) -> None:
    done = clearway("run", "absent.py", cwd=tmp_path)
    assert done.returncode == 2
    assert f"can't open file '{tmp_path / 'absent.py'}'" in done.stderr


def test_a_missing_module_is_said_as_python_says_it(tmp_path: Path) -> None:
    ours, theirs = both(["-m", "absent_module"], tmp_path)
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)
