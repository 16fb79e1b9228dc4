"""Small programs run as children of a test."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# A child that hangs is killed and its output shown; a child that imports everything takes 0.5 s.
CHILD_LIMIT_S = 60.0

MAKE_LOOP = """
import asyncio, sys
def make_loop(**options):
    if {name!r} == "asyncio":
        return asyncio.SelectorEventLoop()
    import clearway
    return clearway.new_event_loop(engine={name!r}, **options)
"""


def environment(**changes: str) -> dict[str, str]:
    """Our environment without settings that would change what a child's loop is."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CLEARWAY_")}
    # The child must import the clearway that this process would import, installed or not.
    env["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    env.update(changes)
    return env


def python(
    *arguments: str, code: str | None = None, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments` (or `code`); returns what it printed and its exit code."""
    command = [sys.executable, *arguments]
    if code is not None:
        command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(
        command,
        env=environment() if env is None else env,
        capture_output=True,
        text=True,
        timeout=CHILD_LIMIT_S,
        check=False,
        **options,
    )


def loop_program(
    name: str, code: str, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a child in which `make_loop()` makes a loop of the kind `name`."""
    whole = MAKE_LOOP.format(name=name) + textwrap.dedent(code)
    return python(*arguments, code=whole, **options)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What the child printed; fails with everything it said when its exit code is not 0."""
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
