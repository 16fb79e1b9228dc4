"""clearway: an asyncio event loop and runtime for Linux in which nothing can stop the traffic.

Programs written for asyncio run on it unchanged; change one line::

    import clearway
    clearway.run(main())
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from clearway import files
from clearway.files import open_file
from clearway.loop.options import LoopOptions, read_options
from clearway.scheduler.critical import critical
from clearway.scheduler.domains import domain, set_priority
from clearway.scheduler.locks import Lock
from clearway.scheduler.policies import Fair, Policy, Priority, RoundRobin
from clearway.scheduler.report import StallReport, reporter
from clearway.scheduler.rules import allow, deny
from clearway.scheduler.timeouts import hard_timeout, interrupt
from clearway.transfer import Transfer, transfer

if sys.platform.startswith("linux"):
    from clearway.loop.eventloop import EventLoop
else:
    from clearway.loop.selector import SelectorLoop as EventLoop

if TYPE_CHECKING:
    from clearway.loop.eventloop import EventLoop

__version__ = "0.1.0"

__all__ = [
    "EventLoop",
    "Fair",
    "Lock",
    "LoopOptions",
    "Policy",
    "Priority",
    "RoundRobin",
    "StallReport",
    "Transfer",
    "allow",
    "create_task",
    "critical",
    "deny",
    "domain",
    "files",
    "hard_timeout",
    "interrupt",
    "new_event_loop",
    "open_file",
    "reporter",
    "run",
    "set_priority",
    "transfer",
]

T = TypeVar("T")


def new_event_loop(**options: Any) -> EventLoop:
    """Make an event loop.

    It is a ``loop_factory`` for ``asyncio.Runner`` and for servers (``uvicorn --loop clearway:new_event_loop``).

    :param engine: "auto" (io_uring where the kernel allows it, else epoll), "uring", "epoll" or "selector".
        Default: the environment variable ``CLEARWAY_ENGINE``, else "auto".
    :param debug: asyncio's debug mode; None leaves it to ``PYTHONASYNCIODEBUG`` and ``-X dev``.
    :param preempt: "off", "report", "io" or "on". Default: ``CLEARWAY_PREEMPT``, else "report".
    :param quantum: the time slice, 0.0005 to 1 seconds. Default: ``CLEARWAY_QUANTUM_MS`` / 1000, else 0.005.
    :param policy: the scheduling policy, by name or as an object. Default: "fair".
    :raises TypeError: an unknown option or a value of the wrong type.
    :raises ValueError: a value out of range.
    :raises OSError: the engine asked for is refused by the kernel; the text says what to do about it.
    """
    return _make_loop(read_options(options))


def _make_loop(settings: LoopOptions) -> EventLoop:
    if settings.engine == "selector" or not sys.platform.startswith("linux"):
        if settings.engine not in ("auto", "selector"):
            raise OSError(f'engine="{settings.engine}" needs Linux; use engine="auto"')
        from clearway.loop.selector import SelectorLoop

        return SelectorLoop(settings)  # type: ignore[return-value]
    return EventLoop(settings)


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None, **options: Any) -> T:
    """Run a coroutine on a new clearway loop and return its result, as ``asyncio.run`` does.

    :param main: the coroutine to run.
    :param debug: asyncio's debug mode.
    :param options: those of ``new_event_loop``.
    :raises ValueError: ``main`` is not a coroutine.
    :raises RuntimeError: an event loop is running in this thread already.
    """
    if not asyncio.iscoroutine(main):
        raise ValueError(
            f"a coroutine was expected, got {main!r}; call the async function: run(main())"
        )
    try:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "clearway.run() cannot be called from a running event loop; await the coroutine instead"
            )
        read_options(options)
    except BaseException:
        main.close()  # it will not be run: no warning that it never was
        raise

    def factory() -> EventLoop:
        return new_event_loop(debug=debug, **options)

    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)


def create_task(
    coro: Coroutine[Any, Any, T],
    *,
    name: str | None = None,
    context: contextvars.Context | None = None,
    priority: int | None = None,
    weight: float | None = None,
    preemptible: bool | None = None,
) -> asyncio.Task[T]:
    """Schedule a coroutine on the running loop, as ``asyncio.create_task``.

    :param priority: how urgent it is under the policy "priority"; higher first. Inherited by the tasks it makes,
        as are the next two. Default: that of the task that makes it, else 0.
    :param weight: its share under the policy "fair", relative to the default of 1.0.
    :param preemptible: False keeps its steps from being suspended.
    :raises RuntimeError: no loop is running, or one that is not clearway's was given a priority.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, EventLoop):
        return loop.create_task(
            coro,
            name=name,
            context=context,
            priority=priority,
            weight=weight,
            preemptible=preemptible,
        )
    if priority is not None or weight is not None or preemptible is not None:
        coro.close()
        raise RuntimeError(
            "priority, weight and preemptible need clearway's own event loop; "
            f"the running one is {type(loop).__name__}"
        )
    return loop.create_task(coro, name=name, context=context)
