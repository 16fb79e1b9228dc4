"""What to do about an error of the operating system: one table, by what was tried and errno.

The text joins the exception's own, behind what asyncio says, and stays on it as ``remedy``. Type, errno and identity of
the exception are untouched.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import resource
import socket
from collections.abc import Callable
from typing import Any

from clearway.loop.errors import describe_address

_BOUND = ("listen", "bind")

#: Texts of asyncio's that name the address already.
_SHOWS_ADDRESS = re.compile(r"address [('\"]|call failed ", re.IGNORECASE)

#: (what was tried, errno) -> what to do. "resolve" has the numbers of getaddrinfo(3) instead.
REMEDIES: dict[tuple[str, int], str] = {
    ("listen", errno.EADDRINUSE): (
        "another socket has that address: find its process with `ss -lptn` (`ss -lpxn` for Unix sockets), stop it or "
        "choose another port (0 lets the kernel choose); processes that are to share it all pass reuse_port=True"
    ),
    ("bind", errno.EADDRINUSE): (
        "another socket has that address: find its process with `ss -apn`, or choose another port (0 lets the kernel "
        "choose)"
    ),
    ("connect", errno.ECONNREFUSED): (
        "nothing listens at that address: is the server running, there and on that port?"
    ),
    ("connect", errno.ETIMEDOUT): (
        "no answer at all: is the host up, and does a firewall drop the packets?"
    ),
    ("connect", errno.ENETUNREACH): "this machine has no route to that network: see `ip route`",
    ("connect", errno.EHOSTUNREACH): (
        "the host does not answer on its network, or a firewall refuses: see `ip route get`"
    ),
    ("connect", errno.ENOENT): (
        "there is no socket of that name: is the server running, and is the path the one it was given?"
    ),
    ("connect", errno.EACCES): "the permissions of the socket or of a directory above it forbid it",
    ("connect", errno.EADDRNOTAVAIL): (
        "no local port is free for that destination, or the local address is not this machine's: see the sysctl "
        "net.ipv4.ip_local_port_range and keep connections open instead of making new ones"
    ),
    ("connect", errno.EAGAIN): (
        "the server's queue of connections is full: raise the backlog it listens with"
    ),
    ("start", errno.EAGAIN): (
        "the user or the control group may have no more processes: see `ulimit -u` and pids.max, and wait() for those "
        "that have ended"
    ),
    ("resolve", socket.EAI_NONAME): (
        "that name is not known: check its spelling, and what `getent ahosts` says of it"
    ),
    ("resolve", socket.EAI_AGAIN): (
        "the name servers do not answer: see /etc/resolv.conf, and try again"
    ),
}
for _tried in _BOUND:
    REMEDIES[_tried, errno.EADDRNOTAVAIL] = (
        "no interface of this machine has that address: see `ip addr`, or use 0.0.0.0 or :: for all of them"
    )
    REMEDIES[_tried, errno.EACCES] = (
        "ports below the sysctl net.ipv4.ip_unprivileged_port_start (1024) need the capability CAP_NET_BIND_SERVICE, "
        "and a Unix socket a directory that may be written to"
    )
    REMEDIES[_tried, errno.ENOENT] = "the directory of that path does not exist: make it first"
    REMEDIES[_tried, errno.EAFNOSUPPORT] = (
        "this machine does not support that kind of address: is IPv6 switched off?"
    )


def find_remedy(tried: str, number: int | None) -> str:
    """What to do, or "" where there is nothing to say that the error does not say itself."""
    if number is None:
        return ""
    if number == errno.EMFILE:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"this process may have {soft} descriptors open and has no more: raise the limit (`ulimit -n`, "
            f"LimitNOFILE= of a systemd unit; up to {_limit(hard)} without privileges), and look for connections and "
            "files that are never closed (`ls -l /proc/PID/fd`)"
        )
    if number == errno.ENFILE:
        return "the machine has no more descriptors: raise the sysctl fs.file-max"
    if number in (errno.ENOBUFS, errno.ENOMEM):
        return "the kernel has no memory for it: see `free` and the sysctls net.core.optmem_max and net.ipv4.tcp_mem"
    return REMEDIES.get((tried, number), "")


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else str(value)


def add_remedy(exc: OSError, tried: str, address: Any = None) -> None:
    """Have the text of ``exc`` name the address, where it does not, and say what to do about it.

    :param tried: "listen", "bind", "connect", "resolve" or "start" (a process).
    :param address: what was asked for; None where there is none.
    """
    if getattr(exc, "remedy", None) is not None:
        return  # on its way up it comes by more than once
    text = str(exc.args[0] if exc.strerror is None and exc.args else exc.strerror)
    number = exc.errno
    if number is None and text.startswith("could not bind on any address"):
        # asyncio passes over what went wrong with each of them.
        number = _why_no_socket() or errno.EADDRNOTAVAIL
    if tried == "connect" and "to bind on" in text:
        tried = "bind"  # the local address it was to come from
    remedy = find_remedy(tried, number)
    exc.remedy = remedy  # type: ignore[attr-defined]
    if exc.filename is not None:  # the text ends with that
        if remedy:
            exc.add_note(remedy)
        return
    if address is not None and exc.strerror is not None and not _SHOWS_ADDRESS.search(text):
        text = f"{text}: {describe_address(address)}"
    if remedy:
        text = f"{text}; {remedy}"
    if exc.strerror is not None:
        exc.strerror = text
    elif remedy:
        exc.args = (text,)


def _why_no_socket() -> int | None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError as exc:
        return exc.errno
    return None


def insist_on_socket(create_server: Callable[..., Any]) -> Callable[..., Any]:
    """``create_server`` that fails where no socket could be made: until 3.12 asyncio's then listens nowhere and says
    nothing."""

    @functools.wraps(create_server)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        server = await create_server(self, *args, **kwargs)
        if not server.sockets:
            server.close()
            number = _why_no_socket() or errno.EAFNOSUPPORT
            raise OSError(number, os.strerror(number))
        return server

    return wrapped


def with_remedy(tried: str, method: Callable[..., Any], address_of: Callable[..., Any]) -> Any:
    """A method of the loop's base class, with errors that name the address and the remedy.

    :param address_of: gets the method's arguments (without ``self``) and returns the address, or None.
    """

    @functools.wraps(method)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(self, *args, **kwargs)
        except OSError as exc:
            add_remedy(exc, tried, address_of(*args, **kwargs))
            raise

    return wrapped


def address_of_internet(
    protocol_factory: Any = None,
    host: Any = None,
    port: Any = None,
    *,
    sock: Any = None,
    **_: Any,
) -> Any:
    """Of ``create_server`` and ``create_connection``."""
    if sock is not None:
        return _own_address(sock)
    return (str(host or "*"), port)


def address_of_unix(
    protocol_factory: Any = None, path: Any = None, *, sock: Any = None, **_: Any
) -> Any:
    """Of ``create_unix_server`` and ``create_unix_connection``."""
    return path if sock is None else _own_address(sock)


def address_of_datagram(
    protocol_factory: Any = None, local_addr: Any = None, remote_addr: Any = None, **_: Any
) -> Any:
    """Of ``create_datagram_endpoint``."""
    return local_addr or remote_addr


def address_of_name(host: Any = None, port: Any = None, **_: Any) -> Any:
    """Of ``getaddrinfo``."""
    return host


def no_address(*_: Any, **__: Any) -> None:
    """Of what has none."""


def _own_address(sock: Any) -> Any:
    try:
        return sock.getsockname() or None
    except OSError:
        return None  # closed meanwhile
