"""Run the command, and Python itself beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: Where the package that is being tested lies, for children that start in another directory.
SOURCE = str(Path(__file__).resolve().parents[2] / "src")


def python(
    *arguments: str, cwd: Path | None = None, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python arguments``, in an environment without clearway's own variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLEARWAY_")}
    # uncoloured tracebacks on 3.13 and later
    clean |= {"PYTHONPATH": SOURCE, "PYTHON_COLORS": "0", "NO_COLOR": "1", **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        # Whoever runs the tests may have had it ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # type: ignore[arg-type]
    )


def clearway(
    *arguments: str, cwd: Path | None = None, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python -m clearway arguments``."""
    return python("-m", "clearway", *arguments, cwd=cwd, stdin=stdin, **environment)


def both(
    arguments: Sequence[str], cwd: Path, stdin: str = "", flags: Sequence[str] = ()
) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """``clearway run arguments`` and ``python arguments``: the second is what is right.

    :param flags: options of the interpreter, for both.
    """
    ours = python(*flags, "-m", "clearway", "run", *arguments, cwd=cwd, stdin=stdin)
    theirs = python(*flags, *arguments, cwd=cwd, stdin=stdin)
    return ours, theirs
