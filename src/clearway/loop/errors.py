"""Where an error happened: the peer of the transport and the step, for the exception handler and the log line.

asyncio's keys stay as they are. ``peer`` and ``step`` are added where there is a transport, a protocol or a socket to
tell of; where a plain callback failed its ``handle`` is the step, and nothing has to be added unless the callback is a
method of a transport.
"""

from __future__ import annotations

import socket
import struct
from asyncio import tasks
from typing import Any

from clearway.steps import Handle

#: struct ucred: pid, uid, gid.
_UCRED = struct.Struct("3i")


def add_place(loop: Any, context: dict[str, Any]) -> dict[str, Any]:
    """The context of an error with ``peer`` and ``step`` added where they are known.

    :param context: as given to ``call_exception_handler``; it is left as it is.
    """
    added: dict[str, Any] = {}
    transport = context.get("transport")
    handle = context.get("handle")
    if transport is None and handle is not None:
        owner = getattr(getattr(handle, "_callback", None), "__self__", None)
        if owner is not None and hasattr(owner, "get_extra_info"):
            added["transport"] = transport = owner
    if transport is not None and "peer" not in context:
        peer = describe_peer(transport)
        if peer:
            added["peer"] = peer
    concerns = transport is not None or "protocol" in context or "socket" in context
    if concerns and handle is None and "step" not in context:
        step = describe_step(loop)
        if step:
            added["step"] = step
    return context | added if added else context


def add_to_message(context: dict[str, Any]) -> dict[str, Any]:
    """For the log: the same with ``peer``, ``step`` and ``remedy`` in the message, so that the first line has them."""
    where = [f"{key} {context[key]}" for key in ("peer", "step") if context.get(key)]
    remedy = context.get("remedy")
    if not where and not remedy:
        return context
    message = str(context.get("message") or "Unhandled exception in event loop")
    if where:
        message = f"{message} [{', '.join(where)}]"
    if remedy:
        message = f"{message}: {remedy}"
    rest = {key: context[key] for key in context if key not in ("peer", "step", "remedy")}
    return rest | {"message": message}


def insist_on_protocol(protocol: Any) -> None:
    """What a factory returns is looked at before there is a transport.

    :raises AttributeError: as from asyncio, where it is no protocol.
    """
    if not hasattr(protocol, "connection_made"):
        raise AttributeError(
            f"{type(protocol).__name__!r} object has no attribute 'connection_made': "
            "does the protocol factory return a protocol?"
        )


def describe_peer(transport: Any) -> str:
    """Who is at the other end: "127.0.0.1:8000", "/run/app.sock", "pid 17"; "" when that is not known."""
    try:
        process = transport.get_extra_info("subprocess")
        if process is not None:
            return f"pid {process.pid}"
        name = transport.get_extra_info("peername")
        if not name:
            return _describe_unnamed(transport.get_extra_info("socket"))
    except (OSError, AttributeError, TypeError):
        return ""  # not a transport after all, or one that is closed
    return describe_address(name)


def describe_socket_peer(sock: socket.socket) -> str:
    """The same of a socket that has no transport."""
    try:
        return describe_address(sock.getpeername()) or _describe_unnamed(sock)
    except OSError:
        return ""  # gone already


def describe_address(address: Any) -> str:
    """The address of a socket as people write it."""
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    if isinstance(address, bytes):  # an abstract name
        return address.decode("utf-8", "replace").replace("\0", "@", 1)
    return str(address)


def _describe_unnamed(sock: Any) -> str:
    """The client of a Unix socket has no name, but the kernel knows its process."""
    if sock is None or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return ""
    pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return f"pid {pid}" if pid > 0 else ""


def describe_step(loop: Any) -> str:
    """The step that runs: its task, or the callback, or the descriptor whose input and output it is."""
    task = tasks.current_task(loop)
    if task is not None:
        return f"task {_name(task)!r}"
    entry = loop._scheduler.current()
    step = entry.step if entry is not None else loop.current_step()
    if step is None:
        return ""
    if isinstance(step, Handle):
        return f"callback {step!r}"
    fd = getattr(step, "fd", None)
    return repr(step) if fd is None else f"input and output of descriptor {fd}"


def _name(task: Any) -> str:
    name = getattr(task, "get_name", None)
    return repr(task) if name is None else str(name())
