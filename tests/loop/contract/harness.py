"""Run a scenario on asyncio's own loop and on both engines, and compare everything that could be observed.

A scenario is ``async def scenario(trace)``. What it and its protocols see goes into the trace, one line each, in order:
callbacks, results, exceptions with their texts, what reached the exception handler, warnings, log records, descriptors
left over. Object addresses and descriptor numbers are blotted out. What is left must be equal line by line: asyncio's
trace is what is right, so no scenario says what to expect.

A scenario must be deterministic by construction: it drives both ends of every connection itself and calls ``settle``
where the order of independent descriptors would otherwise be the kernel's choice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import gc
import logging
import re
import warnings
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from ...support.loops import Factory, descriptors, finish, left_open

Scenario = Callable[["Trace"], Coroutine[Any, Any, None]]

#: Longer data is told by its length and checksum.
SHOWN_BYTES = 64

_BLOTS = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x"),
    (re.compile(r"\bfd=\d+"), "fd=N"),
    (re.compile(r"\bfd \d+"), "fd N"),
    (re.compile(r"pid[= ]\d+"), "pid=N"),
    (re.compile(r"Task-\d+"), "Task-N"),
    # Who reports a failed callback, the handle or the transport, is a documented difference.
    (
        re.compile(r"Exception in callback .*|\w+\.\w+\(\) failed", re.DOTALL),
        "a callback failed",
    ),
)


class Trace:
    """What was observed, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, *what: Any) -> None:
        self.lines.append(" ".join(_show(item) for item in what))

    def call(self, label: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something, trace its result or exception; returns the result or None."""
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            self(label, "raised", exc)
            return None
        self(label, "->", result)
        return result

    async def wait(self, label: str, awaitable: Awaitable[Any]) -> Any:
        """Await something, trace its result or exception; returns the result or None."""
        try:
            result = await awaitable
        except BaseException as exc:
            self(label, "raised", exc)
            return None
        self(label, "->", result)
        return result


def _show(item: Any) -> str:
    if isinstance(item, BaseException):
        return blot(_show_exception(item))
    if isinstance(item, bytes | bytearray):
        if len(item) > SHOWN_BYTES:
            return f"<{len(item)} bytes, crc {zlib.crc32(item):08x}>"
        return repr(bytes(item))
    if isinstance(item, tuple):
        return "(" + ", ".join(_show(part) for part in item) + ")"
    if isinstance(item, list):
        return "[" + ", ".join(_show(part) for part in item) + "]"
    if isinstance(item, str):
        return blot(item)
    if item is None or isinstance(item, bool | int | float):
        return repr(item)
    if isinstance(item, asyncio.BaseTransport):
        return "<transport>"
    return blot(f"<{type(item).__name__}>")


def _show_exception(exc: BaseException) -> str:
    text = f"{type(exc).__name__}({own_text(exc)})"
    if isinstance(exc, BaseExceptionGroup):
        text += "[" + ", ".join(_show_exception(part) for part in exc.exceptions) + "]"
    return text


def own_text(exc: BaseException) -> str:
    """The text without what clearway adds to it (docs/errors.md)."""
    if hasattr(exc, "remedy") and len(exc.args) == 2:
        return f"[Errno {exc.args[0]}] {exc.args[1]}"
    return str(exc)


def blot(text: str) -> str:
    for pattern, replacement in _BLOTS:
        text = pattern.sub(replacement, text)
    return text


class Tracer:
    """Traces every callback of a protocol, under its name; ``on`` maps a callback's name to what it does besides.

    :param on: e.g. ``{"made": lambda p: p.transport.pause_reading()}``; what it returns the callback returns.
    """

    def __init__(self, trace: Trace, name: str = "p", **on: Callable[..., Any]) -> None:
        self.trace = trace
        self.name = name
        self.on = on
        self.transport: Any = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, event: str, *what: Any) -> Any:
        self.trace(f"{self.name}.{event}", *what)
        action = self.on.get(event)
        return action(self, *what) if action is not None else None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("made")

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self.note("lost", exc)

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")


class StreamTracer(Tracer, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.note("data", data)

    def eof_received(self) -> Any:
        return self.note("eof")


class BufferTracer(Tracer, asyncio.BufferedProtocol):
    """Receives into one buffer of ``size`` bytes."""

    def __init__(
        self, trace: Trace, name: str = "b", size: int = 8, **on: Callable[..., Any]
    ) -> None:
        super().__init__(trace, name, **on)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> Any:
        if "get_buffer" in self.on:
            return self.on["get_buffer"](self, sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.note("updated", bytes(self.buffer[:nbytes]))

    def eof_received(self) -> Any:
        return self.note("eof")


class DatagramTracer(Tracer, asyncio.DatagramProtocol):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("datagram", data)

    def error_received(self, exc: BaseException) -> None:
        self.note("error", exc)


class _Records(logging.Handler):
    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.WARNING)
        self.trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        self.trace("log", record.levelname, record.getMessage())


@contextmanager
def _watching(trace: Trace) -> Iterator[None]:
    logger = logging.getLogger("asyncio")
    records = _Records(trace)
    propagate = logger.propagate
    logger.addHandler(records)
    logger.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
            gc.collect()
        for warning in caught:
            kind = warning.category.__name__
            # The repr of what was not closed is each loop's own.
            trace("warning", kind, re.sub(r"<.*>", "<>", str(warning.message)))
    finally:
        logger.removeHandler(records)
        logger.propagate = propagate


def trace_on(factory: Factory, scenario: Scenario, **options: Any) -> list[str]:
    """Run ``scenario`` on a new loop of one kind; its trace."""
    factory.warm()
    trace = Trace()
    debug = options.pop("debug", False)
    gc.collect()
    before = descriptors()

    def report(_: Any, context: dict[str, Any]) -> None:
        trace("handler", context["message"], context.get("exception"))

    with _watching(trace):
        loop = factory(**({} if factory.name == "asyncio" else options))
        loop.set_debug(debug)
        loop.set_exception_handler(report)
        try:
            loop.run_until_complete(scenario(trace))
        except BaseException as exc:
            trace("scenario raised", exc)
        finally:
            finish(loop)
    left = left_open(before)
    trace("descriptors left", len(left))
    return trace.lines


def compare(factories: list[Factory], scenario: Scenario, **options: Any) -> None:
    """Insist that every loop gives the trace that the first one gives.

    :raises AssertionError: with both traces.
    """
    control, *others = factories
    expected = trace_on(control, scenario, **options)
    for factory in others:
        got = trace_on(factory, scenario, **options)
        assert got == expected, difference(control.name, expected, factory.name, got)


def difference(name: str, expected: list[str], other: str, got: list[str]) -> str:
    """Both traces in one, what only ``other`` has marked by + and what it lacks by -."""
    lines = [f"{other} (+) differs from {name} (-):"]
    matcher = difflib.SequenceMatcher(None, expected, got, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            lines += [f"    {line}" for line in expected[a:b]]
        else:
            lines += [f"  - {line}" for line in expected[a:b]]
            lines += [f"  + {line}" for line in got[c:d]]
    return "\n".join(lines)


def same_kind() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops of the kind that runs, to be run in any thread: mode "on" works in the main thread only."""
    loop = asyncio.get_running_loop()
    kind: Any = type(loop)
    options = getattr(loop, "_options", None)
    if options is None:
        return kind  # type: ignore[no-any-return]
    return lambda: kind(dataclasses.replace(options, preempt="report"))


class Scenarios(list[Any]):
    """The scenarios of one file: ``@scenario`` on each, ``scenario`` itself as the parameters of the one test."""

    def __call__(self, function: Scenario) -> Scenario:
        self.append(function)
        return function

    @property
    def names(self) -> list[str]:
        return [function.__name__ for function in self]
