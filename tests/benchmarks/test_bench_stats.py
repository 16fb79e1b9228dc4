"""The arithmetic behind the tables: ratios, intervals, verdicts and the order of samples."""

from __future__ import annotations

import random
from typing import Any

import pytest
from benchmarks.contestants import echo_server
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bars, runner, stats, table

positive = st.floats(min_value=1e-3, max_value=1e6)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=20))
def test_interval_holds_the_median_and_lies_within_the_data(pairs: list[Any]) -> None:
    ratio = stats.paired_ratio(pairs, resamples=50)
    assert ratio is not None
    ratios = [a / b for a, b in pairs]
    assert min(ratios) <= ratio.low <= ratio.high <= max(ratios)
    assert min(ratios) <= ratio.median <= max(ratios)


def test_ratio_is_paired_by_round_and_not_a_ratio_of_medians() -> None:
    # The machine is ten times slower in the second round; each pair says 2.0.
    ratio = stats.paired_ratio([(200.0, 100.0), (20.0, 10.0), (2000.0, 1000.0)])
    assert ratio == stats.Ratio(3, 2.0, 2.0, 2.0)


def test_interval_covers_the_true_median_of_noisy_pairs() -> None:
    rng = random.Random(7)
    covered = 0
    for trial in range(40):
        pairs = [(1.2 * rng.lognormvariate(0, 0.05), 1.0) for _ in range(15)]
        ratio = stats.paired_ratio(pairs, resamples=400, seed=trial)
        assert ratio is not None
        covered += ratio.low <= 1.2 <= ratio.high
    assert covered >= 34  # 95 % asked for; 85 % leaves room for chance, which the seed has fixed


def test_pairs_without_a_ratio_are_left_out() -> None:
    assert stats.paired_ratio([(1.0, 0.0), (0.0, 1.0), (float("inf"), 1.0)]) is None
    assert stats.paired_ratio([(1.0, 0.0), (3.0, 2.0)]) == stats.Ratio(1, 1.5, 1.5, 1.5)


def test_spread_of_one_and_of_none() -> None:
    assert stats.spread([]) is None
    assert stats.spread([4.0]) == stats.Spread(1, 4.0, 4.0, 4.0, 0.0)


@pytest.mark.parametrize(
    ("bound", "ratio", "state"),
    [
        ({"at_least": 1.2}, stats.Ratio(15, 1.25, 1.15, 1.3), "met"),
        ({"at_least": 1.2}, stats.Ratio(15, 1.18, 1.15, 1.21), "within noise"),
        ({"at_least": 1.2}, stats.Ratio(15, 1.1, 1.05, 1.19), "missed"),
        ({"at_least": 1.0}, stats.Ratio(15, 0.99, 0.97, 1.0), "met"),
        ({"at_least": 1.0}, stats.Ratio(15, 0.98, 0.97, 0.99), "missed"),
        ({"at_most": 0.85}, stats.Ratio(15, 0.84, 0.8, 0.9), "met"),
        ({"at_most": 0.85}, stats.Ratio(15, 0.86, 0.84, 0.9), "within noise"),
        ({"at_most": 0.85}, stats.Ratio(15, 0.9, 0.86, 0.95), "missed"),
    ],
)
def test_verdicts(bound: dict[str, float], ratio: stats.Ratio, state: str) -> None:
    bar = bars.Bar("uring", "uvloop", "requests_per_s", (1,), **bound)
    assert bars.judge(bar, 1, ratio).state == state


def test_few_pairs_are_provisional() -> None:
    bar = bars.Bar("uring", "uvloop", "requests_per_s", (1,), at_least=1.0)
    assert bars.judge(bar, 1, stats.Ratio(14, 1.0, 1.0, 1.0)).provisional
    assert not bars.judge(bar, 1, stats.Ratio(15, 1.0, 1.0, 1.0)).provisional


