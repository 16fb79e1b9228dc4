"""Random programs of transport, timer and callback operations: the same trace on every loop.

A program drives both ends of a Unix socket pair, and after each operation waits until the loop has seen what it brought
about, so that nothing depends on the clock or on the order of independent descriptors.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import os
import socket
import sys
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ...support.net import settle, small_buffers, unix_pair
from .harness import StreamTracer, Trace, compare

SIZES = st.sampled_from([0, 1, 1000, 100_000, 400_000])

OPERATIONS = st.one_of(
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("writelines"), st.lists(SIZES, max_size=3)),
    st.tuples(st.just("send"), st.integers(1, 5000)),
    st.tuples(st.sampled_from(["timers", "soon"]), st.lists(st.integers(0, 3), max_size=4)),
    st.tuples(
        st.sampled_from(
            [
                "pause",
                "resume",
                "write_eof",
                "close",
                "abort",
                "drain",
                "shutdown",
                "peer_close",
                "swap",
            ]
        ),
        st.none(),
    ),
)

PROGRAMS = st.tuples(
    st.booleans(),  # what eof_received returns
    st.sampled_from([None, "close", "abort", "pause", "raise"]),  # what data_received does
    # Not so little that what io_uring holds back until the end of the step goes above it: docs/differences.md.
    st.sampled_from([50_000, 10_000_000]),  # when writing pauses
    st.lists(OPERATIONS, min_size=1, max_size=12),
)


# The first releases of 3.12 and 3.13 forget to pause in it (CVE-2024-12254), so it is no oracle there.
_writelines = asyncio.selector_events._SelectorSocketTransport.writelines
PAUSES_IN_WRITELINES = (
    sys.version_info < (3, 12) or "_maybe_pause_protocol" in _writelines.__code__.co_names
)


class Merging(Trace):
    """How received bytes are cut is nobody's promise: consecutive pieces are one."""

    received = 0

    def __call__(self, *what: Any) -> None:
        if what[0].endswith(".data"):
            self.received += len(what[1])
            return
        if self.received:
            super().__call__("received", self.received)
            self.received = 0
        # A peer that goes away makes reading and writing fail, each with its own error; which of them is first told of
        # is the kernel's choice on io_uring: docs/differences.md.
        gone = (ConnectionResetError, BrokenPipeError)
        super().__call__(*("gone" if isinstance(item, gone) else item for item in what))


async def interpret(plain: Trace, program: tuple[bool, str | None, int, list[Any]]) -> None:
    keep_open, on_data, limit, operations = program
    loop = asyncio.get_running_loop()
    trace = Merging()
    trace.lines = plain.lines
    ours, peer = unix_pair()
    small_buffers(ours, peer)
    peer.setblocking(False)

    def data(p: StreamTracer, chunk: bytes) -> None:
        if on_data == "raise":
            raise RuntimeError("data")
        if on_data is not None:
            getattr(p.transport, "pause_reading" if on_data == "pause" else on_data)()

    protocols = [StreamTracer(trace, name, data=data, eof=lambda p: keep_open) for name in "ab"]
    transport, _ = await loop.connect_accepted_socket(lambda: protocols[0], sock=ours)
    protocols[1].transport = transport
    transport.set_write_buffer_limits(limit)
    for name, value in operations:
        if protocols[0].lost.done() or protocols[1].lost.done():
            break  # what a transport does afterwards: test_streams
        trace(name)
        if name == "write":
            trace.call("write", transport.write, bytes(value))
        elif name == "writelines" and not PAUSES_IN_WRITELINES:
            trace.call("write", transport.write, bytes(sum(value)))
        elif name == "writelines":
            trace.call("writelines", transport.writelines, [bytes(size) for size in value])
        elif name == "timers":
            now = loop.time()
            last = loop.create_future()
            for number in value:
                loop.call_at(now + number / 10_000, trace, "timer", number)
            loop.call_at(now + 0.0004, last.set_result, None)
            await last
        elif name == "soon":
            handles = [loop.call_soon(trace, "soon", number) for number in value]
            for handle, number in zip(handles, value, strict=True):
                if number == 0:
                    handle.cancel()
        elif name == "pause":
            transport.pause_reading()
        elif name == "resume":
            transport.resume_reading()
        elif name in ("write_eof", "close", "abort"):
            trace.call(name, getattr(transport, name))
        elif name == "swap":
            transport.set_protocol(protocols[1])
        elif name == "drain":
            trace("drained", await drain(peer))
        elif peer.fileno() >= 0:
            if name == "send":
                try:
                    peer.send(bytes(value))
                except OSError as exc:
                    trace("send", exc)
            elif name == "shutdown":
                try:
                    peer.shutdown(socket.SHUT_WR)
                except OSError as exc:
                    trace("shutdown", exc)
            else:
                peer.close()
        await settle()
        trace("closing", transport.is_closing(), "reading", transport.is_reading())
    if not (protocols[0].lost.done() or protocols[1].lost.done()):
        transport.abort()
    await settle()
    peer.close()
    for protocol in protocols:
        protocol.lost.cancel()
    trace("end")


async def drain(peer: socket.socket) -> int:
    """Read all there is, and what the loop sends into the room that makes."""
    total = 0
    quiet = 0
    while peer.fileno() >= 0 and quiet < 2:
        try:
            count = len(peer.recv(1 << 20))
        except OSError:
            count = 0
        total += count
        quiet = 0 if count else quiet + 1
        await settle(1)
    return total


# CI runs the same programs each time; `CLEARWAY_EXAMPLES=10000 pytest ...` as many as one has time for, never the same
# (hypothesis prints what reproduces a failure).
EXAMPLES = int(os.environ.get("CLEARWAY_EXAMPLES", "0"))


@settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    print_blob=True,
    # Shrinking is worth its minute only where somebody waits for it.
    phases=(Phase.explicit, Phase.reuse, Phase.generate) + ((Phase.shrink,) if EXAMPLES else ()),
)
@given(PROGRAMS)
def test_random_programs(factories, program):
    keep_open, *_, operations = program
    # After eof_received() returned True asyncio calls it again when reading is resumed: docs/differences.md.
    if keep_open:
        operations[:] = [operation for operation in operations if operation[0] != "resume"]

    async def main(trace: Trace) -> None:
        await interpret(trace, program)

    compare(factories, main)
