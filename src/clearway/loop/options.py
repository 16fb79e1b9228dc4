"""The options of a loop: one table, read by ``run``, ``new_event_loop``, the environment and the command line."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from clearway.scheduler.policies import find_policy

ENGINES = ("auto", "uring", "epoll", "selector")
MODES = ("off", "report", "io", "on")

#: Half of Go's 10 ms slice: a Python step that runs this long holds up everybody else noticeably.
QUANTUM_DEFAULT_S = 0.005
#: Below this a switch costs a noticeable share of the slice; above it nobody would call it preemption.
QUANTUM_MIN_S = 0.0005
QUANTUM_MAX_S = 1.0
#: asyncio's slow_callback_duration.
REPORT_AFTER_DEFAULT_S = 0.1


@dataclass(frozen=True)
class LoopOptions:
    """How to build an event loop.

    :param engine: "auto" (io_uring where the kernel allows it, else epoll), "uring", "epoll" or
        "selector" (asyncio's own loop). Default: ``CLEARWAY_ENGINE`` or "auto".
    :param debug: asyncio's debug mode; None leaves it to ``PYTHONASYNCIODEBUG`` and ``-X dev``.
    :param preempt: "off", "report", "io" or "on". Default: ``CLEARWAY_PREEMPT`` or "report".
    :param quantum: the time slice in seconds, 0.0005 to 1. Default: ``CLEARWAY_QUANTUM_MS`` or 0.005.
    :param policy: the scheduling policy by name ("fair", "priority", "round-robin") or as an object. Default "fair".
    :param report_after: in mode "report", seconds after which a step that still runs is reported.
    :param process_wide: ``preempt`` was chosen for the process (environment, command line), not by the code that made
        this loop: in a thread where that mode cannot work the loop runs in mode "report" and logs that it does.
    """

    engine: str = "auto"
    debug: bool | None = None
    preempt: str = "report"
    quantum: float = QUANTUM_DEFAULT_S
    policy: Any = "fair"
    report_after: float = REPORT_AFTER_DEFAULT_S
    process_wide: bool = False


_NAMES = ("engine", "debug", "preempt", "quantum", "policy", "report_after")


def read_options(given: dict[str, Any], *, process_wide: bool = False) -> LoopOptions:
    """Check the options that were given and fill in the rest from the environment.

    :param process_wide: they were given for every loop of the process; see ``LoopOptions``.
    :raises TypeError: an unknown option, or a value of the wrong type.
    :raises ValueError: a value out of range.
    """
    unknown = [name for name in given if name not in _NAMES]
    if unknown:
        raise TypeError(f"unknown loop option {unknown[0]!r}; the options are: {', '.join(_NAMES)}")
    engine = given.get("engine")
    source = "engine"
    if engine is None:
        engine = os.environ.get("CLEARWAY_ENGINE") or "auto"
        source = "CLEARWAY_ENGINE"
    _check_choice(source, engine, ENGINES)
    preempt = given.get("preempt")
    source = "preempt"
    if preempt is None:
        preempt = os.environ.get("CLEARWAY_PREEMPT") or "report"
        process_wide = True
        source = "CLEARWAY_PREEMPT"
    _check_choice(source, preempt, MODES)
    quantum = given.get("quantum")
    if quantum is None:
        quantum = _quantum_from_environment()
    if isinstance(quantum, bool) or not isinstance(quantum, (int, float)):
        raise TypeError(f"quantum must be a number of seconds, not {type(quantum).__name__}")
    if not (math.isfinite(quantum) and QUANTUM_MIN_S <= quantum <= QUANTUM_MAX_S):
        raise ValueError(
            f"quantum must lie between {QUANTUM_MIN_S} and {QUANTUM_MAX_S:g} seconds, not {quantum!r}"
        )
    debug = given.get("debug")
    if debug is not None:
        debug = bool(debug)
    policy = given.get("policy")
    if policy is None:
        policy = "fair"
    find_policy(policy)  # raises for what is none
    report_after = given.get("report_after")
    if report_after is None:
        report_after = REPORT_AFTER_DEFAULT_S
    if isinstance(report_after, bool) or not isinstance(report_after, (int, float)):
        raise TypeError(
            f"report_after must be a number of seconds, not {type(report_after).__name__}"
        )
    if not (math.isfinite(report_after) and report_after > 0):
        raise ValueError(f"report_after must be positive, not {report_after!r}")
    return LoopOptions(
        engine, debug, preempt, float(quantum), policy, float(report_after), process_wide
    )


def _check_choice(source: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{source} must be a string, not {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{source} must be one of {', '.join(choices)}, not {value!r}")


def _quantum_from_environment() -> float:
    text = os.environ.get("CLEARWAY_QUANTUM_MS")
    if not text:
        return QUANTUM_DEFAULT_S
    try:
        return float(text) / 1000
    except ValueError:
        raise ValueError(f"CLEARWAY_QUANTUM_MS must be a number, not {text!r}") from None
