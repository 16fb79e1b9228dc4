"""The harness itself: what it must notice, shown on a package of tests made for the purpose.

Nothing here needs clearway: the loop is the standard library's, or a subclass of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conformance import skips, suites
from tests.conformance.pool import HarnessError, Pool, Result, Target, list_tests
from tests.conformance.report import Report

SOURCE = """
import asyncio, os, signal, subprocess, sys, threading, time, unittest
from test import support


class Good(unittest.TestCase):
    def setUp(self):
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)

    def test_a_passes(self):
        self.loop.run_until_complete(asyncio.sleep(0))

    def test_b_is_ours(self):
        self.assertEqual(type(self.loop).__name__, "Mine")

    def test_c_subtests_all_skipped(self):
        with self.subTest("x"):
            self.skipTest("the machine has no IPv6")


class Bad(unittest.TestCase):
    def test_a_fails(self):
        asyncio.new_event_loop().close()
        self.fail("on purpose")

    def test_b_fails_in_subtest(self):
        with self.subTest("x"):
            self.assertEqual(1, 2)

    def test_c_teardown_fails(self):
        self.addCleanup(self.fail, "cleanup")

    def test_d_escapes(self):
        from asyncio.unix_events import SelectorEventLoop
        SelectorEventLoop().close()

    def test_e_declines(self):
        self.skipTest("I do not feel like it")

    def test_f_leaks(self):
        asyncio.new_event_loop().close()
        support.environment_altered = True


class Deadly(unittest.TestCase):
    def test_a_hangs_in_python(self):
        while True:
            pass

    def test_b_after_a_hang(self):
        asyncio.new_event_loop().close()

    def test_c_segfaults(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def test_d_ends_the_process(self):
        os._exit(0)

    def test_e_blocks_its_signals(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT, signal.SIGTERM})
        while True:
            time.sleep(60)

    def test_f_after_all_that(self):
        asyncio.new_event_loop().close()


class Waits(unittest.TestCase):
    def test_forever(self):
        loop = asyncio.new_event_loop()

        async def inner_wait():
            await asyncio.Event().wait()

        async def outer_wait():
            await inner_wait()

        loop.run_until_complete(outer_wait())


class Late(unittest.TestCase):
    def test_crashes_at_exit(self):
        import atexit
        asyncio.new_event_loop().close()
        atexit.register(os.abort)


class Fixture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise ValueError("no fixture")

    def test_never_runs(self):
        pass
"""

LOOP = """
import asyncio

class Mine(asyncio.SelectorEventLoop):
    pass

def refuses():
    raise RuntimeError("no loops today")
