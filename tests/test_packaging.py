"""The wheel and the sdist: built, installed in an empty environment, and run there."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

from .support.programs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.limit(900)]

PROOF = """
import asyncio, sys, clearway
from clearway import _compiled
assert not clearway.__file__.startswith(sys.argv[1]), clearway.__file__

class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    return loop._engine.name

print(clearway.run(main(), **eval(sys.argv[2])), len(_compiled.uncompiled_modules()))
"""


def check(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def clean_environment(**changes):
    import os

    hidden = ("PYTHON", "CLEARWAY", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    env.update(changes)
    return env


def empty_environment(where: pathlib.Path) -> pathlib.Path:
    venv.create(where, with_pip=True)
    return where / "bin" / "python"


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist of this tree, and the wheel that is built from the sdist and nothing else."""
    where = tmp_path_factory.mktemp("dist")
    builder = empty_environment(where / "builder")
    check(builder, "-m", "pip", "install", "-q", "build", env=clean_environment())
    # A copy of what is tracked: a tree in which nothing was ever built.
    source = where / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = where / "out"
    check(builder, "-m", "build", "-o", out, source, env=clean_environment())
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_what_runs_and_nothing_else(dist):
    names = zipfile.ZipFile(dist[1]).namelist()
    assert "clearway/py.typed" in names
    assert any(name.endswith(".so") for name in names)
    # The load generator is compiled on the machine that runs the demo: it is data.
    data = {"clearway/cli/_httpload.c", "clearway/cli/_loadgen.h"}
    wrong = [name for name in names if name.endswith((".c", ".pyx", ".h", ".o"))]
    assert set(wrong) <= data
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clearway"}


def test_the_sdist_holds_what_builds(dist):
    with tarfile.open(dist[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src/clearway/py.typed"):
        assert needed in names
    assert any(name.endswith(".pyx") for name in names)
    assert any(name.endswith(".pxd") for name in names)
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_the_wheel_installs_and_runs_in_an_empty_environment(dist, tmp_path):
    python = empty_environment(tmp_path / "venv")
    env = clean_environment()
    check(python, "-m", "pip", "install", "-q", dist[1], env=env)
    requirements = check(python, "-m", "pip", "list", "--format=freeze", env=env).lower()
    installed = {line.partition("==")[0] for line in requirements.split()}
    assert installed - {"pip", "setuptools", "wheel"} == {"clearway", "greenlet"}
    for options in ({}, {"engine": "epoll"}):
        said = check(python, "-c", PROOF, ROOT, options, cwd=tmp_path, env=env)
        engine, uncompiled = said.split()
        assert uncompiled == "0", "the wheel's modules are not the compiled ones"
        assert engine == options.get("engine", engine)
    assert check(tmp_path / "venv/bin/clearway", "--help", env=env)


def test_an_uncompiled_installation_runs_on_epoll(dist, tmp_path):
    python = empty_environment(tmp_path / "venv")
    env = clean_environment(CLEARWAY_SKIP_CYTHON="1")
    check(python, "-m", "pip", "install", "-q", dist[0], env=env)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages/clearway"))
    assert not list(site.rglob("*.so"))
    engine, uncompiled = check(
        python, "-c", PROOF, ROOT, "{}", cwd=tmp_path, env=clean_environment()
    ).split()
    assert engine == "epoll" and int(uncompiled) > 0
    refused = subprocess.run(
        [python, "-c", PROOF, ROOT, "{'engine': 'uring'}"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "uring" in refused.stderr and "compile" in refused.stderr.lower(), refused.stderr
    assert "epoll" in refused.stderr, "the message says what to do"


def test_a_failed_compile_fails_the_build(dist, tmp_path):
    with tarfile.open(dist[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (victim,) = (source / "src/clearway").glob("steps.py")
    victim.write_text(victim.read_text() + "\nthis is no Python\n")
    python = empty_environment(tmp_path / "venv")
    done = subprocess.run(
        [python, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, source],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.whl"))
    assert sys.version_info >= (3, 11)
