"""Figures of the scheduler: counters, and a histogram that costs an increment."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Buckets per power of two: a value is known to within 12.5 %.
_SUB = 8


class Histogram:
    """Counts of times in nanoseconds, in buckets whose width grows with the value."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.maximum_ns = 0

    def add(self, value_ns: int) -> None:
        value_ns = max(value_ns, 0)
        if value_ns > self.maximum_ns:
            self.maximum_ns = value_ns
        bucket = _bucket(value_ns)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1

    def percentile(self, fraction: float) -> float:
        """The value in seconds below which ``fraction`` of the samples lie; 0.0 without samples."""
        if not self.count:
            return 0.0
        wanted = fraction * self.count
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(_upper(bucket), self.maximum_ns) / 1e9
        return self.maximum_ns / 1e9


def _bucket(value: int) -> int:
    if value < _SUB:
        return value
    shift = value.bit_length() - 4
    return (shift + 1) * _SUB + ((value >> shift) - _SUB)


def _upper(bucket: int) -> int:
    if bucket < _SUB:
        return bucket
    shift, rest = divmod(bucket - _SUB, _SUB)
    return ((rest + _SUB + 1) << shift) - 1


@dataclass(frozen=True)
class SchedulerStatistics:
    """What the scheduler has done so far. Times in seconds.

    :ivar suspensions: steps stopped in the middle. :ivar resumes: slices given to suspended steps.
    :ivar suspended: steps that are suspended now. :ivar runners: stacks in existence.
    :ivar declined: objections to a suspension, by rule ("U0" to "U9").
    :ivar kicks_soft: signals sent that restart system calls. :ivar kicks_hard: those that interrupt them.
    :ivar longest_step: the longest uninterrupted run of a step that overran its slice.
    :ivar latency_p50: how far past the end of its slice a step was suspended; likewise p99, p999, max.
    :ivar wait_p50: how long suspended steps waited for their next slice; likewise p99.
    :ivar switch_cost: of one suspension and resume, measured at start-up; 0.0 if not measured.
    """

    mode: str
    policy: str
    quantum: float
    suspensions: int = 0
    resumes: int = 0
    suspended: int = 0
    runners: int = 0
    declined: dict[str, int] = field(default_factory=dict)
    kicks_soft: int = 0
    kicks_hard: int = 0
    interrupts: int = 0
    reports: int = 0
    longest_step: float = 0.0
    latency_p50: float = 0.0
    latency_p99: float = 0.0
    latency_p999: float = 0.0
    latency_max: float = 0.0
    wait_p50: float = 0.0
    wait_p99: float = 0.0
    time_by_task: dict[str, float] = field(default_factory=dict)
    time_by_priority: dict[int, float] = field(default_factory=dict)
    switch_cost: float = 0.0
