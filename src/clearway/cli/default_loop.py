"""Make clearway the loop that asyncio creates when a program does not name one.

``asyncio.run``, ``asyncio.Runner`` and ``asyncio.new_event_loop`` all ask the event loop policy, so
one policy reaches the three of them, on every Python to 3.14. A program that names its loop (a
``loop_factory``, ``uvloop.install()``) still gets what it named.

Python 3.14 deprecates policies: the public getter, setter and base class warn. The ones behind
them, which asyncio itself goes on using until 3.16, do not; they are used where they exist.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Mapping
from typing import Any

from clearway.loop.options import read_options


def install(options: Mapping[str, object]) -> None:
    """Have asyncio make clearway loops in this process from now on.

    :param options: keyword arguments of :func:`clearway.new_event_loop`, for every loop made.
    """
    import clearway

    settings = read_options(dict(options), process_wide=True)
    get_policy: Callable[[], Any] = getattr(
        events, "_get_event_loop_policy", events.get_event_loop_policy
    )
    set_policy: Callable[[Any], None] = getattr(
        events, "_set_event_loop_policy", events.set_event_loop_policy
    )
    base: Any = type(get_policy())

    class ClearwayPolicy(base):  # type: ignore[misc]
        """The policy that was there, but for the loop it makes."""

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return clearway._make_loop(settings)

    set_policy(ClearwayPolicy())
