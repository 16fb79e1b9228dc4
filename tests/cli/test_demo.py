"""``clearway demo``: its figures, its processes, and that it never leaves one behind."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the demo extra is not installed")
pytest.importorskip("httptools", reason="the demo extra is not installed")
pytest.importorskip("rich", reason="the demo extra is not installed")

from clearway.cli import demo, httpload
from clearway.cli.demo import figures, load, machine, process, screen, server

from .command import SOURCE, clearway


def a_round(
    loop: str, number: int, requests: int, cpu_s: float = 1.0, errors: int = 0
) -> figures.Round:
    return figures.Round(
        loop,
        number,
        load.Load(requests, 2.0, errors, 0.001 * (number + 1), 0.01, 0.1, 0.5),
        process.Usage(cpu_s, 0.3, 0.1, 50),
    )


def test_a_summary_is_of_medians_and_its_ratio_of_pairs() -> None:
    rounds = [
        *(a_round("asyncio", number, requests) for number, requests in enumerate((100, 200, 400))),
        # twice, three times and once the control of the same round
        *(a_round("epoll", number, requests) for number, requests in enumerate((200, 600, 400))),
    ]
    summary = figures.summarize("epoll", rounds)
    assert summary is not None
    assert summary.requests_per_s == 200
    assert (summary.requests_per_s_min, summary.requests_per_s_max) == (100, 300)
    assert (summary.ratio, summary.ratio_min, summary.ratio_max) == (2.0, 1.0, 3.0)
    assert summary.p50_s == 0.002
    assert summary.cpu_us == pytest.approx(1e6 / 400)
    assert summary.cpu_user_us == pytest.approx(0.75e6 / 400)
    assert summary.switches == pytest.approx(50 / 400)


def test_without_the_control_there_is_no_ratio() -> None:
    summary = figures.summarize("uvloop", [a_round("uvloop", 0, 100)])
    assert summary is not None
    assert summary.ratio is None
    assert figures.summarize("epoll", [a_round("uvloop", 0, 100)]) is None


def test_the_table_shows_every_loop(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [a_round(loop, 0, 1_000) for loop in server.LOOPS]
    summaries = [figures.summarize(loop, rounds) for loop in server.LOOPS]
    screen.console().print(screen.table("heading", [item for item in summaries if item]))
    lines = capsys.readouterr().out.splitlines()
    for loop in server.LOOPS:
        assert any(screen.title(loop) in line and "1.00 (1.00-1.00)" in line for line in lines)
    assert "…" not in "".join(lines)


CONTEXT = {
    "machine": {"processor": "P", "cores": "2", "system": "S", "python": "CPython"},
    "service": "an application",
    "load": "wrk",
    "server_core": 0,
    "load_core": 1,
}


def notes(rounds: list[figures.Round], **absent: str) -> str:
    summaries = [figures.summarize(loop, rounds) for loop in server.LOOPS]
    return "\n".join(demo._notes(CONTEXT, absent, rounds, [item for item in summaries if item]))


def test_notes_say_what_was_wrong_with_the_figures() -> None:
    steady = [a_round("asyncio", 0, 100), a_round("asyncio", 1, 110)]
    assert "unsteady" not in notes(steady)
    assert "asyncio was unsteady" in notes([*steady, a_round("asyncio", 2, 500)])
    assert "FAILED" not in notes(steady)
    assert "asyncio: 3 requests FAILED" in notes([a_round("asyncio", 0, 100, errors=3)])
    assert "clearway uring is absent: forbidden" in notes(steady, uring="forbidden")


def test_cores_that_share_hardware_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_siblings", lambda core: {core, core ^ 1})
    assert machine.choose_cores() == (0, 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5})
    assert machine.choose_cores() == (4, 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7})
    assert machine.choose_cores() == (None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "'0' is not a whole number"),
        (["--seconds", "half"], "'half' is not a whole number"),
        (["--loops", "asyncio,trio"], "unknown: trio"),
        (["--load", "ab"], "invalid choice: 'ab'"),
    ],
)
def test_wrong_usage_exits_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main(words)
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name in ("rich", "httptools") else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert demo.main([]) == 1
    said = capsys.readouterr().err
    assert "rich, httptools not installed: pip install 'clearway[demo]'" in said


def test_a_missing_load_generator_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(load.LoadError, match="apt install wrk"):
        load.find("wrk")

    def uncompilable() -> Path:
        raise httpload.HttpLoadError("no C compiler")

    monkeypatch.setattr(httpload, "build", uncompilable)
    with pytest.raises(load.LoadError, match=r"apt install wrk.*no C compiler"):
        load.find("auto")


def test_wrk_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stand-in that prints what wrk prints."""
    wrk = tmp_path / "wrk"
    wrk.write_text(
        "#!/bin/sh\n"
        '[ "$1" = -v ] && { echo "wrk debian/4.1.0-3+b2 [epoll] Copyright"; exit 1; }\n'
        "echo Running 2s test\n"
        'echo \'{"requests":100,"duration_us":2000000,"errors":1,'
        '"p50_us":1000,"p99_us":2000,"p999_us":3000}\'\n'
    )
    wrk.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    generator = load.find()
    assert generator.name == "wrk 4.1.0-3+b2"
    found = generator.run(1, 64, 2)
    assert (found.requests, found.seconds, found.errors) == (100, 2.0, 1)
    assert (found.p50_s, found.p99_s, found.p999_s) == (0.001, 0.002, 0.003)


