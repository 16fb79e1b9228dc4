"""The second act of ``clearway demo``: its clients, its figures and its picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the demo extra is not installed")
pytest.importorskip("httptools", reason="the demo extra is not installed")

from clearway.cli.demo import picture, probe, process, slow
from clearway.observe.timeline import Slice

MS = 1_000_000


def an_outcome(who: slow.Contestant, wait_ms: int, slices: tuple[Slice, ...] = ()) -> slow.Outcome:
    """Requests for 2 s, one every 10 ms, each of which waited ``wait_ms``."""
    fast = [probe.Answer("/", i * 10 * MS, (i * 10 + wait_ms) * MS) for i in range(200)]
    late = [probe.Answer(path, 200 * MS, 300 * MS) for path in probe.SLOW_PATHS]
    return slow.Outcome(who, probe.Report(0, (*fast, *late), 0), slices, None)


def test_percentiles_are_latencies_that_took_place() -> None:
    waits = slow.summarize([number * MS for number in range(1000, 0, -1)])
    assert (waits.p50_s, waits.p99_s, waits.p999_s, waits.max_s) == (0.5, 0.99, 0.999, 1.0)
    assert slow.summarize([7 * MS]).p50_s == 0.007


def test_requests_are_due_at_a_fixed_rate() -> None:
    due = probe.schedule(1000 * MS, 2.0, 100.0, 2.0)
    fast = [at for at, path in due if path == "/"]
    assert fast == [1000 * MS + i * 10 * MS for i in range(200)]
    # In turn, each in the middle of its half second.
    assert [item for item in due if item[1] != "/"] == [
        (1250 * MS, "/cpu"),
        (1750 * MS, "/block"),
        (2250 * MS, "/cpu"),
        (2750 * MS, "/block"),
    ]
    assert due == sorted(due)
    assert len(probe.schedule(0, 1.0, 50.0, 0.0)) == 50


def test_off_is_shown_on_one_engine_and_on_on_all() -> None:
    def names(*present: str) -> list[str]:
        return [one.name for one in slow.contestants(present)]

    assert names("asyncio", "uvloop", "uring", "epoll") == [
        "asyncio",
        "uvloop",
        "off-uring",
        "on-uring",
        "on-epoll",
    ]
    assert names("epoll", "asyncio") == ["asyncio", "off-epoll", "on-epoll"]
    assert names("uvloop") == ["uvloop"]


def test_the_clients_go_on_asking_while_the_server_stands_still(tmp_path: Path) -> None:
    """On asyncio a blocked handler holds up everybody who comes meanwhile, and each is counted."""
    file = tmp_path / "timeline.json"
    with process.ServerProcess("asyncio", None, ["--timeline", str(file)]) as served:
        report = probe.run(served.port, seconds=1.0, fast_rate=200.0, slow_rate=2.0)
    assert report.errors == 0
    slices = [Slice(*item) for item in json.loads(file.read_text())["slices"]]
    assert [item.name for item in slices] == ["/cpu", "/block"]
    fast = [item for item in report.answers if item.path == "/"]
    assert len(fast) == 200
    blocked = slices[1]
    assert blocked.ended_ns - blocked.began_ns >= 100 * MS
    # Whoever came while the handler had the thread was answered after it: none was left out.
    held_up = [item for item in fast if blocked.began_ns < item.due_ns < blocked.ended_ns]
    assert len(held_up) >= 19
    assert all(item.ended_ns >= blocked.ended_ns for item in held_up)


@pytest.mark.parametrize("path", ["/cpu", "/block"])
def test_with_preemption_others_are_answered_inside_a_slow_handler(
    path: str, tmp_path: Path
) -> None:
    file = tmp_path / "timeline.json"
    options = ["--preempt", "on", "--quantum", "0.002", "--timeline", str(file)]
    with process.ServerProcess("epoll", None, options) as served:
        report = probe.run(served.port, seconds=2.0, fast_rate=200.0, slow_rate=2.0)
    assert report.errors == 0
    recorded = json.loads(file.read_text())
    assert recorded["suspensions"] > 0
    pieces = [Slice(*item) for item in recorded["slices"] if item[0] == path]
    first = [item for item in pieces if item.number == pieces[0].number]
    assert len(first) > 1
    began_ns, ended_ns = first[0].began_ns, first[-1].ended_ns
    assert [
        item
        for item in report.answers
        if item.path == "/" and began_ns < item.due_ns and item.ended_ns < ended_ns
    ]


def test_the_picture_is_well_formed_and_needs_nothing_else() -> None:
    slices = tuple(
        Slice("/cpu", 1, (1000 + 4 * i) * MS, (1002 + 4 * i) * MS, False) for i in range(20)
    )
    page = picture.draw(
        [
            an_outcome(slow.Contestant("asyncio", "asyncio"), 120),
            an_outcome(slow.Contestant("on-epoll", "epoll", "on"), 3, slices),
        ],
        ["measured <here> & now"],
    )
    assert "120 ms on asyncio, 3.0 ms on clearway</h1>" in page
    assert "measured &lt;here&gt; &amp; now" in page
    for forbidden in ("<script", "src=", "href=", "url(", "@import"):
        assert forbidden not in page
    drawings = page.split("<svg")[1:]
    assert len(drawings) == 2
    for drawing in drawings:
        ElementTree.fromstring("<svg" + drawing.partition("</svg>")[0] + "</svg>")
    assert "prefers-color-scheme: dark" in page


def test_without_preemption_nothing_is_magnified() -> None:
    page = picture.draw([an_outcome(slow.Contestant("uvloop", "uvloop"), 120)], [])
    assert page.count("<svg") == 1
    assert "on clearway" not in picture.finding(
        [an_outcome(slow.Contestant("uvloop", "uvloop"), 120)]
    )
