"""Third-party code in which a step is not suspended (rule U7), by module, each with its reason.

A row is there where the module's own code changes state that several tasks share, and nothing but run-to-completion
between awaits protects it: connections with several streams, pools, parsers, buffers, state machines. Code of a library
that only one task at a time can be in has none (httpx, starlette, psycopg, aiosqlite). Most rows were found by
shuffling the library (``tests/programs/test_shuffled.py`` has a dozen). Those of event loops and schedulers, and
``_OF_THEIR_KIND``, are there for what they are, without having been run.

A library that is missing here shows under ``clearway.testing.shuffle``; ``clearway.deny`` adds it.
"""

from __future__ import annotations

#: Clients and servers that talk a protocol over a connection which several tasks share, as those above do.
_OF_THEIR_KIND: tuple[str, ...] = (
    "aio_pika",
    "aiokafka",
    "aiomysql",
    "aiormq",
    "asyncmy",
    "discord",
    "engineio",
    "motor",
    "nats",
    "pymongo",
    "slixmpp",
    "socketio",
    "telethon",
)

#: Module (and everything below it), or a part of one -> why a step must not be suspended in it.
LIBRARIES: dict[str, str] = {
    "aioftp": "throttles and connections are walked through while others come and go",
    "aiohttp._websocket": "a frame half written, or half read",
    "aiohttp.client_proto": "a parser in the middle of a chunk",
    "aiohttp.connector": "the connection pool relies on run-to-completion between awaits",
    "aiohttp.cookiejar": "one jar is shared by all requests of a session",
    "aiohttp.streams": "reader and waiter change together",
    "aiohttp.web_protocol": "a parser in the middle of a message",
    "aiohttp.web_server": "connections are counted while they come and go",
    "aiohttp.web_ws": "looks whether the connection is there, then uses it",
    "aioquic": "the streams of a connection share its state",
    "aiosmtplib": "looks whether the connection is there, then uses it",
    "anyio": "its primitives rely on run-to-completion between awaits",
    "asyncpg": "the protocol state changes together with the socket",
    "asyncssh": "the channels of a connection share its state",
    "curio": "an event loop of its own",
    "distributed": "its state machines rely on run-to-completion between awaits",
    "eventlet": "a scheduler of its own",
    "gevent": "a scheduler of its own",
    "greenlet": "switching stacks beneath a switch",
    "h11": "a parser in the middle of a message",
    "h2": "the streams of a connection share its state",
    "hpack": "header tables are only right if both sides change them in the same order",
    "httpcore": "the connection pool relies on run-to-completion between awaits",
    "hypercorn": "the streams of a connection share its state",
    "hyperframe": "a parser in the middle of a frame",
    "priority": "a tree that is rebuilt in place",
    "prompt_toolkit": "a screen half drawn, or half its input taken",
    "redis": "the connection pool relies on run-to-completion between awaits",
    "sanic.http": "a parser in the middle of a message",
    "sanic.server": "tasks are started before what they need is there",
    "sniffio": "a thread-local switched around calls",
    "sqlalchemy": "sessions and pools rely on run-to-completion between awaits",
    "textual": "a screen half drawn, or a message half passed on",
    "tornado.concurrent": "results and callbacks change together",
    "tornado.http1connection": "a parser in the middle of a message",
    "tornado.iostream": "what the socket took is dropped from the buffer after it was sent",
    "tornado.locks": "waiters and the count change together",
    "tornado.queues": "getters and items change together",
    "tornado.simple_httpclient": "requests are queued and taken off the queue in steps that belong together",
    "tornado.websocket": "a frame half written, or half read",
    "trio": "an event loop of its own",
    "twisted": "everything runs within one run of its reactor",
    "uvicorn.protocols": "a parser in the middle of a message",
    "uvloop": "an event loop of its own",
    "websockets": "a parser in the middle of a frame",
    "wsproto": "a parser in the middle of a frame",
    "zmq": "its descriptor tells of a change once: whoever has looked must act on it",
    **dict.fromkeys(_OF_THEIR_KIND, "a connection that several tasks share"),
}
