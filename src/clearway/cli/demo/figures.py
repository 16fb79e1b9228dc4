"""What was measured: one record per round, and a summary per loop."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clearway.cli.demo.load import Load
from clearway.cli.demo.process import Usage

#: The loop that the others are compared with: asyncio's own, in the same round.
CONTROL = "asyncio"


@dataclass(frozen=True)
class Round:
    """One loop under load once.

    :param loop: which one.
    :param number: the round, from 0; every loop has a turn in each.
    :param load: what the clients saw.
    :param usage: what the server spent meanwhile.
    """

    loop: str
    number: int
    load: Load
    usage: Usage

    @property
    def requests_per_s(self) -> float:
        return self.load.requests / self.load.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time of the server per request, microseconds."""
        return self.usage.cpu_s / self.load.requests * 1e6

    @property
    def user_share(self) -> float:
        """The part of the server's CPU time spent in user mode, 0 to 1."""
        ticked_s = self.usage.user_s + self.usage.system_s
        return self.usage.user_s / ticked_s if ticked_s else 0.0

    @property
    def switches(self) -> float:
        """Context switches of the server per request."""
        return self.usage.switches / self.load.requests


@dataclass(frozen=True)
class Summary:
    """The rounds of one loop: medians, and the least and the greatest where they tell something.

    :param requests_per_s, requests_per_s_min, requests_per_s_max: throughput.
    :param p50_s, p99_s, p999_s: medians over the rounds of each round's latency percentile,
        seconds.
    :param cpu_us: server CPU per request, microseconds.
    :param cpu_user_us: of these, in user mode.
    :param switches: context switches of the server per request.
    :param ratio, ratio_min, ratio_max: throughput over that of asyncio in the same round; None when
        asyncio was not measured.
    :param errors: of all rounds together.
    """

    loop: str
    rounds: int
    requests_per_s: float
    requests_per_s_min: float
    requests_per_s_max: float
    p50_s: float
    p99_s: float
    p999_s: float
    cpu_us: float
    cpu_user_us: float
    switches: float
    ratio: float | None
    ratio_min: float | None
    ratio_max: float | None
    errors: int


def summarize(loop: str, rounds: Sequence[Round]) -> Summary | None:
    """The summary of one loop, or None when it has no round yet.

    :param rounds: all rounds of all loops.
    """
    own = [item for item in rounds if item.loop == loop]
    if not own:
        return None
    control = {item.number: item for item in rounds if item.loop == CONTROL}
    ratios = [
        item.requests_per_s / control[item.number].requests_per_s
        for item in own
        if item.number in control
    ]

    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(value(item) for item in own)

    throughput = [item.requests_per_s for item in own]
    return Summary(
        loop=loop,
        rounds=len(own),
        requests_per_s=statistics.median(throughput),
        requests_per_s_min=min(throughput),
        requests_per_s_max=max(throughput),
        p50_s=median(lambda item: item.load.p50_s),
        p99_s=median(lambda item: item.load.p99_s),
        p999_s=median(lambda item: item.load.p999_s),
        cpu_us=median(lambda item: item.cpu_us),
        cpu_user_us=median(lambda item: item.cpu_us * item.user_share),
        switches=median(lambda item: item.switches),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_min=min(ratios, default=None),
        ratio_max=max(ratios, default=None),
        errors=sum(item.load.errors for item in own),
    )