def test_a_load_generator_that_fails_is_quoted() -> None:
    with pytest.raises(load.LoadError, match="bad luck"):
        load._run(["sh", "-c", "echo bad luck; exit 3"], 10.0)


def test_a_load_generator_that_hangs_is_ended() -> None:
    with pytest.raises(load.LoadError, match="did not end"):
        load._run(["sleep", "1000"], 0.01)


@pytest.mark.parametrize("loop", ["asyncio", "epoll"])
def test_a_server_answers_and_its_usage_grows(loop: str) -> None:
    with process.ServerProcess(loop, None) as served:
        before = served.usage()
        served.warm_up()
        used = served.usage().since(before)
        assert used.cpu_s > 0
        assert used.switches >= 0
        assert served.loop_class.startswith("asyncio." if loop == "asyncio" else "clearway.")
        pid = served._process.pid if served._process else 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_loop_that_cannot_run_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(process.ServerError, match="ended without a word"),
        process.ServerProcess("asyncio", None),
    ):
        pass


def test_a_server_that_dies_is_noticed() -> None:
    with process.ServerProcess("asyncio", None) as served:
        assert served._process is not None
        served._process.kill()
        served._process.wait()
        with pytest.raises(process.ServerError):
            served.usage()


def test_a_server_ends_with_the_demo_that_was_killed(tmp_path: Path) -> None:
    """Even by SIGKILL, which leaves the demo no time to end anything."""
    script = (
        "import os, sys\n"
        "from clearway.cli.demo.process import ServerProcess\n"
        "served = ServerProcess('asyncio', None).__enter__()\n"
        "print(served._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": SOURCE},
    ) as parent:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            # Readable once the process has ended; the time limit of the test bounds the wait.
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)


def servers_of(pid: int) -> list[int]:
    """Processes that were started as servers of the demo ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--parent" in words and str(pid).encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_demo_and_its_servers(number: int, code: int, tmp_path: Path) -> None:
    words = [
        "demo",
        "--rounds",
        "1000",
        "--seconds",
        "1",
        "--loops",
        "asyncio",
        "--load",
        "builtin",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "clearway", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCE},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        assert running.stderr is not None
        # A measurement is over, and the next one under way.
        assert running.stderr.readline().startswith("round 1 "), running.stderr.read()
        running.send_signal(number)
        said = running.stderr.read()
    assert running.returncode == code
    assert "Traceback" not in said
    for pid in servers_of(running.pid):
        await_end_of(pid)


def await_end_of(pid: int) -> None:
    """Return once it has ended: a server that the demo leaves is killed, but not waited for."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Readable once the process has ended; the time limit of the test bounds the wait.
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_the_demo_measures_and_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "figures.json"
    words = ["--rounds", "1", "--seconds", "1", "--loops", "asyncio,epoll", "--load", "builtin"]
    picture = tmp_path / "deep" / "picture.html"
    words += ["--slow-seconds", "2", "--picture", str(picture)]
    done = clearway("demo", *words, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "clearway epoll" in done.stdout
    report = json.loads(file.read_text())
    assert [summary["loop"] for summary in report["summaries"]] == ["asyncio", "epoll"]
    for item in report["rounds"]:
        assert item["load"]["requests"] > 0
        assert item["usage"]["cpu_s"] > 0
    slow = {item["name"]: item for item in report["slow"]}
    assert list(slow) == ["asyncio", "off-epoll", "on-epoll"]
    assert all(item["errors"] == 0 for item in slow.values())
    assert slow["off-epoll"]["suspensions"] == 0
    assert slow["on-epoll"]["suspensions"] > 0
    assert picture.read_text().startswith("<!doctype html>")
