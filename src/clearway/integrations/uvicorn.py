"""uvicorn under gunicorn, on clearway.

::

    gunicorn -k clearway.integrations.uvicorn.ClearwayUvicornWorker package:app

uvicorn alone needs no help of ours: ``uvicorn --loop clearway:new_event_loop package:app``.
"""

from __future__ import annotations

from typing import Any

from uvicorn_worker import UvicornWorker


class ClearwayUvicornWorker(UvicornWorker):  # type: ignore[misc]
    """A gunicorn worker that runs uvicorn on a clearway loop.

    Needs the packages uvicorn-worker and uvicorn 0.36, the first that takes a loop factory. The loop's options
    come from the environment (``CLEARWAY_ENGINE``, ``CLEARWAY_PREEMPT``, ``CLEARWAY_QUANTUM_MS``).
    """

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - so declared by the base class
        **UvicornWorker.CONFIG_KWARGS,
        "loop": "clearway:new_event_loop",
    }
