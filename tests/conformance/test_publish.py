"""The page of all runs: what it must say, and what it must not let pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import publish

PASSED = {"test_events.Loop.test_a": "passed", "test_server.Server.test_b": "passed"}


def written(directory: Path, name: str, outcomes: dict[str, str], **options: Any) -> str:
    document = {
        "complete": True,
        "python": "3.12.1 (main)",
        "options": options,
        "problems": [],
        "left_out": {"test_pep492": "no loop"},
        "results": [
            {"id": test, "outcome": outcome, "detail": "a reason"}
            for test, outcome in outcomes.items()
        ],
    }
    path = directory / f"{name}.json"
    path.write_text(json.dumps(document))
    return str(path)


def publish_them(directory: Path, *files: str) -> tuple[int, str]:
    page = directory / "page.md"
    status = publish.main([*files, f"--output={page}"])
    return status, page.read_text() if page.exists() else ""


def test_all_passed(tmp_path: Path) -> None:
    status, page = publish_them(
        tmp_path,
        written(tmp_path, "a", PASSED, engine="uring"),
        written(tmp_path, "b", PASSED, engine="epoll"),
        written(tmp_path, "c", PASSED, engine="epoll", preempt="on", quantum=0.001),
    )
    assert status == 0
    lines = [line.replace(" ", "") for line in page.splitlines()]
    assert "|3.12.1|uring|default|2|0|0|0|" in lines
    assert "|3.12.1|epoll|on,1ms|2|0|0|0|" in lines
    assert "|`test_events`|1|1|1|" in lines
    assert "None: on each Python every test ends the same way in every run" in page


def test_one_that_failed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {**PASSED, "test_events.Loop.test_a": "failed"}
    both = [written(tmp_path, name, failed, engine=name) for name in ("uring", "epoll")]
    status, page = publish_them(tmp_path, *both)
    assert status == 1
    assert "`test_events.Loop.test_a`: failed (3.12 uring, 3.12 epoll)" in page
    assert "1 tests did not pass" in capsys.readouterr().err


def test_a_difference_needs_an_explanation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        written(tmp_path, "off", PASSED, engine="epoll"),
        written(
            *(tmp_path, "on", {**PASSED, "test_events.Loop.test_a": "failed"}),
            engine="epoll",
            preempt="on",
        ),
    ]
    status, page = publish_them(tmp_path, *files)
    assert status == 1 and "NOT EXPLAINED" in page
    monkeypatch.setattr(publish, "DIFFERENCES", (("test_events.*.test_a", "Counts its turns."),))
    status, page = publish_them(tmp_path, *files)
    assert status == 0 and "Counts its turns." in page


def test_an_explanation_covers_nothing_but_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "DIFFERENCES", (("*", "Because."),))
    failed = {**PASSED, "test_events.Loop.test_a": "failed"}
    both = [written(tmp_path, name, failed, engine=name) for name in ("uring", "epoll")]
    assert publish_them(tmp_path, *both)[0] == 1


@pytest.mark.parametrize("outcome", ["missing", "empty", "partial", "twice"])
def test_a_run_that_is_none_is_refused(tmp_path: Path, outcome: str) -> None:
    good = written(tmp_path, "good", PASSED, engine="uring")
    other = written(tmp_path, "other", {} if outcome == "empty" else PASSED, engine="epoll")
    if outcome == "missing":
        Path(other).unlink()
    elif outcome == "partial":
        document = json.loads(Path(other).read_text())
        Path(other).write_text(json.dumps({**document, "complete": False}))
    elif outcome == "twice":
        other = good
    status, _ = publish_them(tmp_path, good, other)
    assert status == (1 if outcome == "empty" else 2)


def test_a_module_without_tests_on_one_python_is_not_said_to_have_passed(tmp_path: Path) -> None:
    other = {**PASSED, "test_server.Server.test_b": "declined"}
    _, page = publish_them(tmp_path, written(tmp_path, "a", other, engine="uring"))
    assert "|`test_server`|·|" in page.replace(" ", "")
