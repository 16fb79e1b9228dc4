"""``clearway run``: like ``python``, with clearway as asyncio's default loop.

The program must not be able to tell the difference: ``sys.argv``, ``sys.path[0]``, the ``__main__``
module, exit codes, tracebacks and death by SIGINT are those of ``python script.py`` and
``python -m module``.

``runpy.run_path`` is not used for scripts: it takes its ``__main__`` away again when the script's
body ends, while threads, ``atexit`` functions and ``multiprocessing`` still need it. What is used,
for modules, directories and zip files, is what the interpreter itself calls for ``-m``.
"""

from __future__ import annotations

import argparse
import builtins
import importlib.machinery
import io
import os
import runpy
import sys
import types
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from clearway.cli import default_loop
from clearway.cli.options import add_loop_options, loop_options

_USAGE = "clearway run [options] (script.py | -m module) [argument ...]"

#: Python's own exit codes: wrong usage or no such script, and an uncaught exception.
_EXIT_USAGE = 2
_EXIT_EXCEPTION = 1


@dataclass(frozen=True)
class Target:
    """What is to be run: a module's name or a path, and the program's own arguments."""

    name: str
    is_module: bool
    arguments: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """Run the command; see :func:`clearway.cli.main`.

    :raises SystemExit, KeyboardInterrupt: when the program ended by them.
    """
    parser = _parser()
    own, target = _split(parser, list(argv))
    options = loop_options(parser, parser.parse_args(own))
    if target is None:
        parser.error("no script or -m module given")
    default_loop.install(options)
    return execute(target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clearway run",
        usage=_USAGE,
        description="Run a program with asyncio's default loop replaced: asyncio.run, "
        "asyncio.Runner and asyncio.new_event_loop in the program all make clearway loops.",
        epilog="Everything after the script or the module's name belongs to the program.",
        allow_abbrev=False,
    )
    add_loop_options(parser)
    parser.add_argument("-m", metavar="module", help="run a module, as python -m does")
    return parser


#: Own options that are followed by a value; they end in it or carry it after ``=``.
_VALUED = frozenset({"--engine", "--preempt", "--quantum", "--policy", "--report-after"})


def _split(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[list[str], Target | None]:
    """Divide the command line into our options and the program.

    argparse cannot: it looks for our options among the program's arguments, and drops a ``--`` that
    the program should have seen.
    """
    position = 0
    while position < len(argv):
        word = argv[position]
        if word == "-m":
            if position + 1 == len(argv):
                parser.error("argument -m: a module's name is missing")
            return argv[:position], Target(argv[position + 1], True, tuple(argv[position + 2 :]))
        if word.startswith("-m") and len(word) > 2:
            return argv[:position], Target(word[2:], True, tuple(argv[position + 1 :]))
        if word == "--":
            rest = argv[position + 1 :]
            return argv[:position], Target(rest[0], False, tuple(rest[1:])) if rest else None
        if not word.startswith("-") or word == "-":
            return argv[:position], Target(word, False, tuple(argv[position + 1 :]))
        position += 2 if word in _VALUED else 1
    return argv, None


def execute(target: Target) -> int:
    """Run the program in a fresh ``__main__`` and report what it left uncaught.

    :returns: 0, 1 after an uncaught exception (its traceback printed by ``sys.excepthook``), or 2
        when there is no such script.
    :raises SystemExit: the program's own.
    :raises KeyboardInterrupt: an uncaught one, so that the process dies of SIGINT as Python's
        would.
    """
    namespace = _fresh_main()
    try:
        if target.is_module:
            _set_first_path(os.getcwd())
            # argv[0] is "-m" while the module is looked for, and its path afterwards.
            sys.argv = ["-m", *target.arguments]
            _run_as_main(target.name, alter_argv=True)
        elif target.name != "-" and _is_container(target.name):
            container = os.path.join(os.getcwd(), target.name)
            if sys.flags.safe_path:
                sys.path.insert(0, container)  # -P does not keep Python from doing this
            else:
                sys.path[0] = container
            sys.argv = [target.name, *target.arguments]
            _run_as_main("__main__", alter_argv=False)
        else:
            source = _read_script(target.name)
            if source is None:
                return _EXIT_USAGE
            sys.argv = [target.name, *target.arguments]
            _run_script(target.name, source, namespace)
    except SystemExit:
        raise
    except BaseException as exception:
        return _report(exception)
    return 0


def _fresh_main() -> dict[str, Any]:
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    namespace["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        # From 3.14 on annotations are computed on demand and a module has no such name at first.
        namespace["__annotations__"] = {}
    sys.modules["__main__"] = module
    return namespace


def _set_first_path(entry: str) -> None:
    """Put ``entry`` where Python puts the program's directory; not at all under ``python -P``."""
    if not sys.flags.safe_path:
        # Whichever way this command was started, entry 0 is the one Python made for *it*.
        sys.path[0] = entry


def _is_container(path: str) -> bool:
    return os.path.isdir(path) or zipfile.is_zipfile(path)


def _run_as_main(name: str, *, alter_argv: bool) -> None:
    # Private, but its name is compiled into the interpreter: `python -m` calls it.
    cast(Any, runpy)._run_module_as_main(name, alter_argv=alter_argv)


def _read_script(path: str) -> bytes | None:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        # open_code lets audit hooks see that this file is about to be executed.
        with io.open_code(os.path.join(os.getcwd(), path)) as file:
            return file.read()
    except OSError as error:
        print(
            f"clearway run: can't open file {os.path.join(os.getcwd(), path)!r}: "
            f"[Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        return None


def _run_script(path: str, source: bytes, namespace: dict[str, Any]) -> None:
    if path == "-":
        _set_first_path("")
        filename = "<stdin>"
        namespace["__loader__"] = importlib.machinery.BuiltinImporter
    else:
        _set_first_path(os.path.dirname(os.path.realpath(path)))
        # Python joins the two and leaves any "./" in, and so must tracebacks.
        filename = os.path.join(os.getcwd(), path)
        namespace["__loader__"] = importlib.machinery.SourceFileLoader("__main__", filename)
    namespace["__file__"] = filename
    namespace["__cached__"] = None
    # dont_inherit: this module's __future__ imports are not the script's.
    exec(compile(source, filename, "exec", dont_inherit=True), namespace)


def _report(exception: BaseException) -> int:
    """Do what the interpreter does with an uncaught exception, without our own frames."""
    trace = exception.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    exception = exception.with_traceback(trace)
    sys.last_type, sys.last_value, sys.last_traceback = type(exception), exception, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = exception
    hook = sys.excepthook
    hook(type(exception), exception, trace)
    if isinstance(exception, KeyboardInterrupt):
        # Printed already; raised once more because the interpreter, after a full shutdown, ends the
        # process by SIGINT only when the exception reaches it.
        sys.excepthook = lambda *_: None
        raise exception
    return _EXIT_EXCEPTION
