"""A task that computes until another has had its turn: what only preemption can bring about."""

from __future__ import annotations

from clearway.scheduler.preemption import refusal

#: Why mode "on" cannot work here, or None.
REFUSED = refusal("on")

#: The computation gives up after this many rounds; it is released long before.
ROUNDS_MAX = 100_000_000

#: Options of a loop on which `Hog` is suspended soon.
ON = {"preempt": "on", "quantum": 0.002}


class Hog:
    """Computes in one step, without an `await`, until `release` is called from another."""

    def __init__(self) -> None:
        self.started = False
        self.released = False

    def compute(self) -> bool:
        """Whether it was released; without suspension nobody ever could."""
        self.started = True
        for _ in range(ROUNDS_MAX):
            if self.released:
                return True
        return False

    def release(self) -> None:
        self.released = True
