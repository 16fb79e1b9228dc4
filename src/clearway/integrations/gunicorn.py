"""gunicorn's own ASGI worker on clearway.

::

    gunicorn -k clearway.integrations.gunicorn.ClearwayWorker package:app

gunicorn knows two loops by name and no way to name a third; a worker class is the way it has.
"""

from __future__ import annotations

import asyncio

from gunicorn.workers.base import Worker
from gunicorn.workers.gasgi import ASGIWorker

import clearway


class ClearwayWorker(ASGIWorker):  # type: ignore[misc]
    """A gunicorn worker that serves ASGI applications on a clearway loop.

    Needs gunicorn 24, the first with an ASGI worker. The loop's options come from the environment
    (``CLEARWAY_ENGINE``, ``CLEARWAY_PREEMPT``, ``CLEARWAY_QUANTUM_MS``); ``--asgi-loop`` is not looked at.
    """

    def init_process(self) -> None:
        self.loop = clearway.new_event_loop()
        asyncio.set_event_loop(self.loop)
        # Past ASGIWorker's own, which makes a loop and does nothing else.
        Worker.init_process(self)
