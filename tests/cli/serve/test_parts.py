"""Ranges and conditions: less than the whole file, or nothing because the client has it."""

from __future__ import annotations

import email
import email.utils
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearway.cli.serve.conditions import parse_date
from clearway.cli.serve.ranges import MAX_RANGES, Unsatisfiable, parse_range
from tests.support.loops import Factory, run
from tests.support.net import pattern

from .client import ask, serving

SIZE = 100_000
OLD = 1_600_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=999-", [(999, 1)]),
        ("bytes=-1", [(999, 1)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=10-5000", [(10, 990)]),
        ("BYTES = 0-1 , 5-6,", [(0, 2), (5, 2)]),
        ("bytes=5-6,0-1", [(5, 2), (0, 2)]),
        ("bytes=0-1,5000-", [(0, 2)]),
        ("bytes=5-4", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1-2", None),
        ("bytes=+0-1", None),
        ("lines=0-1", None),
        ("bytes", None),
        ("bytes=0-999,0-0", None),  # more than the file
        ("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_ranges(value: str, expected: list[tuple[int, int]] | None) -> None:
    assert parse_range(value.encode(), 1000) == expected


@pytest.mark.parametrize("value", ["bytes=1000-", "bytes=-0", "bytes=1000-2000,3000-"])
def test_ranges_beyond_the_end(value: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(value.encode(), 1000)


@given(st.binary(max_size=40), st.integers(0, 1000))
def test_ranges_lie_within_the_file(text: bytes, size: int) -> None:
    try:
        found = parse_range(b"bytes=" + text, size)
    except Unsatisfiable:
        return
    for start, length in found or ():
        assert 0 <= start < start + length <= size


@given(st.text(max_size=40))
def test_any_text_is_a_date_or_none(text: str) -> None:
    parse_date(text.encode("utf-8", "surrogateescape"))


def test_the_three_forms_of_dates() -> None:
    for form in (
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
    ):
        assert parse_date(form) == 784111777


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "file.txt").write_bytes(pattern(SIZE))
    os.utime(tmp_path / "file.txt", (OLD, OLD))
    return tmp_path


def test_parts_of_a_file(factory: Factory, site: Path) -> None:
    whole = pattern(SIZE)

    async def main() -> None:
        async with serving(site) as server:
            for asked, start, end in (
                ("0-9", 0, 10),
                ("50000-", 50_000, SIZE),
                ("-40000", 60_000, SIZE),
                ("99999-200000", 99_999, SIZE),
            ):
                reply = await ask(server, "/file.txt", "GET", f"Range: bytes={asked}")
                assert reply.status == 206
                assert reply.body == whole[start:end]
                assert reply.fields["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
                assert reply.fields["content-type"] == "text/plain; charset=utf-8"
            reply = await ask(server, "/file.txt", "GET", "Range: bytes=100000-")
            assert (reply.status, reply.fields["content-range"]) == (416, f"bytes */{SIZE}")
            reply = await ask(server, "/file.txt", "GET", "Range: chapters=1")
            assert (reply.status, reply.body) == (200, whole)
            reply = await ask(server, "/file.txt", "HEAD", "Range: bytes=0-9")
            assert (reply.status, reply.fields["content-length"]) == (200, str(SIZE))

    run(factory, main)


def test_several_parts(factory: Factory, site: Path) -> None:
    whole = pattern(SIZE)

    async def main() -> None:
        async with serving(site) as server:
            reply = await ask(server, "/file.txt", "GET", "Range: bytes=90000-90009,0-49999,-1")
            assert reply.status == 206
            head = f"Content-Type: {reply.fields['content-type']}\r\n\r\n".encode()
            message = email.message_from_bytes(head + reply.body)
            parts = [
                (part["content-range"], part.get_payload(decode=True))
                for part in message.get_payload()
            ]
            assert parts == [
                (f"bytes 90000-90009/{SIZE}", whole[90_000:90_010]),
                (f"bytes 0-49999/{SIZE}", whole[:50_000]),
                (f"bytes 99999-99999/{SIZE}", whole[-1:]),
            ]

    run(factory, main)


def date(offset_s: int) -> str:
    return email.utils.formatdate(OLD + offset_s, usegmt=True)


# Header lines -> the status; {etag} is the file's.
CONDITIONS = {
    ("If-None-Match: {etag}",): 304,
    ('If-None-Match: "a", W/{etag}',): 304,
    ("If-None-Match: *",): 304,
    ('If-None-Match: "other"',): 200,
    ('If-None-Match: "other"', f"If-Modified-Since: {date(0)}"): 200,
    (f"If-Modified-Since: {date(0)}",): 304,
    (f"If-Modified-Since: {date(100)}",): 304,
    (f"If-Modified-Since: {date(-1)}",): 200,
    ("If-Modified-Since: yesterday",): 200,
    ("If-Match: {etag}",): 200,
    ("If-Match: *",): 200,
    ("If-Match: W/{etag}",): 412,
    ('If-Match: "other"',): 412,
    (f"If-Unmodified-Since: {date(0)}",): 200,
    (f"If-Unmodified-Since: {date(-1)}",): 412,
    ("If-Match: {etag}", f"If-Unmodified-Since: {date(-1)}"): 200,
    ("Range: bytes=0-0", "If-Range: {etag}"): 206,
    ("Range: bytes=0-0", 'If-Range: "other"'): 200,
    ("Range: bytes=0-0", "If-Range: W/{etag}"): 200,
    ("Range: bytes=0-0", f"If-Range: {date(0)}"): 206,
    ("Range: bytes=0-0", f"If-Range: {date(1)}"): 200,
    ("Range: bytes=0-0", "If-None-Match: {etag}"): 304,
    ("Range: bytes=0-0", 'If-Match: "other"'): 412,
}


def test_conditions(clearway_factory: Factory, site: Path) -> None:
    async def main() -> None:
        async with serving(site) as server:
            fields = (await ask(server, "/file.txt")).fields
            assert fields["last-modified"] == date(0)
            found = {}
            for lines in CONDITIONS:
                filled = [line.replace("{etag}", fields["etag"]) for line in lines]
                for method in ("GET", "HEAD"):
                    reply = await ask(server, "/file.txt", method, *filled)
                    if reply.status == 304:
                        assert reply.fields["etag"] == fields["etag"]
                        assert "content-length" not in reply.fields
                    if method == "GET":
                        found[lines] = reply.status
                    else:
                        assert reply.status == (200 if CONDITIONS[lines] == 206 else found[lines])
            assert found == CONDITIONS

    run(clearway_factory, main)


def test_a_changed_file_has_another_tag(clearway_factory: Factory, site: Path) -> None:
    async def main() -> None:
        async with serving(site) as server:
            before = (await ask(server, "/file.txt")).fields["etag"]
            (site / "file.txt").write_bytes(bytes(SIZE))
            assert (await ask(server, "/file.txt")).fields["etag"] != before
            # What has just been written may be written again within the second: its date proves nothing.
            now = int(time.time()) + 10
            os.utime(site / "file.txt", (now, now))
            when = email.utils.formatdate(now, usegmt=True)
            lines = ("Range: bytes=0-0", f"If-Range: {when}")
            assert (await ask(server, "/file.txt", "GET", *lines)).status == 200

    run(clearway_factory, main)
