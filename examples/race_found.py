"""A lost update, found in seconds: two tasks add to one balance without a lock.

Under asyncio's rules this program is correct, for there is no ``await`` between reading and writing. With
``preempt="on"`` it is not, and the shuffler shows at which instruction. ``--locked`` runs the repaired one.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import clearway
from clearway.testing import shuffle


class Account:
    def __init__(self) -> None:
        self.balance = 0

    def deposit(self, amount: int) -> None:
        balance = self.balance
        self.balance = self.with_interest(balance) + amount

    @staticmethod
    def with_interest(balance: int) -> int:
        return balance  # none is paid at present


class SafeAccount(Account):
    def __init__(self) -> None:
        super().__init__()
        self._lock = clearway.Lock()

    def deposit(self, amount: int) -> None:
        with self._lock:
            super().deposit(amount)


async def deposits(kind: type[Account]) -> None:
    account = kind()

    async def customer() -> None:
        for _ in range(5):
            account.deposit(1)

    await asyncio.gather(customer(), customer(), customer())
    assert account.balance == 15, f"{15 - account.balance} deposits were lost"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--locked", action="store_true", help="run the account that has a lock")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, help="replay the run of this seed")
    options = parser.parse_args()
    kind = SafeAccount if options.locked else Account
    began = time.monotonic()
    try:
        report = shuffle(lambda: deposits(kind), runs=options.runs, seed=options.seed)
    except AssertionError as error:
        print(f"found after {time.monotonic() - began:.2f} s: {error}")
        print("\n".join(error.__notes__))
        raise SystemExit(1) from None
    print(f"no race in {report.runs} runs with {report.suspensions} suspensions")


if __name__ == "__main__":
    main()