def raw(requests: int = 1000, **server: float) -> dict[str, Any]:
    latency = dict.fromkeys(("mean", "p50", "p90", "p99", "p99_9", "max"), 1.0)
    full: dict[str, Any] = {
        "cpu_s": 0.5,
        "user_s": 0.1,
        "system_s": 0.4,
        "busy": 0.5,
        "switches_voluntary": 3,
        "switches_involuntary": 1,
        "minor_faults": 0,
        "rss_kib": 1024,
        "core_others": 0.0,
        "instructions_user": None,
        "instructions_kernel": None,
    }
    return {
        "requests": requests,
        "requests_per_s": float(requests),
        "errors": 0,
        "latency_us": {"count": requests, **latency},
        "load": {"busy": 0.5, "core_others": 0.0},
        "server": {**full, **server},
    }


def test_figures_per_request_and_absent_ones() -> None:
    sample = runner.Sample("s", "1", 0, raw(), {})
    assert sample.figure("cpu_us") == pytest.approx(500.0)
    assert sample.figure("switches") == pytest.approx(0.004)
    assert sample.figure("instructions") is None
    assert runner.Sample("s", "1", 0, {**raw(), "server": None}, {}).figure("cpu_us") is None
    assert runner.Sample("s", "1", 0, raw(requests=0), {}).figure("cpu_us") is None


def test_asyncio_mode_is_told_by_faults() -> None:
    assert runner.asyncio_mode(runner.Sample("s", "1", 0, raw(minor_faults=0), {})).startswith(
        "heap"
    )
    slow = runner.Sample("s", "1", 0, raw(minor_faults=2000), {})
    assert runner.asyncio_mode(slow).startswith("mmap")


def test_rounds_are_interleaved_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str, str]] = []

    def measure(server: Any, load: Any, situation: Any, *, round: int, timeout_s: float) -> Any:
        seen.append((round, situation.name, server.name))
        return runner.Sample(server.name, situation.name, round, raw(), {})

    monkeypatch.setattr(runner, "measure", measure)
    servers = [runner.Server(name, ()) for name in "abcd"]
    situations = [runner.Situation(name, ()) for name in ("1", "16")]
    samples = runner.interleave(servers, situations, [], rounds=6, seconds=1, seed=3)
    assert len(samples) == len(set(seen)) == 6 * 2 * 4
    assert [round for round, _, _ in seen] == sorted(round for round, _, _ in seen)
    groups = [seen[i : i + 4] for i in range(0, len(seen), 4)]
    # The sides of a pair are neighbours: one situation, every server once.
    assert all(len({g[1] for g in group}) == 1 for group in groups)
    assert len({tuple(g[2] for g in group) for group in groups}) > 1
    results = runner.Results(samples)
    ratio = results.ratio("a", "b", "16", "cpu_us")
    assert ratio is not None and ratio.pairs == 6


@pytest.mark.parametrize("text", ["nonsense", "c?x=1", "uvloop?x=1", "c@/tmp"])
def test_unknown_contestants_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"server|options"):
        echo_server(text, mode="protocol", python="python3", core=-1)


def test_options_and_path_of_a_contestant() -> None:
    server = echo_server(
        "uring@/old/src?preempt=on&quantum=0.001", mode="sock", python="py", core=0
    )
    assert server.name == "uring@/old/src?preempt=on&quantum=0.001"
    assert server.argv[-2:] == ("--option=preempt=on", "--option=quantum=0.001")
    assert server.env["PYTHONPATH"].split(":")[0] == "/old/src"


def test_tables_are_aligned_and_drop_empty_columns() -> None:
    rows = [["name", "x", "y"], ["a", "-", "1"], ["long name", "-", "1,000"]]
    lines = table.render(table.without_empty_columns(rows)).splitlines()
    assert lines[0].split() == ["name", "y"]
    assert lines[2] == "a              1"
    assert len(lines[3]) == len(lines[1])
