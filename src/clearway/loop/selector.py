"""``engine="selector"``: asyncio's own selector loop behind clearway's interface.

It is what there is off Linux, and can be asked for on Linux to test programs against it.
"""

from __future__ import annotations

import asyncio

from clearway.loop.options import LoopOptions


class SelectorLoop(asyncio.SelectorEventLoop):
    """asyncio's selector loop, made from clearway's options.

    :raises ValueError: an option that only clearway's own engines can keep.
    """

    def __init__(self, options: LoopOptions) -> None:
        if options.preempt in ("io", "on"):
            raise ValueError(
                f'preempt="{options.preempt}" needs an engine of clearway\'s own (uring or epoll); '
                'engine="selector" knows only "off" and "report"'
            )
        super().__init__()
        if options.debug is not None:
            self.set_debug(options.debug)

    @property
    def engine_name(self) -> str:
        """ "selector"."""
        return "selector"
