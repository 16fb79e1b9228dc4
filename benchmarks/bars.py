"""The bars of the echo benchmark, and what it takes to call one met."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import stats
from benchmarks.runner import Results


@dataclass(frozen=True)
class Bar:
    """``server``'s figure must be ``at_least`` or ``at_most`` so many times ``peer``'s."""

    server: str
    peer: str
    figure: str
    connections: tuple[int, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> float:
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None
        return bound

    def __str__(self) -> str:
        sign = "≥" if self.at_least is not None else "≤"
        return f"{self.server}: {FIGURE_NAMES[self.figure]} {sign} {self.bound:g} x {self.peer}"


FIGURE_NAMES = {
    "requests_per_s": "requests/s",
    "cpu_us": "server CPU per request",
    "user_us": "user CPU per request",
}

#: TCP echo by Protocol, 1 KiB, server and load generator on one core each.
ECHO_BARS = (
    Bar("uring", "uvloop", "requests_per_s", (16, 128, 1000), at_least=1.2),
    Bar("uring", "c", "requests_per_s", (16, 128), at_least=1.0),
    Bar("uring", "uvloop", "requests_per_s", (1,), at_least=1.0),
    Bar("uring", "uvloop", "cpu_us", (1, 16, 128, 1000), at_most=0.85),
    Bar("epoll", "uvloop", "requests_per_s", (1, 16, 128, 1000), at_least=1.0),
    Bar("epoll", "uvloop", "user_us", (1, 16, 128, 1000), at_most=0.8),
)


@dataclass(frozen=True)
class Verdict:
    """What one bar came to at one number of connections."""

    bar: Bar
    connections: int
    ratio: stats.Ratio
    #: "met", "within noise" (the interval reaches the bound, the median does not) or "missed".
    state: str
    #: Too few pairs to claim parity from.
    provisional: bool


def judge(bar: Bar, connections: int, ratio: stats.Ratio) -> Verdict:
    """Judge one ratio.

    A bound of 1.0 means parity: it is met when the confidence interval reaches it. Any other bound
    must be reached by the median.
    """
    if bar.at_least is not None:
        by_median, by_interval = ratio.median >= bar.bound, ratio.high >= bar.bound
    else:
        by_median, by_interval = ratio.median <= bar.bound, ratio.low <= bar.bound
    if by_median or (by_interval and bar.bound == 1.0):
        state = "met"
    else:
        state = "within noise" if by_interval else "missed"
    return Verdict(bar, connections, ratio, state, ratio.pairs < stats.PAIRS_FOR_PARITY)


def verdicts(results: Results, bars: tuple[Bar, ...], connections: list[int]) -> list[Verdict]:
    """Judge every bar whose two servers were measured; situations are named by connections."""
    judged = []
    for bar in bars:
        for count in connections:
            if count not in bar.connections:
                continue
            ratio = results.ratio(bar.server, bar.peer, str(count), bar.figure)
            if ratio is not None:
                judged.append(judge(bar, count, ratio))
    return judged
