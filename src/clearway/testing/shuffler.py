"""Find the races of asynchronous code by suspending it where it hurts.

With ``preempt="on"`` the code between two awaits may be interleaved with other tasks'. A race shows only when
the time slice ends at the wrong instruction, once in a million requests. ``shuffle`` runs a test many times and
ends the slice after a random number of *instructions* instead, so that every safe point is tried sooner or
later; who goes on is drawn as well. All of it follows from one number, the seed, and a failure says which.

What repeats and what does not
    A run is determined by its seed as long as the test itself is: no real network, no clock, no other threads.
    The speed of the machine has no say: the clock ends a slice in a wait for a lock only.
    Cyclic garbage is collected between the runs and not during them, for finalisers would come at a different
    instruction each time. One run without any suspension comes first; it fills caches (and shows tests that
    fail anyway). Sets of strings are iterated in another order in each process: set ``PYTHONHASHSEED`` to
    replay a test that depends on it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import random
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from clearway.loop.eventloop import EventLoop
from clearway.loop.options import read_options
from clearway.scheduler.preemption import refusal
from clearway.testing.policy import Drawn

P = ParamSpec("P")
T = TypeVar("T")

RUNS_DEFAULT = 100

#: Instructions between two suspensions, on the average: one is drawn for each run. Near ones find races that
#: need two suspensions close together, far ones those that need one task to get ahead of another.
GAPS = (3, 10, 30, 100, 300, 1000)

#: A run that takes longer (seconds) has come to a standstill, which is a finding too.
TIMEOUT_DEFAULT_S = 60.0

#: Suspensions that a report remembers.
POINTS_MAX = 10_000

#: Those that a failure's note shows, the last ones.
POINTS_SHOWN = 8


#: The time slice of a shuffled loop in seconds. At its end a step is suspended in a blocking call only, which it
#: would not leave before others have run: so it has no say in the outcome, only in how long a lock is waited for.
SLICE_S = 0.005


def _directory(module: Any) -> str:
    return str(os.path.dirname(module.__file__)) + os.sep


#: Code that is not counted: no step is ever suspended there, and how often it runs depends on the clock.
_SKIPPED = (
    "<frozen ",
    _directory(asyncio),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)


@dataclass(frozen=True)
class Point:
    """One suspension.

    :ivar event: how many instructions had been executed in the run.
    :ivar task: the name of the task (or a description of the callback).
    :ivar file: the file and
    :ivar line: the line at which it stood, in
    :ivar function: the function of that qualified name.
    """

    event: int
    task: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.task} at {self.file}:{self.line} in {self.function} (event {self.event})"


@dataclass
class ShuffleReport:
    """What ``shuffle`` did.

    :ivar runs: runs with suspensions that have been made; the one without is not counted.
    :ivar seed: seed of the last run.
    :ivar suspensions: in all runs together.
    :ivar events: instructions counted in all runs together.
    :ivar declined: trips that led to no suspension, by the rule that objected (see docs/preemption.md).
    :ivar suspensions_in_run: in the last run alone.
    :ivar points: suspensions of the last run, in order: the last ``POINTS_MAX`` of them.
    """

    runs: int = 0
    seed: int = 0
    suspensions: int = 0
    events: int = 0
    declined: dict[str, int] = field(default_factory=dict)
    suspensions_in_run: int = 0
    points: list[Point] = field(default_factory=list)

    def note(self, total: int) -> str:
        """The text that is added to the exception of a failed run."""
        lines = [
            f"clearway.testing: failed in run {self.runs} of {total}, with seed={self.seed}, after "
            f"{self.suspensions_in_run} suspensions; to replay it: shuffle(..., seed={self.seed}, runs=1) "
            f"or pytest --clearway-shuffle=1 --clearway-seed={self.seed}"
        ]
        if self.points:
            lines.append("the last suspensions before it failed:")
            lines += [f"  {point}" for point in self.points[-POINTS_SHOWN:]]
        return "\n".join(lines)


class ShuffleFailure(Exception):
    """Shuffling itself is impossible here, or had no effect; the text says why.

    What a *test* raises comes out of ``shuffle`` as it is, with a note that tells the seed, and with the
    attribute ``clearway_shuffle``: the ``ShuffleReport`` of the run that failed.
    """


def shuffle(
    main: Callable[[], Awaitable[Any]],
    *,
    runs: int = RUNS_DEFAULT,
    seed: int | None = None,
    gap: float | None = None,
    timeout: float | None = TIMEOUT_DEFAULT_S,
    engine: str = "auto",
    record: bool = True,
) -> ShuffleReport:
    """Run ``main()`` many times, each time suspended at other points.

    :param main: makes what is to be run: an async function without parameters. It is called for each run and
        must raise when something is wrong.
    :param runs: how many runs with suspensions, at least 1. One without comes first.
    :param seed: that of the first run; the others follow by ones. None draws one.
    :param gap: instructions between two suspensions, on the average; None draws one of ``GAPS`` for each run.
        A replay needs the same value.
    :param timeout: seconds for each run, None for no limit.
    :param engine: the I/O engine of the loop, see ``clearway.new_event_loop``.
    :param record: keep the points of suspension for the report; False for very long runs.
    :raises ShuffleFailure: this thread or interpreter cannot suspend steps, a tracer is in the way, or tasks
        could have been suspended but all points were refused.
    :raises ValueError: ``runs`` or ``gap`` is too small.
    :raises BaseException: whatever a run raised.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs!r}")
    if gap is not None and gap < 1:
        raise ValueError(f"gap must be at least 1 instruction, not {gap!r}")
    reason = refusal("on")
    if reason is not None:
        raise ShuffleFailure(f"steps cannot be suspended here: {reason}")
    if sys.gettrace() is not None or sys.getprofile() is not None:
        raise ShuffleFailure(
            "a trace or profile function is set in this thread, and no step is suspended under one: "
            "run without the debugger or profiler (for coverage on 3.12+: COVERAGE_CORE=sysmon)"
        )
    if seed is None:
        seed = random.SystemRandom().randrange(2**31)
    report = ShuffleReport()
    try:
        _run_once(main, report, None, gap, timeout, engine, False)
    except BaseException as error:
        error.add_note("clearway.testing: it fails without any suspension as well")
        raise
    for number in range(runs):
        report.runs = number + 1
        report.seed = seed + number
        report.points = []
        report.suspensions_in_run = 0
        try:
            _run_once(main, report, seed + number, gap, timeout, engine, record)
        except BaseException as error:
            error.add_note(report.note(runs))
            error.clearway_shuffle = report  # type: ignore[attr-defined]
            raise
    objections = {rule: n for rule, n in report.declined.items() if rule not in ("U0", "U1")}
    if report.suspensions == 0 and sum(objections.values()) >= runs:
        raise ShuffleFailure(f"nothing could be suspended; refused by rule: {objections}")
    return report


