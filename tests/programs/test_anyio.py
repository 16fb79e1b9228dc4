"""anyio with clearway as the loop of its asyncio backend: `anyio.run` is given a factory and makes the loop itself."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.tls import TLSListener, TLSStream

from tests.support.certs import client_context, server_context
from tests.support.loops import Factory, no_descriptor_left

from .computing import ON, REFUSED, Hog

T = TypeVar("T")


def run(factory: Factory, main: Callable[[], Awaitable[T]]) -> T:
    factory.warm()
    with no_descriptor_left():
        return anyio.run(main, backend_options={"loop_factory": factory})


async def echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def echoed(stream: anyio.abc.ByteStream, data: bytes) -> bytes:
    """What comes back while it is still being sent."""
    received = bytearray()
    async with anyio.create_task_group() as group:
        group.start_soon(stream.send, data)
        while len(received) < len(data):
            received += await stream.receive()
    return bytes(received)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_streams(factory: Factory, tls: bool) -> None:
    data = bytes(range(256)) * 8000

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            server = TLSListener(listener, server_context()) if tls else listener
            group.start_soon(server.serve, echo)
            stream: SocketStream | TLSStream = await anyio.connect_tcp("127.0.0.1", port)
            if tls:
                stream = await TLSStream.wrap(
                    stream, hostname="localhost", ssl_context=client_context()
                )
            async with stream:
                assert await echoed(stream, data) == data
            group.cancel_scope.cancel()

    run(factory, main)


def test_a_truncated_tls_stream_is_an_error(factory: Factory) -> None:
    async def main() -> None:
        async def drop(stream: TLSStream) -> None:
            await stream.send(b"half")
            await stream.transport_stream.aclose()

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(TLSListener(listener, server_context()).serve, drop)
            stream = await anyio.connect_tcp(
                "127.0.0.1",
                port,
                ssl_context=client_context(),
                tls_hostname="localhost",
                tls_standard_compatible=True,
            )
            assert await stream.receive() == b"half"
            with pytest.raises(anyio.BrokenResourceError) as broken:
                await stream.receive()
            assert isinstance(broken.value.__cause__, ssl.SSLError | None)
            await anyio.aclose_forcefully(stream)
            group.cancel_scope.cancel()

    run(factory, main)


def test_unix_sockets_and_datagrams(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "socket"
        listener = await anyio.create_unix_listener(path)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_unix(path) as stream:
                assert await echoed(stream, b"x" * 500_000) == b"x" * 500_000
            group.cancel_scope.cancel()
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as server:
            port = server.extra(SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as client:
                await client.send(b"question")
                question, peer = await server.receive()
                await server.sendto(question + b" and answer", *peer)
                assert await client.receive() == b"question and answer"

    run(factory, main)


def test_cancel_scopes_and_task_groups(factory: Factory) -> None:
    async def main() -> None:
        cleaned = []

        async def sleeper(*, task_status: TaskStatus[str]) -> None:
            try:
                task_status.started("started")
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0)
                    cleaned.append("shielded")

        async def fails() -> None:
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as failed:
            async with anyio.create_task_group() as group:
                assert await group.start(sleeper) == "started"
                group.start_soon(fails)
        assert failed.group_contains(ZeroDivisionError)
        assert cleaned == ["shielded"]
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await anyio.Event().wait()

    run(factory, main)


def test_threads_call_into_the_loop_and_back(factory: Factory) -> None:
    async def main() -> None:
        async def double(number: int) -> int:
            await anyio.sleep(0)
            return 2 * number

        def in_thread(number: int) -> int:
            return anyio.from_thread.run(double, number) + anyio.from_thread.run_sync(int, "1")

        results: dict[int, int] = {}

        async def work(number: int) -> None:
            results[number] = await anyio.to_thread.run_sync(in_thread, number)

        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(work, number)
        assert results == {number: 2 * number + 1 for number in range(30)}

    run(factory, main)


def test_a_portal_from_a_program_without_a_loop(factory: Factory) -> None:
    async def main() -> str:
        await anyio.sleep(0)
        return "through the portal"

    with anyio.from_thread.start_blocking_portal(
        backend_options={"loop_factory": lambda: factory(preempt="report")}
    ) as portal:
        assert portal.call(main) == "through the portal"
        assert portal.start_task_soon(main).result() == "through the portal"


def test_processes(factory: Factory) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)"

    async def main() -> None:
        command = [sys.executable, "-c", code]
        done = await anyio.run_process(command, input=b"spoken", check=False)
        assert (done.returncode, done.stdout) == (3, b"SPOKEN")
        with pytest.raises(subprocess.CalledProcessError):
            await anyio.run_process(command)
        async with await anyio.open_process(["sleep", "3600"]) as process:
            process.terminate()
            assert await process.wait() == -signal.SIGTERM

    run(factory, main)


def test_signals_and_files(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            signal.raise_signal(signal.SIGUSR2)
            async for number in signals:
                assert number == signal.SIGUSR2
                break
        path = anyio.Path(tmp_path / "file")
        await path.write_text("one\ntwo\n")
        async with await anyio.open_file(path) as file:
            assert [line async for line in file] == ["one\n", "two\n"]

    run(factory, main)


@pytest.mark.skipif(REFUSED is not None, reason=str(REFUSED))
def test_a_stream_is_echoed_while_a_task_computes(clearway_factory: Factory) -> None:
    async def main() -> None:
        hog = Hog()
        results = []

        async def compute() -> None:
            results.append(hog.compute())

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            stream = await anyio.connect_tcp(
                "127.0.0.1", listener.extra(SocketAttribute.local_port)
            )
            async with stream, anyio.create_task_group() as computing:
                computing.start_soon(compute)
                while not hog.started:
                    await anyio.sleep(0)
                for n in range(20):
                    assert await echoed(stream, b"%d" % n) == b"%d" % n
                hog.release()
            group.cancel_scope.cancel()
        assert results == [True]

    options = {"loop_factory": lambda: clearway_factory(**ON)}
    anyio.run(main, backend_options=options)
