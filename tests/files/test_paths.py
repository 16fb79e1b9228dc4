"""The functions of os that touch the disk: their results and errors, on every loop."""

from __future__ import annotations

import asyncio
import os

import pytest

from clearway import files

from ..support.loops import run


def test_looking(factory, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    link = tmp_path / "link"
    link.symlink_to(file)

    async def main():
        assert await files.stat(file) == os.stat(file)
        assert await files.stat(link) == os.stat(file)
        assert await files.stat(link, follow_symlinks=False) == os.lstat(link)
        assert await files.lstat(link) == os.lstat(link)
        assert await files.readlink(link) == str(file)
        assert await files.realpath(link) == os.path.realpath(file)
        assert await files.getsize(link) == 5
        assert await files.samefile(file, link)
        assert await files.access(file, os.R_OK)
        assert (await files.statvfs(tmp_path)).f_bsize == os.statvfs(tmp_path).f_bsize
        for function in (files.exists, files.isfile, files.isdir, files.islink):
            control = getattr(os.path, function.__name__)
            for path in (file, link, tmp_path, tmp_path / "none", os.fsencode(file)):
                assert await function(path) == control(path)
        with pytest.raises(FileNotFoundError) as caught:
            await files.stat(tmp_path / "none")
        assert caught.value.filename == os.fspath(tmp_path / "none")

    run(factory, main)


def test_changing(factory, tmp_path):
    one, two, directory = tmp_path / "one", tmp_path / "two", tmp_path / "directory"
    one.write_bytes(b"1")

    async def main():
        await files.mkdir(directory, 0o700)
        assert directory.stat().st_mode & 0o777 == 0o700
        await files.makedirs(directory / "a" / "b")
        await files.makedirs(directory / "a" / "b", exist_ok=True)
        await files.rename(one, two)
        assert two.read_bytes() == b"1" and not one.exists()
        await files.replace(os.fsencode(two), os.fsencode(one))
        await files.link(one, two)
        assert one.stat().st_nlink == 2
        await files.remove(two)
        await files.symlink("one", two)
        assert os.readlink(two) == "one"
        await files.unlink(two)
        await files.chmod(one, 0o600)
        assert one.stat().st_mode & 0o777 == 0o600
        await files.chown(one, os.getuid(), -1)
        await files.utime(one, (1, 2))
        assert (one.stat().st_atime, one.stat().st_mtime) == (1, 2)
        await files.utime(one, ns=(3, 4))
        assert one.stat().st_mtime_ns == 4
        await files.truncate(one, 100)
        assert one.stat().st_size == 100
        await files.rmdir(directory / "a" / "b")
        await files.rmtree(directory)
        assert os.listdir(tmp_path) == ["one"]

    run(factory, main)


def test_errors_are_those_of_os(factory, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_bytes(b"")
    none = tmp_path / "none"
    calls = [
        ("mkdir", (file,)),
        ("mkdir", (none / "x",)),
        ("rename", (none, file)),
        ("rename", (file, full)),
        ("remove", (none,)),
        ("remove", (full,)),
        ("rmdir", (full,)),
        ("rmdir", (file,)),
        ("symlink", ("x", file)),
        ("link", (none, tmp_path / "y")),
        ("makedirs", (full,)),
        ("chmod", (none, 0)),
        ("utime", (none,)),
        ("listdir", (file,)),
        ("readlink", (file,)),
    ]

    async def main():
        for name, arguments in calls:
            with pytest.raises(OSError) as expected:
                getattr(os, name)(*arguments)
            with pytest.raises(OSError) as caught:
                await getattr(files, name)(*arguments)
            assert type(caught.value) is type(expected.value), name
            assert str(caught.value) == str(expected.value), name
        with pytest.raises(ValueError, match="null byte"):
            await files.mkdir("a\0b")
        with pytest.raises(TypeError):
            await files.mkdir(None)

    run(factory, main)


def test_scandir(factory, tmp_path):
    names = {f"file{number}" for number in range(600)}
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")

    async def main():
        found = {}
        async for entry in files.scandir(tmp_path):
            found[entry.name] = (entry.is_dir(), entry.is_file(), entry.is_symlink())
        assert found.pop("directory") == (True, False, False)
        assert found.pop("link") == (True, False, True)
        assert found == dict.fromkeys(names, (False, True, False))
        async with files.scandir(os.fspath(tmp_path)) as entries:
            async for entry in entries:
                assert entry.path.startswith(str(tmp_path))
                break
        assert set(await files.listdir(tmp_path)) == names | {"directory", "link"}
        with pytest.raises(FileNotFoundError):
            async for _ in files.scandir(tmp_path / "none"):
                pass

    run(factory, main)


def test_walk(factory, tmp_path):
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("f", "a/g", "a/b/h"):
        (tmp_path / name).touch()
    (tmp_path / "e" / "up").symlink_to("..")

    def in_order(walked):
        return sorted(
            (top, sorted(directories), sorted(names)) for top, directories, names in walked
        )

    async def main():
        assert in_order([found async for found in files.walk(tmp_path)]) == in_order(
            os.walk(tmp_path)
        )
        pruned = []
        async for top, directories, _ in files.walk(tmp_path):
            pruned.append(os.path.relpath(top, tmp_path))
            if "b" in directories:
                directories.remove("b")
        assert sorted(pruned) == [".", "a", "a/d", "e"]
        errors = []
        assert [found async for found in files.walk(tmp_path / "none", onerror=errors.append)] == []
        assert [type(error) for error in errors] == [FileNotFoundError]

    run(factory, main)


def test_many_at_once(factory, tmp_path):
    """More than there are workers."""

    async def main():
        await asyncio.gather(*(files.mkdir(tmp_path / str(number)) for number in range(200)))
        stats = await asyncio.gather(*(files.stat(tmp_path / str(number)) for number in range(200)))
        assert len({stat.st_ino for stat in stats}) == 200
        await asyncio.gather(*(files.rmdir(tmp_path / str(number)) for number in range(200)))
        assert os.listdir(tmp_path) == []

    run(factory, main)


def test_a_cancelled_look_does_not_wait(factory, tmp_path):
    """A dead file system must not keep a time-out from being one."""
    import threading

    from clearway.files._host import running_host

    async def main():
        started, release = threading.Event(), threading.Event()

        def hang():
            started.set()
            release.wait()

        task = asyncio.ensure_future(running_host().look(hang))
        while not started.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            release.set()

    run(factory, main)
