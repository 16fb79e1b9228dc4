"""Opening beneath a directory: what leads out is refused, by openat2 and by the walk that stands in for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clearway.kernel import beneath


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "outside").write_text("outside")
    inside = tmp_path / "inside"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "b" / "file").write_text("content")
    (inside / "link").symlink_to("a/b/file")
    (inside / "out").symlink_to("../outside")
    (inside / "far").symlink_to(tmp_path / "outside")
    (inside / "up").symlink_to("..")
    (inside / "magic").symlink_to("/proc/self/root")
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "walk":
        monkeypatch.setattr(beneath, "_has_openat2", False)
    return str(request.param)


def read(fd: int) -> bytes:
    try:
        assert not os.get_inheritable(fd)
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.usefixtures("way")
def test_what_lies_beneath_is_opened(directory: int) -> None:
    for path in (b"a/b/file", b"a//b/./file"):
        assert read(beneath.open_beneath(directory, path, os.O_RDONLY)) == b"content"
    for path in (b".", b"a", b"a/"):
        os.close(beneath.open_beneath(directory, path, os.O_RDONLY | os.O_DIRECTORY))


@pytest.mark.parametrize(
    "path",
    [
        b"../outside",
        b"a/../../outside",
        b"/etc/passwd",
        b"out",
        b"far",
        b"up/outside",
        b"magic/etc",
    ],
)
def test_what_leads_out_is_refused(directory: int, way: str, path: bytes) -> None:
    with pytest.raises(OSError) as caught:
        os.close(beneath.open_beneath(directory, path, os.O_RDONLY))
    # The walk follows no link at all: one in the middle is "no directory".
    expected = (errno.EXDEV, errno.ELOOP, *((errno.ENOTDIR,) if way == "walk" else ()))
    assert caught.value.errno in expected
    if way == "openat2":
        with pytest.raises(OSError) as caught:
            assert beneath.open_cached(directory, path, os.O_RDONLY) == -1
            raise OSError(errno.EXDEV, "not cached: not known")
        assert caught.value.errno in expected


def test_links_that_stay_inside(directory: int) -> None:
    assert read(beneath.open_beneath(directory, b"link", os.O_RDONLY)) == b"content"


def test_at_once_or_not_at_all(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Just made, so it is cached wherever the kernel can tell.
    fd = beneath.open_cached(directory, b"a/b/file", os.O_RDONLY)
    if fd >= 0:
        assert read(fd) == b"content"
    monkeypatch.setattr(beneath, "_has_openat2", False)
    assert beneath.open_cached(directory, b"a/b/file", os.O_RDONLY) == -1


@pytest.mark.usefixtures("way")
def test_what_is_not_there(directory: int) -> None:
    for path, number in ((b"no", errno.ENOENT), (b"link/x", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            beneath.open_beneath(directory, path, os.O_RDONLY)
        assert caught.value.errno in (number, errno.ELOOP, errno.ENOTDIR)
