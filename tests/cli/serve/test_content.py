"""What is served: files, directories, and nothing outside."""

from __future__ import annotations

import html.parser
import os
from pathlib import Path

import pytest

from clearway.cli.serve import answers, lookup
from tests.support.loops import Factory, run
from tests.support.net import pattern

from .client import ask, ask_all, serving

LARGE = 3 * 1024 * 1024 + 17


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory to serve, with something beside it that must stay secret."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "site-secret").mkdir()
    (tmp_path / "site-secret" / "file").write_text("secret")
    site = tmp_path / "site"
    site.mkdir()
    (site / "small.txt").write_text("grüße\n", encoding="utf-8")
    (site / "empty").touch()
    (site / "large.bin").write_bytes(pattern(LARGE))
    (site / "with index").mkdir()
    (site / "with index" / "index.html").write_text("<p>index")
    (site / "plain").mkdir()
    (site / "plain" / "a & <b>.html").write_text("x" * 1234)
    (site / "plain" / "z").mkdir()
    (site / "plain" / ".hidden").write_text("hidden")
    (site / "plain" / "javascript:x").write_text("")
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("hidden")
    (site / ".well-known").mkdir()
    (site / ".well-known" / "it").write_text("well known")
    (site / "inside").symlink_to("small.txt")
    (site / "plain" / "up").symlink_to("../small.txt")
    (site / "outside").symlink_to("../secret")
    (site / "absolute").symlink_to(tmp_path / "secret")
    (site / "directory").symlink_to("../site-secret")
    (site / "circle").symlink_to("circle")
    os.mkfifo(site / "fifo")
    return site


def test_files_arrive_whole(factory: Factory, tree: Path) -> None:
    async def main() -> None:
        async with serving(tree) as server:
            small = await ask(server, "/small.txt")
            assert (small.status, small.body) == (200, "grüße\n".encode())
            assert small.fields["content-type"] == "text/plain; charset=utf-8"
            empty = await ask(server, "/empty?query#part")
            assert (empty.status, empty.body) == (200, b"")
            large = await ask(server, "/large.bin")
            assert large.status == 200
            assert large.body == pattern(LARGE)
            assert large.fields["content-type"] == "application/octet-stream"
            inside = await ask(server, "/inside")
            assert inside.body == small.body
            assert (await ask(server, "/plain/up")).body == small.body

    run(factory, main)


