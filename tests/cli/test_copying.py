"""``clearway copy``: what is copied, what is said, and what is left when it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearway.cli import copying
from clearway.cli.copying import work
from tests.support.net import pattern
from tests.support.programs import environment

SIZE = 3_000_000
OLD = 1_600_000_000

Copy = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["auto", "epoll", "selector"])
def copy(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Copy:
    """Runs the command in this process: exit code, standard output, standard error."""

    def run(*arguments: object, quiet: bool = False) -> tuple[int, str, str]:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            options = ["--engine", request.param, *(["--quiet"] if quiet else [])]
            code = copying.main([*options, *map(str, arguments)])
        finally:
            signal.signal(signal.SIGINT, before)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "a" / "deep").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "large").write_bytes(pattern(SIZE))
    (source / "a" / "script").write_text("#!/bin/sh\n")
    (source / "a" / "script").chmod(0o750)
    (source / "a" / "deep" / "nothing").touch()
    (source / "link").symlink_to("a/script")
    (source / "broken").symlink_to("nowhere")
    with (source / "hole").open("wb") as file:
        file.truncate(1 << 30)
    for path in (source / "large", source / "a"):
        os.utime(path, (OLD, OLD))
    return source


def shape(directory: Path) -> dict[str, Any]:
    """All that a copy must keep."""
    found = {}
    for path in sorted([directory, *directory.rglob("*")]):
        status = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file() and status.st_size < 10_000_000:
            content = path.read_bytes()
        times = None if path.is_symlink() else status.st_mtime_ns
        size = None if path.is_dir() else status.st_size
        found[str(path.relative_to(directory))] = (status.st_mode, times, size, content)
    return found


def leftovers(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.name.startswith(".clearway-")]


@pytest.mark.parametrize("options", [(), ("--verify",), ("--sync",)], ids=["", "verify", "sync"])
def test_a_directory(copy: Copy, tree: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    if options == ("--verify",):
        (tree / "hole").unlink()  # a gigabyte to compare
    files = 3 if options == ("--verify",) else 4
    target = tmp_path / "target"
    code, out, err = copy(*options, tree, target)
    assert (code, err) == (0, "")
    assert shape(target) == shape(tree)
    assert re.match(rf"copied {files} files with [\d,]+ bytes, 2 links, 4 directories", out)
    assert not leftovers(tmp_path)
    if (target / "hole").exists():
        assert (target / "hole").stat().st_blocks < 1000
    # Once more, over what is there; and into what is there.
    (target / "large").write_text("other")
    assert copy(tree, tmp_path / "into", quiet=True) == (0, "", "")
    assert copy(str(tree) + "/.", target)[0] == 0
    assert copy(tree, tmp_path / "into", quiet=True) == (0, "", "")
    assert shape(tmp_path / "into" / "source") == shape(tree)


def test_a_file(copy: Copy, tree: Path, tmp_path: Path) -> None:
    code, out, _ = copy(tree / "large", tmp_path / "copy")
    assert code == 0 and f"1 files with {SIZE:,} bytes" in out
    assert (tmp_path / "copy").read_bytes() == pattern(SIZE)
    assert (tmp_path / "copy").stat().st_mtime == OLD
    # The link that is named is followed; what is replaced is the link at the target, not what it leads to.
    (tmp_path / "other").write_text("mine")
    (tmp_path / "replaced").symlink_to("other")
    assert copy(tree / "link", tmp_path / "replaced", quiet=True) == (0, "", "")
    assert (tmp_path / "replaced").read_text() == "#!/bin/sh\n"
    assert (tmp_path / "other").read_text() == "mine"
    assert stat.S_IMODE((tmp_path / "replaced").lstat().st_mode) == 0o750
    assert not leftovers(tmp_path)


def test_what_makes_no_sense(copy: Copy, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "same").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    for source, target, why in (
        (tree, tree / "a" / "new", "within"),
        (tree / "a", tmp_path, ""),
        (tree, tmp_path, "the same"),
        (tree, tmp_path / "file", "not a directory"),
        (tmp_path / "file", tmp_path / "same", "the same file"),
        (tmp_path / "fifo", tmp_path / "new", "neither"),
        (tmp_path / "nothing", tmp_path / "new", "No such file"),
        (tmp_path / "file", tmp_path / "no" / "such", "No such file"),
    ):
        before = shape(tree)
        code, _, err = copy(source, target)
        assert (code, shape(tree)) == (1 if why else 0, before), (source, target)
        assert why in err and "Traceback" not in err


def test_what_fails_is_told_and_the_rest_is_copied(
    copy: Copy, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "fifo")
    whole = work.files.copyfile

    async def fail(source: Path, *args: Any, **options: Any) -> int:
        if source.name == "script":
            raise PermissionError(13, "Permission denied", str(source))
        return await whole(source, *args, **options)

    monkeypatch.setattr(work.files, "copyfile", fail)
    target = tmp_path / "target"
    code, out, err = copy(tree, target)
    assert code == 1 and "3 files" in out
    assert re.search(r"script: Permission denied", err) and re.search(r"fifo: neither", err)
    assert (target / "large").read_bytes() == pattern(SIZE)
    assert not (target / "a" / "script").exists()
    assert not leftovers(tmp_path)


def test_a_full_disk_ends_it(
    copy: Copy, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(source: Path, *args: Any, **options: Any) -> int:
        raise OSError(28, "No space left on device", str(source))

    monkeypatch.setattr(work.files, "copyfile", fail)
    code, _, err = copy(tree, tmp_path / "target")
    assert code == 1 and "No space left on device" in err and "Traceback" not in err
    assert not leftovers(tmp_path)


def test_failing_together_leaves_nothing_over(
    copy: Copy, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = work.files.remove
    turns = 0

    async def fail(source: Path, *args: Any, **options: Any) -> int:
        raise OSError(28, "No space left on device", str(source))

    async def slowly(path: Path) -> None:
        nonlocal turns
        turns += 20
        for _ in range(turns):  # the first that fails cancels the others here
            await asyncio.sleep(0)
        await remove(path)

    monkeypatch.setattr(work.files, "copyfile", fail)
    monkeypatch.setattr(work.files, "remove", slowly)
    code, _, err = copy(tree, tmp_path / "target")
    assert code == 1 and "No space left on device" in err and "Traceback" not in err
    assert turns > 20 and not leftovers(tmp_path)


def test_a_copy_that_differs_is_not_put_in_place(
    copy: Copy, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = work.files.copyfile

    async def damage(source: Path, target: Path, **options: Any) -> int:
        size = await whole(source, target, **options)
        with target.open("r+b") as file:
            file.seek(2_000_000)
            file.write(b"?")
        return size

    monkeypatch.setattr(work.files, "copyfile", damage)
    (tmp_path / "copy").write_text("before")
    code, _, err = copy("--verify", tree / "large", tmp_path / "copy")
    assert code == 1 and "differs" in err
    assert (tmp_path / "copy").read_text() == "before"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in range(20):
        (source / str(name)).write_bytes(pattern(10_000))
    calls = 0

    def progress(account: work.Account) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(copying, "_bar", lambda *_: contextlib.nullcontext(progress))
    code, out, err = copy(source, tmp_path / "target")
    assert code == 128 + number and not out
    said = re.match(r"interrupted: (\d+) files with ([\d,]+) bytes", err)
    assert said is not None, err
    there = list((tmp_path / "target").iterdir())
    assert 0 < len(there) < 20
    assert len(there) == int(said[1])
    assert int(said[2].replace(",", "")) == 10_000 * len(there)
    assert all(path.read_bytes() == pattern(10_000) for path in there)
    unfinished = re.findall(r"source/(\d+)", err)
    assert not {path.name for path in there} & set(unfinished)
    assert not leftovers(tmp_path)


def test_a_bar_on_a_terminal(tree: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "clearway", "copy", str(tree), str(tmp_path / "target")],
            env=environment(TERM="xterm", COLUMNS="100"),
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        out, _ = process.communicate(timeout=30)
    finally:
        os.close(theirs)
    drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert process.returncode == 0 and out.startswith("copied 4 files")
    assert "4 files" in drawn and "GB" in drawn
