"""The stand-in for ``launch.pyx`` when nothing is compiled: there is no way but the standard library's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

CHDIR = 2
EXEC = 3


class Launch:
    """A child that has been started and may not have run its program yet.

    :ivar pid: its process id.
    :ivar fd: readable when it runs its program or has ended; then call ``finish``. -1 after that.
    """

    pid: int
    fd: int

    def finish(self) -> tuple[int, int]:
        """(error number, stage) of what failed, (0, 0) when the program runs."""
        raise NotImplementedError("there is none without the compiled module")


def launch(
    args: Sequence[Any],
    paths: Iterable[Any],
    close_others: bool,
    keep: Iterable[int],
    cwd: Any,
    env: list[bytes] | None,
    stdin: int,
    stdout: int,
    stderr: int,
    restore_signals: bool,
    new_session: bool,
    group: int,
    mask: int,
) -> Launch | None:
    """Start a child: its ``Launch``, None where only the standard library can."""
    return None
