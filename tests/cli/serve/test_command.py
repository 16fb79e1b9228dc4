"""``clearway serve`` as people use it: a command, and clients that know nothing of us."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.cli.command import clearway
from tests.support.net import pattern
from tests.support.programs import environment

LARGE = 5_000_000


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "large.bin").write_bytes(pattern(LARGE))
    (tmp_path / "page.html").write_text("<p>hello")
    return tmp_path


@contextmanager
def command(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run it on a free port; gives the process and the address it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "clearway", "serve", str(directory), "--port", "0", *options],
        # A stalled machine is reported on stderr, in the default mode; here nothing but our own words is to be there.
        env=environment(CLEARWAY_PREEMPT="off"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        said = re.search(r"http://\S+/", process.stdout.readline())
        if said is None:
            raise AssertionError(process.communicate()[1])
        yield process, said[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], number: int) -> tuple[str, str]:
    process.send_signal(number)
    said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("engine", ["auto", "epoll", "selector"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_serves_and_ends(site: Path, engine: str, number: int) -> None:
    with command(site, "--engine", engine) as (process, address):
        with httpx.Client(base_url=address) as client:
            assert client.get("page.html").text == "<p>hello"
            assert client.get("large.bin").content == pattern(LARGE)
            assert client.get('no"%0A').status_code == 404
            # The connection stays open, and does not keep the server.
            out, errors = finish(process, number)
        assert not errors
        lines = out.splitlines()
        assert '"GET /page.html" 200 8 ' in lines[0]
        assert f'"GET /large.bin" 200 {LARGE} ' in lines[1]
        assert '"GET /no%22%0A" 404 ' in lines[2]


def test_curl(site: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with command(site, "--quiet") as (process, address):

        def curl(*options: str) -> bytes:
            done = subprocess.run(["curl", "-sS", *options], capture_output=True, timeout=20)
            assert done.returncode == 0, done.stderr
            return done.stdout

        digest = hashlib.sha256(pattern(LARGE)).digest()
        assert hashlib.sha256(curl(address + "large.bin")).digest() == digest
        # What a broken download is gone on with.
        part = site.parent / "part"
        part.write_bytes(pattern(LARGE)[:1_234_567])
        curl("-C", "-", "-o", str(part), address + "large.bin")
        assert part.read_bytes() == pattern(LARGE)
        assert b"404" in curl("-o", "/dev/null", "-w", "%{http_code}", address + "nothing")
        assert b"200" in curl("--http2", "-o", "/dev/null", "-w", "%{http_code}", address)
        fresh = curl("-z", str(site / "page.html"), "-w", "%{http_code}", address + "page.html")
        assert fresh == b"304"
        out, errors = finish(process, signal.SIGTERM)
        assert not out and not errors


def test_many_clients_at_once(site: Path) -> None:
    async def main(address: str) -> None:
        async with aiohttp.ClientSession(address) as session:

            async def fetch(number: int) -> None:
                start = number * 1000
                headers = {"Range": f"bytes={start}-"} if number % 2 else {}
                async with session.get("/large.bin", headers=headers) as response:
                    data = await response.read()
                    assert data == pattern(LARGE)[start if headers else 0 :]

            await asyncio.gather(*(fetch(number) for number in range(40)))

    with command(site, "--quiet", "--preempt", "on") as (process, address):
        asyncio.run(main(address))
        finish(process, signal.SIGINT)


def test_a_gigabyte_holds_memory_flat(site: Path) -> None:
    size = 1 << 30
    with (site / "huge").open("wb") as file:
        file.truncate(size)  # a hole: no disk is needed
    with command(site, "--quiet") as (process, address):

        def peak_kib() -> int:
            status = Path(f"/proc/{process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]

        with httpx.Client(base_url=address) as client:
            client.get("large.bin")
            before = peak_kib()
            received = 0
            with client.stream("GET", "huge") as response:
                for part in response.iter_raw(1 << 20):
                    received += len(part)
            assert received == size
            assert peak_kib() - before < 4096
        finish(process, signal.SIGTERM)


def test_a_second_signal_does_not_wait(site: Path) -> None:
    with (site / "huge").open("wb") as file:
        file.truncate(1 << 28)  # more than buffers hold
    with (
        command(site, "--quiet", "--grace", "100s") as (process, address),
        httpx.Client(base_url=address, timeout=20) as client,
        client.stream("GET", "huge") as response,
    ):
        assert response.status_code == 200
        process.send_signal(signal.SIGTERM)
        # It listens no more once it has seen the first.
        while True:
            try:
                httpx.get(address)
            except httpx.TransportError:
                break
        assert process.poll() is None
        finish(process, signal.SIGTERM)


def test_what_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = clearway("serve", str(tmp_path / "nothing"), "--port", "0")
    assert done.returncode == 1 and "nothing" in done.stderr and "Traceback" not in done.stderr
    done = clearway("serve", str(tmp_path / "file"), "--port", "0")
    assert done.returncode == 1 and "Not a directory" in done.stderr
    with command(tmp_path) as (_, address):
        port = address.rsplit(":", 1)[1].strip("/")
        done = clearway("serve", str(tmp_path), "--port", port)
        assert done.returncode == 1 and "in use" in done.stderr
    for wrong in (["--port", "70000"], ["--max-connections", "0"], ["--port", "x"]):
        assert clearway("serve", str(tmp_path), *wrong).returncode == 2


def test_without_its_parser(tmp_path: Path) -> None:
    (tmp_path / "httptools.py").write_text("raise ImportError('not here')")
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda n, *a: None if n == 'httptools' else find(n, *a);"
        "from clearway.cli import main; sys.exit(main(['serve', '.']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    assert "pip install 'clearway[serve]'" in done.stderr
    assert os.linesep in done.stderr
