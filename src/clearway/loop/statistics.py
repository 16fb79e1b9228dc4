"""The figures a loop gives of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clearway.scheduler.statistics import SchedulerStatistics


@dataclass(frozen=True)
class LoopStatistics:
    """What a loop has done since it was made.

    :ivar engine: "uring" or "epoll".
    :ivar turns: turns of the loop. :ivar steps: tasks' steps, callbacks and completions that were run.
    :ivar waits: turns that asked the kernel. :ivar completions: what the kernel answered.
    :ivar ready: steps that are ready now (run-queue length). :ivar timers: timers that are set now.
    :ivar inflight: operations the kernel holds now. :ivar leased: receive buffers that are out now.
    :ivar scheduler: suspensions, refusals by rule, latencies in seconds.
    """

    engine: str
    turns: int
    steps: int
    waits: int
    completions: int
    ready: int
    timers: int
    inflight: int
    leased: int
    scheduler: SchedulerStatistics


def read_statistics(loop: Any) -> LoopStatistics:
    """Read the figures of ``loop``, from its own thread or while it does not run."""
    engine = loop._engine
    turns = loop._turns
    return LoopStatistics(
        engine=engine.name,
        turns=turns,
        # The step clock moves by 2 per step and by 2 per turn.
        steps=max(0, (loop._scheduler.clock.word >> 1) - turns),
        waits=engine.waits,
        completions=engine.completions,
        ready=len(loop._steps) - loop._head,
        timers=len(loop._timers),
        inflight=0 if loop.is_closed() else engine.inflight(),
        leased=engine.leased(),
        scheduler=loop._scheduler.statistics(),
    )
