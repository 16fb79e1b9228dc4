"""asyncio's public surface, enumerated on the running Python and held against clearway's.

Whatever a later Python adds to the loop, a transport, a server or a handle is missed here at once. What is lacking or
different on purpose stands in the tables below with its reason, and in docs/differences.md.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from asyncio import base_events, selector_events, sslproto, unix_events
from collections.abc import Callable
from typing import Any

import pytest

import clearway
from clearway.loop.transports.datagram import DatagramTransport
from clearway.loop.transports.pipe import ReadPipeTransport, WritePipeTransport
from clearway.loop.transports.process import SubprocessTransport
from clearway.loop.transports.stream import StreamTransport
from clearway.loop.transports.tls import TLSTransport
from clearway.steps import Handle
from clearway.timers.heap import TimerHandle

from ...support.certs import client_context, server_context
from ...support.loops import run
from ...support.net import settle, tcp_pair, unix_pair

#: (asyncio's, clearway's, public names that clearway's lacks on purpose).
CLASSES: list[tuple[type, type, set[str]]] = [
    (asyncio.AbstractEventLoop, clearway.EventLoop, set()),
    (asyncio.SelectorEventLoop, clearway.EventLoop, set()),
    (asyncio.Handle, Handle, set()),
    (asyncio.TimerHandle, TimerHandle, set()),
    # max_size: bytes of one read; the engine has its own sizes.
    (selector_events._SelectorSocketTransport, StreamTransport, {"max_size"}),  # type: ignore[attr-defined]
    (selector_events._SelectorDatagramTransport, DatagramTransport, set()),  # type: ignore[attr-defined]
    (unix_events._UnixReadPipeTransport, ReadPipeTransport, set()),
    (unix_events._UnixWritePipeTransport, WritePipeTransport, set()),  # type: ignore[attr-defined]
    (sslproto._SSLProtocolTransport, TLSTransport, set()),  # type: ignore[attr-defined]
    (unix_events._UnixSubprocessTransport, SubprocessTransport, set()),  # type: ignore[attr-defined]
]

#: Parameters that clearway adds, all of them optional and by keyword.
ADDED = {"create_task": {"priority", "weight", "preemptible"}}


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def described(function: Callable[..., Any], leave_out: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Its parameters as (name, kind, default), annotations aside."""
    return [
        f"{p.kind.name} {p.name} {'' if p.default is p.empty else repr(p.default)}"
        for p in inspect.signature(function).parameters.values()
        if p.name not in leave_out
    ]


def names(parameters: list[tuple[type, type, set[str]]]) -> list[str]:
    return [f"{theirs.__name__}-{ours.__name__}" for theirs, ours, _ in parameters]


@pytest.mark.parametrize(("theirs", "ours", "lacking"), CLASSES, ids=names(CLASSES))
def test_every_public_name_is_there(theirs: type, ours: type, lacking: set[str]) -> None:
    missing = {name for name in public(theirs) if not hasattr(ours, name)}
    assert missing == lacking


@pytest.mark.parametrize(("theirs", "ours", "lacking"), CLASSES, ids=names(CLASSES))
def test_every_method_takes_the_same_arguments(theirs: type, ours: type, lacking: set[str]) -> None:
    if theirs is asyncio.AbstractEventLoop:
        # Its signatures are no promise: asyncio's own loops do not keep to them.
        theirs = asyncio.SelectorEventLoop
    different = {}
    for name in public(theirs):
        if name in lacking or not callable(getattr(theirs, name)):
            continue
        expected = described(getattr(theirs, name))
        got = described(getattr(ours, name), ADDED.get(name, set()))
        if got != expected:
            different[name] = (got, expected)
    if theirs is asyncio.SelectorEventLoop:
        got, expected = different.pop("create_task")
        # Passed on as they are: the names are those of the running Python.
        assert [p for p in got if "VAR_KEYWORD" not in p] == expected[: len(got) - 1]
    assert not different


@pytest.mark.parametrize(("theirs", "ours", "lacking"), CLASSES, ids=names(CLASSES))
def test_what_is_a_coroutine_function_is_one(theirs: type, ours: type, lacking: set[str]) -> None:
    for name in public(theirs):
        if name not in lacking:
            expected = inspect.iscoroutinefunction(getattr(theirs, name))
            assert inspect.iscoroutinefunction(getattr(ours, name)) == expected, name


