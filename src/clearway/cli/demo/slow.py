"""The second act: two handlers that do not await, and what the other clients feel of it."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clearway.cli.demo import app, probe
from clearway.cli.demo.process import ServerProcess
from clearway.observe.timeline import Slice

#: Fast requests per second: about a tenth of what asyncio can answer, so that nothing but the slow
#: handlers makes anybody wait.
FAST_RATE = 1_000.0

#: Slow requests per second, every other one for each path: with handlers of 0.1 s the road is
#: blocked for a quarter of the time.
SLOW_RATE = 2.5

#: Time slice, seconds: short beside what people notice, long beside a switch (some 10 us).
QUANTUM_S = 0.002


@dataclass(frozen=True)
class Contestant:
    """A loop in one mode.

    :param name: unique, for files.
    :param loop: one of :data:`clearway.cli.demo.server.LOOPS`.
    :param preempt: None where there is no such thing, else "off" or "on".
    """

    name: str
    loop: str
    preempt: str | None = None

    @property
    def title(self) -> str:
        """For people."""
        if self.preempt is None:
            return self.loop
        return f"clearway {self.preempt} ({self.loop})"


@dataclass(frozen=True)
class Waits:
    """Latencies of one class of requests, seconds."""

    requests: int
    p50_s: float
    p99_s: float
    p999_s: float
    max_s: float


@dataclass(frozen=True)
class Outcome:
    """One contestant's measurement.

    :param report: what the clients saw.
    :param slices: when the slow handlers had the thread.
    :param suspensions: steps that the scheduler suspended; None where there is no scheduler.
    """

    contestant: Contestant
    report: probe.Report
    slices: tuple[Slice, ...]
    suspensions: int | None

    def waits(self, path: str) -> Waits | None:
        """The latencies of the requests for ``path``; None when none was answered."""
        values = [item.latency_ns for item in self.report.answers if item.path == path]
        return summarize(values) if values else None


class Progress(Protocol):
    """Where the user sees what is going on."""

    def begin(self, text: str) -> None: ...

    def tried(self) -> None: ...


def summarize(latencies_ns: Sequence[int]) -> Waits:
    """Percentiles by nearest rank: each is the latency of a request that took place.

    :param latencies_ns: at least one.
    """
    values = sorted(latencies_ns)

    def at(fraction: float) -> float:
        return values[max(0, math.ceil(fraction * len(values)) - 1)] / 1e9

    return Waits(len(values), at(0.5), at(0.99), at(0.999), values[-1] / 1e9)


def contestants(present: Sequence[str]) -> list[Contestant]:
    """Who takes part, given the loops that can run here.

    Preemption off is shown on one engine: how long a step blocks a cooperative loop does not depend
    on how the loop asks the kernel.
    """
    found = [Contestant(name, name) for name in ("asyncio", "uvloop") if name in present]
    engines = [name for name in ("uring", "epoll") if name in present]
    found += [Contestant(f"off-{name}", name, "off") for name in engines[:1]]
    found += [Contestant(f"on-{name}", name, "on") for name in engines]
    return found


def measure(
    who: Contestant, work: int, seconds: float, server_core: int | None, load_core: int | None
) -> Outcome:
    """Run one contestant's server under the clients of :mod:`clearway.cli.demo.probe`.

    :param work: rounds of the computing handler, the same for all of them.
    :param seconds: length of the measurement.
    :raises ServerError, ProbeError: there are no figures.
    """
    with tempfile.TemporaryDirectory(prefix="clearway-demo-") as directory:
        file = Path(directory, "timeline.json")
        options = ["--work", str(work), "--timeline", str(file)]
        if who.preempt is not None:
            options += ["--preempt", who.preempt, "--quantum", str(QUANTUM_S)]
        with ServerProcess(who.loop, server_core, options) as server:
            server.warm_up()
            report = probe.run(
                server.port,
                seconds=seconds,
                fast_rate=FAST_RATE,
                slow_rate=SLOW_RATE,
                core=load_core,
            )
        # Written when the server ended.
        recorded = json.loads(file.read_text())
    if not any(item.path == "/" for item in report.answers):
        raise probe.ProbeError(f"not one request was answered by the server on {who.title}")
    slices = tuple(Slice(*item) for item in recorded["slices"])
    handlers = tuple(item for item in slices if item.name in probe.SLOW_PATHS)
    return Outcome(who, report, handlers, recorded["suspensions"])


def measure_all(
    who: Sequence[Contestant],
    seconds: float,
    cores: tuple[int | None, int | None],
    progress: Progress,
) -> list[Outcome]:
    """Each contestant once, in an order drawn anew; the outcomes come in the order of ``who``.

    :param progress: told what comes next, and when it is done.
    """
    work = app.calibrate()
    outcomes = {}
    for one in random.sample(who, len(who)):
        progress.begin(f"slow handlers: {one.title}")
        outcomes[one.name] = measure(one, work, seconds, *cores)
        progress.tried()
    return [outcomes[one.name] for one in who]


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The figures without the single requests."""
    return [
        {
            "name": item.contestant.name,
            "title": item.contestant.title,
            "suspensions": item.suspensions,
            "errors": item.report.errors,
            "latency": {
                path: vars(waits)
                for path in ("/", *probe.SLOW_PATHS)
                if (waits := item.waits(path)) is not None
            },
        }
        for item in outcomes
    ]
