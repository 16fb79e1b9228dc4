"""The service under load: the smallest ASGI application that still answers like a real one.

The framework above the loop is kept thin on purpose. Every microsecond that the application takes
is the same on every loop and would only hide the difference the demo is there to show.

Two handlers are written as they should not be, and as they are written every day: ``/cpu`` computes
and ``/block`` calls something that blocks, each for about a tenth of a second without an ``await``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from clearway.observe.timeline import Timeline

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY = b'{"message": "the road is clear"}\n'
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
]
_NOT_FOUND_HEADERS = [(b"content-length", b"0")]

#: How long a slow handler takes, seconds: a template rendered, a picture scaled, a driver without
#: async support asked.
SLOW_S = 0.1

#: Handlers of this file that stand for a user's own code.
HANDLERS = ("app", "compute", "block")

_CALIBRATION_ROUNDS = 100_000

#: Rounds of :func:`compute` per request; the demo sets it to what takes :data:`SLOW_S` here.
rounds = 1_000_000

#: Where the slow handlers are recorded.
timeline = Timeline()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``/``, ``/cpu`` and ``/block`` with :data:`BODY` and everything else with 404."""
    if scope["type"] != "http":
        raise NotImplementedError(f"this application does not speak {scope['type']}")
    path = scope["path"]
    if path == "/cpu":
        with timeline.span(path):
            compute(rounds)
    elif path == "/block":
        with timeline.span(path):
            block(SLOW_S)
    elif path != "/":
        await send({"type": "http.response.start", "status": 404, "headers": _NOT_FOUND_HEADERS})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def compute(rounds: int) -> int:
    """Pure Python arithmetic, without a call that could be a place to stop at."""
    value = 0
    for number in range(rounds):
        value = (value * 31 + number) % 1_000_003
    return value


def block(seconds: float) -> None:
    """Wait as a synchronous driver does: in a system call, with the loop's thread."""
    time.sleep(seconds)


def calibrate() -> int:
    """Rounds of :func:`compute` that take :data:`SLOW_S` on this machine, undisturbed.

    The fastest of a few tries: what disturbs can only make one slower.
    """
    fastest_s = min(_time_compute() for _ in range(5))
    return max(1, int(SLOW_S / fastest_s * _CALIBRATION_ROUNDS))


def _time_compute() -> float:
    began = time.perf_counter()
    compute(_CALIBRATION_ROUNDS)
    return time.perf_counter() - began
