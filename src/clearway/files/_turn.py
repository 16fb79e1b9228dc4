"""``Turn``: one task at a time, in the order in which they came, and a cheap look at whether anybody is there."""

from __future__ import annotations

import asyncio


class Turn:
    """Who may move a file's position.

    :ivar users: tasks that have the turn or wait for it. At 0 an operation that does not wait needs no turn.
    """

    def __init__(self) -> None:
        self.users = 0
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        self.users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self.users -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self.users -= 1
        self._lock.release()
