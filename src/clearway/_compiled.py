"""The one table of compiled modules: what ``setup.py`` compiles and ``clearway doctor`` checks.

A ``.py`` source is ordinary Python that also runs uncompiled; a ``.pyx`` source is compiled-only, or
has a ``.py`` twin of the same name that stands in for it when nothing is compiled. This file is
executed by ``setup.py`` before the package can be imported, so it imports nothing of clearway.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util

#: module name -> source path relative to ``src/``.
COMPILED_MODULES: dict[str, str] = {
    "clearway.kernel.sysio": "clearway/kernel/sysio.pyx",
    "clearway.kernel.dgram": "clearway/kernel/dgram.pyx",
    "clearway.kernel.fileio": "clearway/kernel/fileio.pyx",
    "clearway.kernel.launch": "clearway/kernel/launch.pyx",
    "clearway.steps": "clearway/steps.py",
    "clearway.buffers.account": "clearway/buffers/account.py",
    "clearway.buffers.lease": "clearway/buffers/lease.pyx",
    "clearway.buffers.pool": "clearway/buffers/pool.py",
    "clearway.timers.heap": "clearway/timers/heap.py",
    "clearway.engine.operations": "clearway/engine/operations.py",
    "clearway.engine.interface": "clearway/engine/interface.py",
    "clearway.engine.blocks": "clearway/engine/blocks.py",
    "clearway.engine.zero_copy": "clearway/engine/zero_copy.py",
    "clearway.engine.watch": "clearway/engine/watch.py",
    "clearway.engine.epoll": "clearway/engine/epoll.py",
    "clearway.engine.uring": "clearway/engine/uring.pyx",
    "clearway.scheduler._native": "clearway/scheduler/_native.pyx",
    "clearway.scheduler.critical": "clearway/scheduler/critical.py",
    "clearway.scheduler.locks": "clearway/scheduler/locks.py",
    "clearway.scheduler.policies": "clearway/scheduler/policies.py",
    "clearway.scheduler.preemption": "clearway/scheduler/preemption.py",
    "clearway.scheduler.runners": "clearway/scheduler/runners.py",
    "clearway.scheduler.slices": "clearway/scheduler/slices.py",
    "clearway.scheduler.rules": "clearway/scheduler/rules.py",
    "clearway.scheduler.suspended": "clearway/scheduler/suspended.py",
    "clearway.loop.core": "clearway/loop/core.py",
    "clearway.loop.transports.stream": "clearway/loop/transports/stream.py",
    "clearway.loop.transports.datagram": "clearway/loop/transports/datagram.py",
    "clearway.loop.transports.pipe": "clearway/loop/transports/pipe.py",
    "clearway.loop.transports.tls": "clearway/loop/transports/tls.py",
    "clearway.loop.server": "clearway/loop/server.py",
    "clearway.loop.readiness": "clearway/loop/readiness.py",
    "clearway.channels._operation": "clearway/channels/_operation.pyx",
    "clearway.channels._ring": "clearway/channels/_ring.pyx",
    "clearway.channels._line": "clearway/channels/_line.py",
    "clearway.channels.shared": "clearway/channels/shared.py",
    "clearway.channels.channel": "clearway/channels/channel.py",
    "clearway.channels.selecting": "clearway/channels/selecting.py",
    "clearway.channels.broadcast": "clearway/channels/broadcast.py",
    "clearway.streams._body": "clearway/streams/_body.py",
    "clearway.streams.stream": "clearway/streams/stream.py",
    "clearway.testing._events": "clearway/testing/_events.pyx",
}


def is_compiled(name: str) -> bool:
    """Say whether importing ``name`` would load machine code."""
    spec = importlib.util.find_spec(name)
    return isinstance(getattr(spec, "loader", None), importlib.machinery.ExtensionFileLoader)


def uncompiled_modules() -> list[str]:
    """Modules of the table that would run as plain Python (or are missing)."""
    return [name for name in COMPILED_MODULES if not is_compiled(name)]