"""

TIMEOUT_S = 2.0  # costs this once per test that hangs


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package")
    (root / "sample").mkdir()
    (root / "sample" / "__init__.py").touch()
    (root / "sample" / "test_sample.py").write_text(SOURCE)
    (root / "my_loop.py").write_text(LOOP)
    return root


def target(directory: Path, spec: str = "my_loop:Mine") -> Target:
    return Target(spec, {}, sys.executable, (str(directory),), TIMEOUT_S, "sample")


def run(target: Target, batches: list[list[str]]) -> dict[str, Result]:
    results: list[Result] = []
    Pool(target, 2, results.append).run(batches)
    names = [result.id.rpartition(".")[2] for result in results]
    assert len(names) == len(set(names)), "a test has two results"
    return dict(zip(names, results, strict=True))


def ids(directory: Path, cls: str) -> list[str]:
    return [test for test in list_tests(target(directory))["tests"] if f".{cls}." in test]


def report(results: dict[str, Result], listed: list[str]) -> Report:
    outcome = Report("my_loop:Mine", {}, "3", listed, {}, [], complete=False)
    outcome.results = list(results.values())
    outcome.close()
    return outcome


@pytest.mark.parametrize("batch", [False, True], ids=["process per test", "process per class"])
def test_outcomes_of_tests_that_end(directory: Path, batch: bool) -> None:
    good, bad = ids(directory, "Good"), ids(directory, "Bad")
    assert (len(good), len(bad)) == (3, 6)
    found = run(target(directory), [good, bad] if batch else [[test] for test in good + bad])
    assert {name: result.outcome for name, result in found.items()} == {
        "test_a_passes": "passed",
        "test_b_is_ours": "passed",
        "test_c_subtests_all_skipped": "declined",
        "test_a_fails": "failed",
        "test_b_fails_in_subtest": "failed",
        "test_c_teardown_fails": "failed",
        "test_d_escapes": "passed",
        "test_e_declines": "declined",
        "test_f_leaks": "passed",
    }
    assert found["test_a_passes"].loops == 1
    assert (found["test_d_escapes"].loops, found["test_d_escapes"].escaped) == (0, 1)
    assert [name for name, result in found.items() if result.altered] == ["test_f_leaks"]
    # What the report makes of it: the escape and the unknown reason turn into failures.
    outcome = report(found, good + bad)
    assert outcome.counts == {"passed": 3, "failed": 5, "declined": 1}
    assert not outcome.ok
    assert "on purpose" in outcome.failures(full=False)


@pytest.mark.parametrize("batch", [False, True], ids=["process per test", "process per class"])
def test_hangs_and_crashes_hit_only_their_own_test(directory: Path, batch: bool) -> None:
    deadly = ids(directory, "Deadly")
    found = run(target(directory), [deadly] if batch else [[test] for test in deadly])
    assert {name: result.outcome for name, result in found.items()} == {
        "test_a_hangs_in_python": "hung",
        "test_b_after_a_hang": "passed",
        "test_c_segfaults": "crashed",
        "test_d_ends_the_process": "crashed",
        "test_e_blocks_its_signals": "hung",
        "test_f_after_all_that": "passed",
    }
    # The stack of what hung is the diagnosis.
    assert "test_a_hangs_in_python" in found["test_a_hangs_in_python"].output
    assert "SIGSEGV" in found["test_c_segfaults"].detail


def test_a_hang_shows_what_its_tasks_wait_for(directory: Path) -> None:
    found = run(target(directory), [ids(directory, "Waits")])
    assert found["test_forever"].outcome == "hung"
    for name in ("in outer_wait", "in inner_wait", "run_forever"):
        assert name in found["test_forever"].output


def test_a_crash_after_the_last_test_is_not_a_pass(directory: Path) -> None:
    found = run(target(directory), [ids(directory, "Late")])
    assert found["test_crashes_at_exit"].outcome == "crashed"
    assert "SIGABRT" in found["test_crashes_at_exit"].detail


def test_a_fixture_that_fails_loses_its_tests_loudly(directory: Path) -> None:
    found = run(target(directory), [ids(directory, "Fixture")])
    assert found["test_never_runs"].outcome == "lost"
    assert "no fixture" in found["test_never_runs"].detail


def test_a_loop_that_cannot_be_made_is_not_a_pass(directory: Path) -> None:
    found = run(target(directory, "my_loop:refuses"), [ids(directory, "Good")])
    assert {result.outcome for result in found.values()} == {"lost"}
    assert "no loops today" in found["test_a_passes"].output


def test_a_factory_that_does_not_exist_says_so(directory: Path) -> None:
    with pytest.raises(HarnessError, match="no attribute 'nothing'"):
        list_tests(target(directory, "my_loop:nothing"))


def test_fewer_results_than_tests_is_a_failure(directory: Path) -> None:
    good = ids(directory, "Good")
    outcome = report(run(target(directory), [good[:1]]), good)
    assert outcome.counts == {"passed": 1, "lost": 2}
    assert not outcome.ok
    assert not report({}, []).ok, "a run of nothing is no success"


def test_a_class_without_a_loop_is_a_problem() -> None:
    outcome = Report("l:l", {}, "3", ["m.C.t"], {}, [])
    outcome.results = [Result("m.C.t", "passed", loops=0)]
    outcome.close()
    assert not outcome.ok
    assert "m.C" in outcome.problems[0]


def test_report_is_written_as_json(directory: Path, tmp_path: Path) -> None:
    good = ids(directory, "Good")
    outcome = report(run(target(directory), [good]), good)
    outcome.write_json(str(tmp_path / "r.json"))
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["ok"] is True
    assert document["counts"] == {"passed": 2, "declined": 1}
    assert [item["id"] for item in document["results"]] == sorted(good)


def test_skips_apply_by_version_and_not_to_the_control() -> None:
    tests = ["m.C.test_a", "m.C.test_b", "m.D.test_a"]
    table = (
        skips.Skip("m.C.*", "private", ("3.11",)),
        skips.Skip("m.D.test_a", "broken upstream", control_too=True),
    )
    assert skips.select(tests, "3.11", control=False, table=table) == (
        {"m.C.test_a": "private", "m.C.test_b": "private", "m.D.test_a": "broken upstream"},
        [],
    )
    assert skips.select(tests, "3.12", control=False, table=table)[0].keys() == {"m.D.test_a"}
    assert skips.select(tests, "3.11", control=True, table=table)[0].keys() == {"m.D.test_a"}


def test_a_skip_that_matches_nothing_is_reported() -> None:
    _, stale = skips.select(
        ["m.C.test_a"], "3.11", control=True, table=(skips.Skip("m.C.test_gone", "private"),)
    )
    assert len(stale) == 1
    assert "test_gone" in stale[0]


def test_the_tables_fit_this_interpreter() -> None:
    listing = list_tests(Target("asyncio:SelectorEventLoop", {}, sys.executable))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    _, stale = skips.select(listing["tests"], version, control=False)
    assert listing["problems"] + stale == []
    # Every way of making loops is represented; a module that vanished would show here.
    modules = {test.partition(".")[0] for test in listing["tests"]}
    assert modules >= {module for module, _ in suites.LOOP_METHODS} | suites.NAMES_THE_CLASS
