"""Child processes: started, watched, killed.

Two ways to run: a process per test, where nothing a test leaves behind can reach another one, and
a process per class ("batch"), about four times quicker. Both are the same code; a batch goes on in
a fresh process after a test that hung or crashed. The time-out is per test in both.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import suites

ROOT = Path(__file__).resolve().parents[2]
# A child imports asyncio, ssl and one test module before its first test: 0.3 s on an idle machine.
START_TIMEOUT_S = 60.0
# From the last result to the end of the process: tear-down of the module, exit handlers.
EXIT_TIMEOUT_S = 20.0
# What the child needs to print its unfinished tasks after SIGUSR2.
TASKS_TIMEOUT_S = 1.0
# What faulthandler needs to write the stacks of all threads after SIGABRT.
STACKS_TIMEOUT_S = 3.0
OUTPUT_KEPT = 12000  # characters of a child's output kept with a failure, its end


@dataclass
class Result:
    """What became of one test.

    ``outcome`` is passed, failed, hung, crashed, lost (listed, but no result came back), skipped
    (our table) or declined (upstream skipped it). ``seconds`` is the time of the test without
    that of its process; ``loops`` counts the loops made by the factory, ``escaped`` those of the
    standard library that were made instead; ``altered`` says that it left threads or processes.
    """

    id: str
    outcome: str
    detail: str = ""
    output: str = ""
    seconds: float = 0.0
    loops: int = 0
    escaped: int = 0
    altered: bool = False


@dataclass(frozen=True)
class Target:
    """The loop under test and the interpreter that runs it.

    Parameters: ``spec`` is "module:attribute", ``options`` its keyword arguments, ``python`` the
    interpreter, ``paths`` are put before its PYTHONPATH, ``timeout_s`` is for each test,
    ``package`` holds the tests.
    """

    spec: str
    options: dict[str, Any]
    python: str
    paths: tuple[str, ...] = ()
    timeout_s: float = 60.0
    package: str = suites.UPSTREAM_PACKAGE

    def command(self, *arguments: str) -> list[str]:
        module = "tests.conformance.child"
        return [self.python, "-m", module, self.spec, json.dumps(self.options), *arguments]

    def environment(self) -> dict[str, str]:
        paths = [str(ROOT), *self.paths, os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CONFORMANCE_PACKAGE": self.package,
        }


class Child:
    """One child process in a session and a temporary directory of its own."""

    def __init__(self, target: Target, *arguments: str) -> None:
        self.directory = tempfile.mkdtemp(prefix="conformance-")
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        read_fd, write_fd = os.pipe()
        try:
            self.process = subprocess.Popen(
                target.command(*arguments),
                cwd=self.directory,
                env=target.environment() | {"CONFORMANCE_FD": str(write_fd)},
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                pass_fds=(write_fd,),
                start_new_session=True,
            )
        except BaseException:
            os.close(read_fd)
            self.output.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        finally:
            os.close(write_fd)
        self.read_fd = read_fd
        self.selector = selectors.DefaultSelector()
        self.selector.register(read_fd, selectors.EVENT_READ)
        self.buffer = b""

    def next_record(self, timeout_s: float) -> dict[str, Any] | None:
        """The next record, or None at the end of the pipe. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.buffer:
            # The end of the process is polled for as well: a grandchild that was forked holds the
            # pipe open for as long as it lives.
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self.selector.select(min(left, 0.5)):
                data = os.read(self.read_fd, 65536)
                if not data:
                    return None
                self.buffer += data
            elif self.process.poll() is not None and not self.selector.select(0):
                return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        record: dict[str, Any] = json.loads(line)
        return record

    def exit_code(self) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        return self.process.wait(EXIT_TIMEOUT_S)

    def output_position(self) -> int:
        return os.fstat(self.output.fileno()).st_size

    def output_since(self, position: int = 0) -> str:
        size = self.output_position()
        begin = max(position, size - OUTPUT_KEPT)
        return os.pread(self.output.fileno(), size - begin, begin).decode(errors="replace")

    def abort(self) -> None:
        """Have the child write its tasks and the stacks of its threads, then kill its session."""
        for signum, timeout_s in (
            (signal.SIGUSR2, TASKS_TIMEOUT_S),
            (signal.SIGABRT, STACKS_TIMEOUT_S),
        ):
            if self.process.poll() is None:
                self.process.send_signal(signum)
                try:
                    self.process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    pass
        self.kill()

    def kill(self) -> None:
        """Kill whatever is left of the process group: also what a passed test left behind."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.selector.close()
        os.close(self.read_fd)
        self.output.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class HarnessError(Exception):
    """The harness could not do its work; says why, with the output of the child."""


def list_tests(target: Target) -> dict[str, Any]:
    """Ask the interpreter of ``target`` for its tests (see ``child.listing``)."""
    child = Child(target, "list")
    try:
        try:
            record = child.next_record(START_TIMEOUT_S)
        except TimeoutError:
            child.abort()
            record = None
        if record is None:
            raise HarnessError(
                f"{target.python} cannot list the tests for {target.spec}:\n{child.output_since()}"
            )
        return record
    finally:
        child.close()


@dataclass
class Pool:
    """Runs batches of ids, ``jobs`` children at a time.

    Parameters: ``on_result`` is called once for each test, one call at a time, in no particular
    order. After ``stop()`` nothing new is started and the running children are killed.
    """

    target: Target
    jobs: int
    on_result: Callable[[Result], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _children: set[Child] = field(default_factory=set)
    _stopped: bool = False
    _errors: list[BaseException] = field(default_factory=list)

    def run(self, batches: list[list[str]]) -> None:
        """Run all batches. Raises what went wrong in the harness itself."""
        waiting = deque(batches)
        threads = [
            threading.Thread(target=self._work, args=(waiting,), daemon=True)
            for _ in range(min(self.jobs, len(batches)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self.stop()
            for thread in threads:  # after an interrupt: they remove their children's directories
                thread.join(EXIT_TIMEOUT_S)
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.kill()

    def _work(self, waiting: deque[list[str]]) -> None:
        try:
            while not self._stopped:
                try:
                    batch = waiting.popleft()
                except IndexError:
                    return
                for result in self._run_batch(batch):
                    if self._stopped:
                        return
                    with self._lock:
                        self.on_result(result)
        except BaseException as error:
            self._errors.append(error)
            waiting.clear()

    def _run_batch(self, batch: list[str]) -> Iterator[Result]:
        left = batch
        while left and not self._stopped:
            known = set()
            for result in self._run_once(left):
                known.add(result.id)
                yield result
            left = [identifier for identifier in left if identifier not in known]

    def _run_once(self, ids: list[str]) -> Iterator[Result]:
        """Results of one process: at least one; all of them unless a test hung or crashed."""
        with self._lock:
            if self._stopped:
                return
            child = Child(self.target, "run", *ids)
            self._children.add(child)
        try:
            yield from self._watch(child, ids)
        finally:
            with self._lock:
                self._children.discard(child)
                child.close()

    def _watch(self, child: Child, ids: list[str]) -> Iterator[Result]:
        running: str | None = None
        last: Result | None = None  # held back until the process has ended well, or goes on
        fixtures: list[str] = []
        position, count = 0, 0
        timeout_s = START_TIMEOUT_S
        while True:
            try:
                record = child.next_record(timeout_s)
            except TimeoutError:
                child.abort()
                if last is not None:
                    yield last
                where = "" if running else "outside any test (set-up or tear-down of the class)\n"
                yield Result(
                    running or ids[min(count, len(ids) - 1)],
                    "hung",
                    f"{where}no result after {timeout_s:g} s",
                    child.output_since(position),
                    timeout_s,
                )
                return
            if record is None or record["event"] == "end":
                break
            if record.pop("event") == "start":
                if last is not None:
                    yield last
                    last = None
                running, position = record["id"], child.output_position()
                timeout_s = self.target.timeout_s
            elif "outcome" not in record:
                fixtures.append(f"{record['id']}\n{record['detail']}")
            else:
                outcome = {"skipped": "declined"}.get(record["outcome"], record["outcome"])
                last = Result(**record | {"outcome": outcome})
                last.output = (
                    "" if outcome in ("passed", "declined") else child.output_since(position)
                )
                running, count, timeout_s = None, count + 1, EXIT_TIMEOUT_S
        yield from self._ending(child, ids, running, last, fixtures, position, count)

    def _ending(
        self,
        child: Child,
        ids: list[str],
        running: str | None,
        last: Result | None,
        fixtures: list[str],
        position: int,
        count: int,
    ) -> Iterator[Result]:
        """The results that depend on how the process ended."""
        try:
            code = child.exit_code()
            trouble = ("crashed", f"exit status {code}{signal_name(code)}") if code else None
        except subprocess.TimeoutExpired:
            child.abort()
            trouble = ("hung", f"the process did not end within {EXIT_TIMEOUT_S:g} s")
        output = child.output_since(position)
        if running is not None:
            # Without an exit status the test has ended the process with os._exit(0).
            outcome, detail = trouble or ("crashed", "the process ended during the test")
            if last is not None:
                yield last
            yield Result(running, outcome, detail, output)
            return
        if last is not None:
            if trouble is not None and last.outcome != "failed":
                last.outcome, last.output = trouble[0], output
                last.detail = f"after the last test of its process: {trouble[1]}"
            elif fixtures:
                last.outcome, last.detail = "failed", "\n".join(fixtures)
            yield last
        if count < len(ids) and (last is None or not trouble):
            # The process ended in good order (or before its first test) and owes results.
            why = "\n".join(fixtures) or (trouble[1] if trouble else "no result came back")
            for identifier in ids[count:]:
                yield Result(identifier, "lost", why, output)


def signal_name(code: int) -> str:
    """The name of the signal for a status of -11, with a space before it; else nothing."""
    try:
        return f" ({signal.Signals(-code).name})"
    except ValueError:
        return ""
