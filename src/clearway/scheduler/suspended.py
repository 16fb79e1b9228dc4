"""A suspended step: what the policies choose among."""

from __future__ import annotations

from typing import Any

#: Order of arrival, which breaks every tie.
_next_order = 0


class Suspended:
    """One step that was stopped in the middle, and what is known about it.

    :ivar task: the ``asyncio.Task`` whose step it is, or None for a plain callback.
    :ivar waits: it was interrupted in a blocking call, so a slice of it is spent waiting.
    :ivar priority: higher is more urgent; inherited by child tasks. Default 0.
    :ivar weight: its share under the fair policy, relative to the others'. Default 1.0.
    :ivar used_ns: time it has run since its step began.
    :ivar since_ns: when it was last suspended (CLOCK_MONOTONIC).
    :ivar order: when it was first suspended, relative to the others.
    :ivar virtual_ns: the fair policy's virtual run time.
    """

    def __init__(self, strand: Any, step: Any, task: Any, serial: int) -> None:
        global _next_order
        _next_order += 1
        self.strand = strand
        self.step = step
        self.task = task
        self.serial = serial
        self.word = 0
        self.waits = False
        self.priority = 0
        self.weight = 1.0
        self.domain: Any = None
        self.used_ns = 0
        self.since_ns = 0
        self.order = _next_order
        self.virtual_ns = 0.0
        self.boost = 0
        self.probe_at_ns = 0
        self.probe_gap_ns = 0
        self.error: BaseException | None = None
        self.frame: Any = None

    def where(self) -> str:
        """File, line and function at which it stands."""
        frame = self.frame
        if frame is None:
            return "unknown"
        return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"

    def name(self) -> str:
        """The task's name, or a description of the callback."""
        if self.task is not None:
            try:
                return str(self.task.get_name())
            except AttributeError:
                pass
        return repr(self.step)

    def __repr__(self) -> str:
        state = "waiting" if self.waits else "computing"
        return f"<Suspended {self.name()!r} {state} at {self.where()}>"
