"""The figures a loop gives of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clearway.buffers.account import Ledger
from clearway.scheduler.statistics import SchedulerStatistics


@dataclass(frozen=True)
class PathStatistics:
    """What went one way.

    :ivar moved: bytes that were moved from one end to the other.
    :ivar copied: bytes that user-space code copied from memory to memory on the way, once per copy. What the kernel
        copies between a socket or the page cache and the process is not in it.
    """

    moved: int
    copied: int


@dataclass(frozen=True)
class LoopStatistics:
    """What a loop has done since it was made.

    :ivar engine: "uring" or "epoll".
    :ivar turns: turns of the loop. :ivar steps: tasks' steps, callbacks and completions that were run.
    :ivar waits: turns that asked the kernel. :ivar completions: what the kernel answered.
    :ivar ready: steps that are ready now (run-queue length). :ivar timers: timers that are set now.
    :ivar inflight: operations the kernel holds now. :ivar leased: receive buffers that are out now.
    :ivar paths: bytes moved and copied, by path: "receive" and "send" (connections on the engine), "transport receive"
        and "transport send" (streams on TLS and other transports, on top of the former), those of ``transfer``
        ("sendfile", "splice", "copy_file_range", "buffers"), "file read", "file write", "shared receive", "shared
        send" (``SharedChannel``), "datagram receive" and "datagram send", "pipe receive" and "pipe send" (those of
        subprocesses included), "tls receive" and "tls send" (plaintext moved, on top of the connection's own; what
        OpenSSL and its memory BIOs copy is in their copies). A path that was not used is missing, but for the first
        two.
    :ivar zero_copy_sends: sends from the memory itself (io_uring). :ivar zero_copy_copied: those of them that the
        kernel copied all the same, after which their socket does without.
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
    paths: dict[str, PathStatistics]
    zero_copy_sends: int
    zero_copy_copied: int
    scheduler: SchedulerStatistics


def read_statistics(loop: Any) -> LoopStatistics:
    """Read the figures of ``loop``, from its own thread or while it does not run."""
    engine = loop._engine
    turns = loop._turns
    loop._ledger.settle()
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
        paths={
            path: PathStatistics(account.moved, account.copied)
            for path, account in loop._ledger.accounts.items()
        },
        zero_copy_sends=getattr(engine, "zero_copy_sends", 0),
        zero_copy_copied=getattr(engine, "zero_copy_copied", 0),
        scheduler=loop._scheduler.statistics(),
    )


def ledger_of(loop: Any) -> Ledger:
    """The accounts of ``loop``; on a loop that is not clearway's, some that nobody reads."""
    ledger = getattr(loop, "_ledger", None)
    return Ledger() if ledger is None else ledger