def test_servers_and_policies_are_asyncio_s_own(clearway_factory):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        assert type(server) is base_events.Server
        assert isinstance(server, asyncio.AbstractServer)
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(loop, asyncio.BaseEventLoop)
        future = loop.create_future()
        assert type(future) is asyncio.Future and future.get_loop() is loop
        future.cancel()
        assert type(asyncio.current_task()) is asyncio.Task
        server.close()
        await server.wait_closed()

    run(clearway_factory, main)


# ---- what a transport is and tells, by kind ---------------------------------------------------


async def of_stream(pair: Any) -> tuple[Any, Callable[[], None]]:
    ours, peer = pair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    return transport, peer.close


async def tcp() -> tuple[Any, Callable[[], None]]:
    return await of_stream(tcp_pair)


async def unix() -> tuple[Any, Callable[[], None]]:
    return await of_stream(unix_pair)


async def datagram() -> tuple[Any, Callable[[], None]]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    return transport, int


async def unix_datagram() -> tuple[Any, Callable[[], None]]:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, sock=ours
    )
    return transport, peer.close


async def read_pipe() -> tuple[Any, Callable[[], None]]:
    r, w = os.pipe()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        asyncio.Protocol, os.fdopen(r, "rb", 0)
    )
    return transport, lambda: os.close(w)


async def write_pipe() -> tuple[Any, Callable[[], None]]:
    r, w = os.pipe()
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(
        asyncio.Protocol, os.fdopen(w, "wb", 0)
    )
    return transport, lambda: os.close(r)


async def process() -> tuple[Any, Callable[[], None]]:
    transport, _ = await asyncio.get_running_loop().subprocess_exec(
        asyncio.SubprocessProtocol, "cat"
    )
    return transport, transport.get_pipe_transport(0).close


async def tls() -> tuple[Any, Callable[[], None]]:
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    theirs.setblocking(False)
    client = loop.create_connection(
        asyncio.Protocol, sock=theirs, ssl=client_context(), server_hostname="localhost"
    )
    server = loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=server_context())
    (transport, _), (peer, _) = await asyncio.gather(client, server)
    return transport, peer.abort


KINDS = [tcp, unix, datagram, unix_datagram, read_pipe, write_pipe, process, tls]

#: What ``get_extra_info`` knows: docs.python.org/3/library/asyncio-protocol.html#asyncio.BaseTransport.get_extra_info.
INFO = (
    "peername",
    "socket",
    "sockname",
    "compression",
    "cipher",
    "peercert",
    "sslcontext",
    "ssl_object",
    "pipe",
    "subprocess",
)

ABSTRACT = (
    asyncio.BaseTransport,
    asyncio.ReadTransport,
    asyncio.WriteTransport,
    asyncio.Transport,
    asyncio.SubprocessTransport,
)


async def tell(make: Any) -> dict[str, Any]:
    """What a transport of this kind says of itself."""
    transport, done = await make()
    private = set(transport._extra) if hasattr(transport, "_extra") else set()
    told = {
        "kinds": [isinstance(transport, kind) for kind in ABSTRACT],
        "subclass": [issubclass(transport.__class__, kind) for kind in ABSTRACT],
        "info": {name: type(transport.get_extra_info(name)).__name__ for name in INFO},
        # What is in it besides, when asked for by a name that clearway does not know of.
        "other": private - set(INFO),
        "protocol": type(transport.get_protocol()).__name__,
        "closing": transport.is_closing(),
        "repr": (repr(transport)[0], repr(transport)[-1]),
        "methods": {name for name in public(type(transport)) if callable(getattr(transport, name))},
    }
    if make is not process:
        transport.abort() if hasattr(transport, "abort") else transport.close()
    done()
    while make is process and transport.get_returncode() is None:
        await settle()
    await settle()
    transport.close()
    await settle()
    return told


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_a_transport_tells_of_itself(factories, make):
    control, *others = factories
    expected = run(control, lambda: tell(make))
    for factory in others:
        got = run(factory, lambda: tell(make))
        assert expected["methods"] - got["methods"] <= {"max_size"}
        assert got["other"] <= {"close_notify"}
        for key in expected.keys() - {"methods", "other"}:
            assert got[key] == expected[key]


def test_a_loop_s_repr(factories):
    for factory in factories:
        loop = factory()
        before = repr(loop)
        loop.close()
        for text, closed in ((before, False), (repr(loop), True)):
            assert text.startswith("<") and text.endswith(">")
            for part in ("running=False", f"closed={closed}", "debug=False"):
                assert part in text
