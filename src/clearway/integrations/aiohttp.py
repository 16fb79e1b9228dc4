"""aiohttp applications under gunicorn, on clearway.

::

    gunicorn -k clearway.integrations.aiohttp.ClearwayWebWorker package:app

aiohttp alone needs no help of ours: ``web.run_app(app, loop=clearway.new_event_loop())``.
"""

from __future__ import annotations

import asyncio

from aiohttp.worker import GunicornWebWorker
from gunicorn.workers.base import Worker

import clearway


class ClearwayWebWorker(GunicornWebWorker):
    """A gunicorn worker that serves ``aiohttp.web`` applications on a clearway loop.

    The loop's options come from the environment (``CLEARWAY_ENGINE``, ``CLEARWAY_PREEMPT``,
    ``CLEARWAY_QUANTUM_MS``).
    """

    def init_process(self) -> None:
        self.loop = clearway.new_event_loop()
        asyncio.set_event_loop(self.loop)
        # Past GunicornWebWorker's own, which makes a loop and does nothing else.
        Worker.init_process(self)
