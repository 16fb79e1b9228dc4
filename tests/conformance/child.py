"""The process in which upstream's tests run: lists them, or runs some and reports JSON lines.

Started by ``pool`` as ``python -m tests.conformance.child SPEC OPTIONS list|run [ids...]``; the
lines go to the file descriptor in CONFORMANCE_FD, because the tests own stdout and stderr.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
import types
import unittest
from typing import Any

from . import install, suites


class Reporter(unittest.TestResult):
    """Sends one record when a test starts and one when it has ended.

    A test can report several things (sub-tests, a failure and then an error in tear-down); the
    worst decides.
    """

    RANK = ("passed", "skipped", "failed")

    def __init__(self, channel: Channel, factory: install.Factory) -> None:
        super().__init__()
        self.channel = channel
        self.factory = factory
        self.pid = os.getpid()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome, self.detail = "", ""
        self.factory.made = self.factory.escaped = 0
        self.channel.send(event="start", id=test_id(test))
        self.began = time.perf_counter()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if os.getpid() != self.pid:  # a test forked and came back up to here in the child
            os._exit(1)
        support: Any = importlib.import_module("test.support")
        self.channel.send(
            event="stop",
            id=test_id(test),
            # unittest tells nothing about a test in which every sub-test was skipped.
            outcome=self.outcome or "passed",
            detail=self.detail,
            seconds=round(time.perf_counter() - self.began, 4),
            loops=self.factory.made,
            escaped=self.factory.escaped,
            altered=bool(support.environment_altered),
        )
        support.environment_altered = False

    def note(self, outcome: str, detail: str) -> None:
        if not self.outcome or self.RANK.index(outcome) > self.RANK.index(self.outcome):
            self.outcome, self.detail = outcome, detail
        elif outcome == self.outcome == "failed":
            self.detail += "\n" + detail

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.note("passed", "")

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.note("passed", "expected failure")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.note("failed", "upstream expects this test to fail, and it passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.note("skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.note("failed", "".join(traceback.format_exception(*err)))

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        text = "".join(traceback.format_exception(*err))
        if isinstance(test, unittest.TestCase):
            self.note("failed", text)
        else:  # setUpModule, setUpClass and their tear-downs come as a placeholder
            self.channel.send(event="fixture", id=str(test), detail=text)

    def addSubTest(self, test: unittest.TestCase, subtest: Any, err: Any) -> None:
        if err is not None:
            self.note("failed", f"{subtest}\n" + "".join(traceback.format_exception(*err)))


class Channel:
    """JSON lines to the parent."""

    def __init__(self, fd: int) -> None:
        # Not for the programs that the tests start.
        os.set_inheritable(fd, False)
        self.fd = fd

    def send(self, **record: Any) -> None:
        data = json.dumps(record).encode() + b"\n"
        while data:
            data = data[os.write(self.fd, data) :]


def test_id(test: unittest.TestCase) -> str:
    return test.id().removeprefix(suites.PREFIX)


def module_names() -> list[str]:
    package = importlib.import_module(suites.PREFIX.rstrip("."))
    return sorted(
        info.name
        for info in pkgutil.iter_modules(package.__path__)
        if info.name.startswith("test_")
    )


def test_classes(module: types.ModuleType) -> dict[str, type[unittest.TestCase]]:
    """The test classes that a module defines and that hold tests, in order of definition."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, unittest.TestCase)
        and value.__module__ == module.__name__
        and unittest.defaultTestLoader.getTestCaseNames(value)
    }


def listing() -> dict[str, Any]:
    """All ids this interpreter offers, what is left out, and what is wrong in the tables."""
    found: dict[str, list[str]] = {}
    tests: list[str] = []
    left_out: dict[str, str] = {}
    for name in module_names():
        reason = suites.LEFT_OUT_MODULES.get(name)
        if reason is not None:
            left_out[name] = reason
            continue
        classes = test_classes(importlib.import_module(suites.PREFIX + name))
        found[name] = list(classes)
        for class_name, cls in classes.items():
            reason = suites.LEFT_OUT_CLASSES.get((name, class_name))
            if reason is not None:
                left_out[f"{name}.{class_name}"] = reason
                continue
            tests += [
                f"{name}.{class_name}.{method}"
                for method in unittest.defaultTestLoader.getTestCaseNames(cls)
            ]
    return {
        "event": "listing",
        "tests": tests,
        "left_out": left_out,
        "problems": suites.check_tables(found),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def run(ids: list[str], factory: install.Factory, channel: Channel) -> None:
    """Run tests of any number of classes in the order given."""
    # Some of test.support prints more when it believes that regrtest runs it verbosely.
    support: Any = importlib.import_module("test.support")
    support.verbose = 0
    install.install(factory)
    suite = unittest.TestSuite()
    adapted: dict[str, type] = {}
    for identifier in ids:
        module_name, class_name, method = identifier.split(".")
        key = f"{module_name}.{class_name}"
        if key not in adapted:
            module = importlib.import_module(suites.PREFIX + module_name)
            install.adapt_module(module, factory)
            adapted[key] = install.adapt_class(module_name, getattr(module, class_name), factory)
        suite.addTest(adapted[key](method))
    suite.run(Reporter(channel, factory))


def show_tasks(signum: int, frame: types.FrameType | None) -> None:
    """What every unfinished task waits for: a loop that sleeps says nothing by its own stack."""
    faulthandler.dump_traceback(all_threads=True)
    for task in gc.get_objects():
        if isinstance(task, asyncio.Task) and not task.done():
            print(f"\nunfinished: {task!r}", file=sys.stderr)
            # Follows the awaits down, which print_stack of a compiled task does not.
            awaited: Any = task.get_coro()
            while awaited is not None:
                inner = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
                if inner is None:
                    print(f"  on {awaited!r}", file=sys.stderr)
                else:
                    code = inner.f_code
                    print(
                        f'  File "{code.co_filename}", line {inner.f_lineno}, in {code.co_name}',
                        file=sys.stderr,
                    )
                awaited = getattr(awaited, "cr_await", None) or getattr(
                    awaited, "gi_yieldfrom", None
                )
    sys.stderr.flush()


def main(argv: list[str]) -> None:
    # How the parent asks what a test that hangs is doing: first at the level of tasks, which needs
    # an interpreter that still runs signal handlers, then at the level of stacks, which does not.
    signal.signal(signal.SIGUSR2, show_tasks)
    # A shell starts what it puts in the background with SIGINT ignored; tests of KeyboardInterrupt need a handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable(all_threads=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    spec, options, command, *ids = argv
    channel = Channel(int(os.environ["CONFORMANCE_FD"]))
    given = json.loads(options)
    if spec == install.SHORT_NAMES["clearway"] and "preempt" in given:
        # As a user gives it to a program that is not written for it: one that runs loops in threads goes on.
        os.environ["CLEARWAY_PREEMPT"] = given.pop("preempt")
    factory = install.Factory(spec, given)
    if command == "list":
        channel.send(**listing())
    else:
        run(ids, factory, channel)
    channel.send(event="end")


if __name__ == "__main__":
    main(sys.argv[1:])