def shuffled(
    function: Callable[P, Awaitable[Any]] | None = None, **options: Any
) -> Callable[..., Any]:
    """``@shuffled`` or ``@shuffled(runs=1000)``: make an async test function a plain one that shuffles it.

    :param options: those of ``shuffle``.
    """
    if function is None:
        return functools.partial(shuffled, **options)
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"@shuffled needs an async function, not {function!r}")

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        shuffle(lambda: function(*args, **kwargs), **options)

    return run


def _run_once(
    main: Callable[[], Awaitable[Any]],
    report: ShuffleReport,
    seed: int | None,
    gap: float | None,
    timeout: float | None,
    engine: str,
    record: bool,
) -> None:
    from clearway.testing._events import EventCounter  # compiled only: refusal() has been asked

    draws = random.Random(seed if seed is not None else 0)
    drawn_gap = float(draws.choice(GAPS))
    policy = Drawn(draws)
    options = read_options(
        {"preempt": "on", "policy": policy, "engine": engine, "quantum": SLICE_S}
    )
    loop = EventLoop(options)
    scheduler: Any = loop._scheduler
    counter = EventCounter(
        scheduler, draws.random, gap or drawn_gap, _SKIPPED, tripping=seed is not None
    )
    scheduler.shuffler = policy
    points: deque[Point] = deque(maxlen=POINTS_MAX)
    if record:
        scheduler.on_switch = _recorder(points, counter)

    async def body() -> Any:
        counter.start()
        try:
            async with asyncio.timeout(timeout):
                return await main()
        finally:
            counter.stop()

    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            coroutine = body()
            # Made before the counting begins: the first run imports and compiles what it needs.
            runner.get_loop()
            counter.install()
            try:
                runner.run(coroutine)
            finally:
                counter.remove()
    finally:
        if collects:
            gc.enable()
        report.events += counter.events
        if seed is not None:
            report.points = list(points)
            report.suspensions_in_run = scheduler.suspensions
            report.suspensions += scheduler.suspensions
            for number, count in enumerate(scheduler.declined):
                if count:
                    rule = f"U{number}"
                    report.declined[rule] = report.declined.get(rule, 0) + count


def _recorder(points: deque[Point], counter: Any) -> Callable[[str, Any, int], None]:
    def on_switch(kind: str, entry: Any, now_ns: int) -> None:
        if kind == "suspend":
            frame = entry.frame
            code = frame.f_code
            points.append(
                Point(
                    counter.events, entry.name(), code.co_filename, frame.f_lineno, code.co_qualname
                )
            )

    return on_switch