def test_what_is_not_cached_is_fetched_by_a_thread(
    clearway_factory: Factory, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "open_cached", lambda *_: -1)
    monkeypatch.setattr(answers, "pread_now", lambda *_: None)

    async def main() -> None:
        async with serving(tree) as server:
            assert (await ask(server, "/small.txt")).body == "grüße\n".encode()
            assert (await ask(server, "/nothing")).status == 404
            fd = os.open(tree / "large.bin", os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
            assert (await ask(server, "/large.bin")).body == pattern(LARGE)

    run(clearway_factory, main)


def test_head_tells_the_same_without_the_body(factory: Factory, tree: Path) -> None:
    async def main() -> None:
        async with serving(tree) as server:
            for target in ("/small.txt", "/large.bin", "/plain/", "/nothing"):
                whole, head = await ask(server, target), await ask(server, target, "HEAD")
                assert head.status == whole.status
                for fields in (head.fields, whole.fields):
                    fields.pop("date")
                assert head.fields == whole.fields
                assert int(head.fields["content-length"]) == len(whole.body)

    run(factory, main)


# What is asked for -> the status. None of the answers may have the secret in it.
TARGETS = {
    "/nothing": 404,
    "/small.txt/": 404,
    "/small.txt/more": 404,
    "/" + "x" * 300: 404,
    "/..": 400,
    "/../secret": 400,
    "/%2e%2e/secret": 400,
    "/%2e%2e%2fsecret": 400,
    "/plain/..%2f..%2fsecret": 400,
    "/plain/../../secret": 400,
    "/./small.txt": 400,
    "/..%5csecret": 404,
    "/..\\secret": 404,
    "//..//secret": 400,
    "/small.txt%00.html": 400,
    "/%zz": 400,
    "/%": 400,
    "/outside": 403,
    "/absolute": 403,
    "/directory/": 403,
    "/directory/file": 403,
    "/circle": 403,
    "/fifo": 403,
    "/.git/config": 404,
    "/plain/.hidden": 404,
    "/%2egit/config": 404,
    "/.well-known/it": 200,
    "//small.txt": 200,
    "/%73mall.txt": 200,
    "http://anywhere/small.txt": 200,
    "http://anywhere": 200,
}


@pytest.mark.parametrize("openat2", [True, False], ids=["openat2", "walk"])
def test_nothing_outside_is_served(
    clearway_factory: Factory, tree: Path, monkeypatch: pytest.MonkeyPatch, openat2: bool
) -> None:
    if not openat2:
        monkeypatch.setattr("clearway.kernel.beneath._has_openat2", False)

    async def main() -> None:
        async with serving(tree) as server:
            found = {}
            for target in TARGETS:
                reply = await ask(server, target)
                assert b"secret" not in reply.body, target
                found[target] = reply.status
            if openat2:
                assert found == TARGETS
            else:
                # Without it no link is followed, and "is a link" looks like "is no directory".
                wrong = {name for name in TARGETS if found[name] != TARGETS[name]}
                assert wrong <= {"/directory/", "/directory/file"}
                assert all(found[name] == 404 for name in wrong)

    run(clearway_factory, main)


def test_hidden_names_on_request(clearway_factory: Factory, tree: Path) -> None:
    async def main() -> None:
        async with serving(tree, hidden=True) as server:
            assert (await ask(server, "/.git/config")).body == b"hidden"
            assert b".hidden" in (await ask(server, "/plain/")).body

    run(clearway_factory, main)


class Links(html.parser.HTMLParser):
    """The links of a page: (where to, text), and the cells."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self._to = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._to = dict(attrs)["href"] or ""

    def handle_data(self, data: str) -> None:
        if self._to:
            self.links.append((self._to, data))

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._to = ""


def test_directories(factory: Factory, tree: Path) -> None:
    async def main() -> None:
        async with serving(tree) as server:
            index = await ask(server, "/with%20index/")
            assert (index.body, index.fields["content-type"]) == (
                b"<p>index",
                "text/html; charset=utf-8",
            )
            moved = await ask(server, "/with%20index?a=b")
            assert (moved.status, moved.fields["location"]) == (301, "/with%20index/?a=b")
            # A browser would take //plain/ for a host.
            assert (await ask(server, "//plain")).fields["location"] == "/plain/"
            page = await ask(server, "/plain/")
            assert page.fields["content-type"] == "text/html; charset=utf-8"
            assert b"<b>" not in page.body
            assert b"1,234" in page.body
            assert Links(page.body).links == [
                ("../", "../"),
                ("./z/", "z/"),
                ("./a%20%26%20%3Cb%3E.html", "a & <b>.html"),
                ("./javascript%3Ax", "javascript:x"),
                ("./up", "up"),
            ]
            top = {text for _, text in Links((await ask(server, "/")).body).links}
            # Links that lead out, pipes and hidden names are not even mentioned.
            assert top == {"empty", "inside", "large.bin", "plain/", "small.txt", "with index/"}
        async with serving(tree, listings=False) as server:
            assert (await ask(server, "/plain/")).status == 403
            assert (await ask(server, "/with%20index/")).status == 200

    run(factory, main)


def test_the_types_of_files(clearway_factory: Factory, tree: Path) -> None:
    types = {
        "a.html": "text/html; charset=utf-8",
        "a.JS": "text/javascript; charset=utf-8",
        "a.css": "text/css; charset=utf-8",
        "a.json": "application/json",
        "a.svg": "image/svg+xml; charset=utf-8",
        "a.png": "image/png",
        "a.wasm": "application/wasm",
        "a.tar.gz": "application/gzip",
        "a": "application/octet-stream",
        "html": "application/octet-stream",
    }
    for name in types:
        (tree / name).touch()

    async def main() -> None:
        async with serving(tree) as server:
            replies = await ask_all(server, *(f"/{name}" for name in types))
            found = {
                name: reply.fields["content-type"]
                for name, reply in zip(types, replies, strict=True)
            }
            assert found == types
            assert not any("content-encoding" in reply.fields for reply in replies)

    run(clearway_factory, main)
