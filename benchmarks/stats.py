"""Medians, spread and paired ratios with a confidence interval. Pure functions, nothing timed.

Servers are compared by *paired* ratios: within one round each is measured once, minutes apart at
most, so whatever slows the machine down for a while slows numerator and denominator alike.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Resamples of the bootstrap: the interval's own error is then far below the data's (Efron and
#: Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 14, asks for 1,000 or more).
RESAMPLES = 4000
CONFIDENCE = 0.95
#: Parity with another loop may be claimed from so many pairs.
PAIRS_FOR_PARITY = 15


@dataclass(frozen=True)
class Spread:
    """Where repeated measurements of one thing lie."""

    n: int
    median: float
    low: float
    high: float
    #: Half the interquartile range as a fraction of the median: "± 3 %".
    relative: float


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios and the interval that holds it with 95 % confidence."""

    pairs: int
    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """Describe ``values``; None when there are none."""
    if not values:
        return None
    median = statistics.median(values)
    if len(values) >= 2:
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
        half = (third - first) / 2
    else:
        half = 0.0
    return Spread(len(values), median, min(values), max(values), half / median if median else 0.0)


def paired_ratio(
    pairs: Sequence[tuple[float, float]], *, resamples: int = RESAMPLES, seed: int = 1
) -> Ratio | None:
    """Median of ``a / b`` over ``pairs`` with a percentile bootstrap interval.

    Pairs in which either side is zero or not finite carry no ratio and are left out. Returns None
    when no pair is left. The interval of one pair is that pair: it claims nothing.
    """
    ratios = [a / b for a, b in pairs if a > 0 and b > 0 and math.isfinite(a) and math.isfinite(b)]
    if not ratios:
        return None
    rng = random.Random(seed)
    n = len(ratios)
    medians = sorted(statistics.median(rng.choices(ratios, k=n)) for _ in range(resamples))
    tail = (1 - CONFIDENCE) / 2
    low = medians[int(tail * resamples)]
    high = medians[min(resamples - 1, int((1 - tail) * resamples))]
    return Ratio(n, statistics.median(ratios), low, high)
