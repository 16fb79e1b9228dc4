"""Opening streams: to an address, on a socket, on what asyncio has."""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from typing import Any

from clearway.streams._body import Body, EngineBody
from clearway.streams._sockets import SocketBody
from clearway.streams._transports import TransportBody
from clearway.streams.errors import StreamError
from clearway.streams.stream import ByteStream


async def connect(
    host: str,
    port: int,
    *,
    ssl: ssl_module.SSLContext | bool | None = None,
    server_hostname: str | None = None,
    local_addr: tuple[str, int] | None = None,
) -> ByteStream:
    """Open a TCP connection; the addresses of ``host`` are tried one after the other.

    :param ssl: a context, or True for the default one: TLS. Its bytes are copied by the encryption, and counted.
    :param server_hostname: whose certificate it must be. Default: ``host``.
    :param local_addr: where to connect from.
    :raises OSError: no address could be connected to; the error of each is in the text.
    :raises ssl.SSLError: TLS could not be agreed upon.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    errors: list[OSError] = []
    for family, kind, proto, _, address in infos:
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            if local_addr is not None:
                sock.bind(local_addr)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            errors.append(exc)
        except BaseException:
            sock.close()
            raise
        else:
            return await _open(sock, ssl, server_hostname or host, False)
    if not errors:
        raise OSError(f"{host!r} has no address")
    if len(errors) == 1:
        raise errors[0]
    raise OSError(errors[0].errno, "; ".join(str(exc) for exc in errors))


async def connect_unix(
    path: str | bytes,
    *,
    ssl: ssl_module.SSLContext | bool | None = None,
    server_hostname: str | None = None,
) -> ByteStream:
    """Open a connection to a Unix socket (a path, or an abstract name that begins with a zero byte).

    :raises OSError: nobody listens there. :raises ValueError: TLS without ``server_hostname``.
    """
    if ssl and server_hostname is None:
        raise ValueError(
            "TLS over a Unix socket needs server_hostname: whose certificate it must be"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return await _open(sock, ssl, server_hostname, False)


def from_socket(sock: socket.socket) -> ByteStream:
    """A stream on a connected stream socket, which is the stream's from here on. It is made non-blocking.

    :raises ValueError: it is not a stream socket. :raises RuntimeError: a transport of the loop is using it.
    """
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"a stream socket was expected, got {sock!r}")
    if isinstance(sock, ssl_module.SSLSocket):
        raise TypeError(
            "an SSLSocket cannot be used: give the plain socket, and TLS by connect(ssl=...)"
        )
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body: Body = EngineBody(loop, sock) if hasattr(loop, "_engine") else SocketBody(loop, sock)
    return ByteStream(body)


def from_transport(transport: asyncio.Transport) -> ByteStream:
    """A stream on a transport, in the place of its protocol. What the transport copies is counted.

    The protocol hears of the end of the connection, and of nothing else.

    :raises StreamError: the transport is closing.
    """
    return _take_over(transport, b"", False)


def from_asyncio(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ByteStream:
    """A stream on an asyncio reader and writer, which are not to be used any more. What was received comes first.

    :raises StreamError: the connection is closing, or somebody is reading.
    """
    if reader._waiter is not None:  # type: ignore[attr-defined]
        raise StreamError("a task is reading from the StreamReader")
    buffer: bytearray = reader._buffer  # type: ignore[attr-defined]
    early = bytes(buffer)
    stream = _take_over(writer.transport, early, reader._eof)  # type: ignore[attr-defined]
    buffer.clear()
    return stream


def _take_over(transport: Any, early: bytes, ended: bool) -> ByteStream:
    if transport.is_closing():
        raise StreamError(f"{transport!r} is closing")
    body = TransportBody()
    body.take_over(transport, early, ended)
    return ByteStream(body)


async def _open(
    sock: socket.socket,
    ssl: ssl_module.SSLContext | bool | None,
    server_hostname: str | None,
    server_side: bool,
) -> ByteStream:
    """A stream on a new socket, encrypted if ``ssl`` says so. The socket is closed where that fails."""
    try:
        if not ssl:
            return from_socket(sock)
        loop = asyncio.get_running_loop()
        body = TransportBody()
        if server_side:
            await loop.connect_accepted_socket(lambda: body, sock, ssl=ssl)
        else:
            await loop.create_connection(
                lambda: body, sock=sock, ssl=ssl, server_hostname=server_hostname
            )
        return ByteStream(body)
    except BaseException:
        sock.close()
        raise
