"""What was moved and what was copied: a figure per path, not a claim.

*Moved* are bytes that went from one end of a path to the other; *copied* are bytes that user-space code copied
from one place in memory to another on the way. The kernel's own copies (socket buffer to process and back) are
not in it. Accounts are chained, so that a stream's traffic is counted once for itself and once for its loop.
"""

from __future__ import annotations

import weakref
from typing import Any


class Account:
    """Bytes moved and copied on one path.

    :param path: its name, e.g. "receive".
    :param parent: the account that also gets what is entered here.
    :ivar moved: bytes. :ivar copied: bytes copied in user space.
    """

    def __init__(self, path: str, parent: Account | None = None) -> None:
        self.path = path
        self.parent = parent
        self.moved = 0
        self.copied = 0

    def __repr__(self) -> str:
        return f"<Account {self.path} moved={self.moved} copied={self.copied}>"

    def add(self, moved: int, copied: int) -> None:
        """Enter ``moved`` and ``copied`` bytes, here and in every account above."""
        account: Account | None = self
        while account is not None:
            account.moved += moved
            account.copied += copied
            account = account.parent


class Ledger:
    """The accounts of a loop, by path.

    :ivar meters: things with counters of their own, whose ``settle_accounts()`` enters what is new in them.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.meters: weakref.WeakSet[Any] = weakref.WeakSet()

    def account(self, path: str) -> Account:
        """The account of ``path``; opened when it is first asked for."""
        account = self.accounts.get(path)
        if account is None:
            account = self.accounts[path] = Account(path)
        return account

    def settle(self) -> None:
        """Have everything entered that is counted elsewhere."""
        for meter in list(self.meters):
            meter.settle_accounts()
