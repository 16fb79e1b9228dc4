"""The progress bar, by rich."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from clearway.cli.copying.work import Account

#: Seconds between two drawings.
REDRAW_S = 0.1


class Bar:
    """A bar on standard error; used in ``with``, which gives what is to be called with the account.

    It draws when it is called and has no thread of its own.

    :param size: bytes in all.
    """

    def __init__(self, size: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task = self._progress.add_task("copying", total=size)
        self._drawn = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.refresh()
        self._progress.stop()

    def __call__(self, account: Account) -> None:
        now = time.monotonic()
        names = len(account.moving)
        self._progress.update(
            self._task,
            completed=account.moved,
            description=f"{account.files:,} files" + (f" (+{names})" if names else ""),
        )
        if now - self._drawn >= REDRAW_S:
            self._drawn = now
            self._progress.refresh()
