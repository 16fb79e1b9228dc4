"""The ``clearway`` command.

Each command is a module with ``main(argv) -> int`` that builds its own parser. The table below is
all this file knows of them, and a module is imported only when its command is called:
``clearway run`` must not pay for, or fail on, what ``clearway demo`` needs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from clearway import __version__

#: command -> (module, one line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("clearway.cli.run", "run a Python program with clearway as asyncio's default loop"),
    "serve": ("clearway.cli.serve", "serve the files of a directory by HTTP"),
    "copy": ("clearway.cli.copying", "copy files and directories, with a progress bar"),
    "doctor": ("clearway.cli.doctor", "say which engine runs here, why, and what will hurt"),
    "demo": ("clearway.cli.demo", "load an HTTP service on asyncio, uvloop and clearway; compare"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the arguments after the program's name; those of the process by default.
    :returns: the exit code: 0 for success, 1 for a failure the command reports, 2 for wrong usage.
    :raises SystemExit: on wrong usage, ``--help`` and ``--version``, as argparse does; and whatever
        the program given to ``clearway run`` raises of it.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[arguments[0]][0])
        try:
            code: int = module.main(arguments[1:])
        except BrokenPipeError:
            # `clearway doctor | head`: nobody reads on. What is still buffered goes nowhere, so
            # that the interpreter does not fail again when it flushes at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return code
    # No command, an unknown one, or --help: the parser knows what to say, and exits.
    _parser().parse_args(arguments)
    return 2


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<8} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="clearway",
        description="An asyncio event loop and runtime in which nothing can stop the traffic.",
        epilog=f"commands:\n{lines}\n\n`clearway COMMAND --help` describes one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"clearway {__version__}")
    parser.add_argument(
        "command",
        choices=sorted(COMMANDS),
        metavar="COMMAND",
        help="what to do, from the list below",
    )
    return parser
