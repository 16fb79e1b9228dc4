"""``.ci/run`` is honest: its last line and its exit code say what happened."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / ".ci" / "run"

PARTS = ("style", "types", "layers", "unit", "conformance")

PYTEST_GOOD = '<testsuites><testsuite tests="5" failures="0" errors="0" skipped="2"/></testsuites>'
PYTEST_BAD = '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="0"/></testsuites>'
UPSTREAM_GOOD = {"counts": {"passed": 7, "skipped": 1}, "problems": []}
UPSTREAM_BAD = {"counts": {"passed": 6, "hung": 1}, "problems": ["a stale skip"]}


def run(
    tmp_path: Path,
    *,
    broken: tuple[str, ...] = (),
    pytest_xml: str | None = PYTEST_GOOD,
    upstream: object = UPSTREAM_GOOD,
) -> tuple[int, str]:
    """Run it in a copy whose ``make`` does nothing but leave these results.

    :param broken: targets for which make exits with 2.
    """
    (tmp_path / ".ci").mkdir()
    copy = tmp_path / ".ci" / "run"
    copy.write_text(RUN.read_text())
    (tmp_path / ".ci" / "checks.py").write_text((RUN.parent / "checks.py").read_text())
    results = tmp_path / "out" / "test"
    results.mkdir(parents=True)
    (results / "conformance-old.json").write_text("a stale result: must not be read")
    recipes = dict.fromkeys(PARTS, ":")
    if pytest_xml is not None:
        (tmp_path / "xml").write_text(pytest_xml)
        recipes["unit"] = "cp xml out/test/pytest.xml"
    if upstream is not None:
        (tmp_path / "json").write_text(json.dumps(upstream))
        recipes["conformance"] = "cp json out/test/conformance-epoll.json"
    lines = [
        f"{part}:\n\t@{recipe}{'; exit 2' if part in broken else ''}\n"
        for part, recipe in recipes.items()
    ]
    (tmp_path / "Makefile").write_text("\n".join(lines))
    # Not the flags of a `make test` that these tests may be running under.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["bash", str(copy)], capture_output=True, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout.splitlines()[-1]


def test_all_good(tmp_path: Path) -> None:
    assert run(tmp_path) == (0, "13 passed, 0 failed")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_breaks_without_counting_is_a_failure(tmp_path: Path, part: str) -> None:
    code, last = run(tmp_path, broken=(part,))
    assert code == 1
    assert last.endswith(", 1 failed")


def test_failures_are_counted(tmp_path: Path) -> None:
    found = run(
        tmp_path, broken=("unit", "conformance"), pytest_xml=PYTEST_BAD, upstream=UPSTREAM_BAD
    )
    assert found == (1, "12 passed, 4 failed")


def test_failures_count_even_when_make_denies_them(tmp_path: Path) -> None:
    assert run(tmp_path, upstream=UPSTREAM_BAD) == (1, "12 passed, 2 failed")


def test_tests_that_did_not_run_are_a_failure(tmp_path: Path) -> None:
    assert run(tmp_path, pytest_xml=None, upstream=None) == (1, "3 passed, 2 failed")
