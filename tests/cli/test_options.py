"""The options that choose a loop."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from clearway.cli.options import add_loop_options, duration, loop_options

from .command import SOURCE, clearway


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5ms", 0.005),
        ("0.005", 0.005),
        ("500us", 0.0005),
        ("1s", 1.0),
        (".5s", 0.5),
        (" 2 MS ", 0.002),
        ("3.", 3.0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "5 min", "-5ms", "0", "0ms", "1e-3", "nan", "5ms5"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="5ms"):
        duration(text)


def parse(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_loop_options(parser)
    return loop_options(parser, parser.parse_args(words))


def test_what_is_not_given_is_left_to_the_loop() -> None:
    assert parse() == {}


def test_all_that_is_given_arrives() -> None:
    assert parse(
        "--engine=epoll", "--debug", "--preempt", "off", "--quantum", "2ms", "--policy", "fair"
    ) == {
        "engine": "epoll",
        "debug": True,
        "preempt": "off",
        "quantum": 0.002,
        "policy": "fair",
    }


def test_every_option_of_a_loop_is_on_the_command_line() -> None:
    """An option that is added to the loop is not forgotten here."""
    import dataclasses

    from clearway.loop.options import LoopOptions

    parser = argparse.ArgumentParser()
    add_loop_options(parser)
    offered = set(vars(parser.parse_args([])))
    fields = {field.name for field in dataclasses.fields(LoopOptions)}
    # Not a choice, but who made it: the command line itself sets it.
    assert offered == fields - {"process_wide"}


def test_the_command_lists_its_commands() -> None:
    done = clearway("--help")
    assert done.returncode == 0
    for command in ("run", "doctor", "demo"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "message"), [([], "COMMAND"), (["frobnicate"], "invalid choice: 'frobnicate'")]
)
def test_an_unknown_command_exits_2(words: list[str], message: str) -> None:
    done = clearway(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_run_imports_nothing_of_the_demo() -> None:
    done = clearway("run", "-", stdin="import sys; print([m for m in sys.modules if 'demo' in m])")
    assert done.stdout == "[]\n", done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    """``clearway doctor | head -0``"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "clearway", "doctor"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1"},
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
