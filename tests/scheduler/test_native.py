"""The monitor, the kick and the unwinder, without any event loop."""

from __future__ import annotations

import gc
import os
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clearway.scheduler import _native, calibration, locks
from clearway.scheduler._native import StepClock
from clearway.scheduler.preemption import VIRTUAL_SIGNAL

WHERE = {
    getattr(_native, name): name
    for name in (
        *("AT_BOUNDARY", "AT_WAIT", "AT_C_CALL", "AT_FOREIGN", "AT_DEEP", "AT_FINALISER"),
        "AT_UNKNOWN",
    )
}


class Watch:
    """A step clock under the monitor whose kicks are recorded."""

    def __init__(self) -> None:
        self.clock = StepClock()
        self.seen: list[tuple[str, str, str]] = []
        self.base = 0
        self.on_kick: Callable[[], None] | None = None

    def received(self, frame: Any) -> None:
        where, detail, _ = _native.classify(self.base)
        self.seen.append((WHERE[where], detail, frame.f_code.co_name))
        self.clock.word += 2  # a new slice
        if self.on_kick is not None:
            self.on_kick()

    def run(self, function: Callable[[], Any]) -> list[tuple[str, str, str]]:
        """Call ``function`` as a step."""
        self.seen.clear()
        self.base = _native.stack_mark() + 4096
        self.clock.word |= 1
        self.clock.unpark()
        try:
            function()
        finally:
            self.clock.word = (self.clock.word | 1) + 1
        return self.seen

    def kinds(self) -> set[str]:
        return {kind for kind, _, _ in self.seen}


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    old = signal.signal(VIRTUAL_SIGNAL, _native.handle_signal)
    _native.install_kick(VIRTUAL_SIGNAL)
    calibration.calibrate()
    _native.set_receiver(watch.received)
    watch.clock.configure(mode=_native.MODE_ON, quantum_ns=1_000_000)
    watch.clock.register()
    yield watch
    watch.clock.unregister()
    _native.set_receiver(None)
    _native.remove_kick()
    signal.signal(VIRTUAL_SIGNAL, old)


def spin_until(done: Callable[[], bool]) -> None:
    while not done():
        pass


def test_a_step_over_its_slice_is_kicked_again_and_again(watch: Watch) -> None:
    watch.run(lambda: spin_until(lambda: len(watch.seen) >= 5))
    assert watch.kinds() == {"AT_BOUNDARY"}


def test_steps_within_their_slice_are_not_kicked(watch: Watch) -> None:
    watch.clock.configure(mode=_native.MODE_ON, quantum_ns=10_000_000_000)
    watch.clock.word |= 1
    watch.clock.unpark()
    first = watch.clock.ticks
    # The monitor must have looked several times for this to mean anything; a poke makes it look.
    while watch.clock.ticks < first + 20:
        watch.clock.poke()
        watch.clock.word += 2
    watch.clock.word += 1
    assert watch.seen == []
    assert watch.clock.kicks == (0, 0)


def test_an_idle_loop_is_not_kicked_and_the_monitor_parks(watch: Watch) -> None:
    spin_until(lambda: watch.clock.parked)
    ticks = watch.clock.ticks
    # Were it awake it would tick a thousand times in this while.
    select.select([], [], [], 0.05)
    assert watch.clock.ticks - ticks <= 2
    assert watch.seen == []
    watch.run(lambda: spin_until(lambda: bool(watch.seen)))
    assert not watch.clock.parked


def test_a_planned_slice_replaces_the_quantum(watch: Watch) -> None:
    watch.clock.configure(mode=_native.MODE_ON, quantum_ns=10_000_000_000)

    def step() -> None:
        watch.clock.plan(_native.now_ns() + 200_000)
        watch.clock.poke()
        spin_until(lambda: bool(watch.seen))

    watch.run(step)
    assert watch.kinds() == {"AT_BOUNDARY"}


def test_while_watching_the_engine_fd_ends_a_wait(watch: Watch) -> None:
    reader, writer = os.pipe()
    other, wake = os.pipe()
    watch.clock.configure(mode=_native.MODE_ON, quantum_ns=2_000_000, engine_fd=reader)
    # The kick is what ends the step: without it the read would block for ever.
    watch.on_kick = lambda: os.write(wake, b"x") and None

    def step() -> None:
        watch.clock.plan(_native.now_ns() + 1_000_000_000_000, watch=True, waits=True)
        watch.clock.poke()
        os.write(writer, b"x")
        os.read(other, 1)

    watch.run(step)
    assert watch.kinds() <= {"AT_WAIT", "AT_BOUNDARY"} and watch.seen
    for fd in (reader, writer, other, wake):
        os.close(fd)


def test_while_watching_the_deadline_ends_a_wait(watch: Watch) -> None:
    other, wake = os.pipe()
    watch.on_kick = lambda: os.write(wake, b"x") and None

    def step() -> None:
        watch.clock.deadline_ns = _native.now_ns() + 3_000_000
        watch.clock.plan(_native.now_ns() + 1_000_000_000_000, watch=True, waits=True)
        watch.clock.poke()
        os.read(other, 1)
        watch.clock.deadline_ns = 0

    watch.run(step)
    assert watch.kinds() <= {"AT_WAIT", "AT_BOUNDARY"} and watch.seen
    os.close(other)
    os.close(wake)


def test_an_alarm_kicks_in_every_mode(watch: Watch) -> None:
    for mode in (_native.MODE_OFF, _native.MODE_REPORT):
        watch.clock.configure(mode=mode, quantum_ns=1_000_000)

        def step() -> None:
            watch.clock.alarm_ns = _native.now_ns() + 1_000_000
            watch.clock.poke()
            spin_until(lambda: bool(watch.seen))
            watch.clock.alarm_ns = 0

        watch.run(step)
        assert watch.kinds() == {"AT_BOUNDARY"}


# -- where a step was interrupted -------------------------------------------------------------------------------


class _Node:
    pass


def _interrupted(watch: Watch, function: Callable[[], None], times: int = 2) -> set[str]:
    watch.run(function)
    assert len(watch.seen) >= times, "the step was not interrupted at all"
    return watch.kinds()


def _spin(watch: Watch, times: int = 3) -> None:
    start = len(watch.seen)
    while len(watch.seen) < start + times:
        pass


def test_boundary_inside_a_generator_driven_by_c(watch: Watch) -> None:
    def numbers() -> Iterator[int]:
        while len(watch.seen) < 3:
            yield 1

    assert _interrupted(watch, lambda: sum(numbers())) == {"AT_BOUNDARY"}


def test_boundary_inside_a_sort_key(watch: Watch) -> None:
    assert _interrupted(watch, lambda: sorted([1, 2], key=lambda _: _spin(watch) or 0)) == {
        "AT_BOUNDARY"
    }


def test_finaliser_is_seen(watch: Watch) -> None:
    class Dying:
        def __del__(self) -> None:
            _spin(watch)

    def step() -> None:
        Dying()

    assert _interrupted(watch, step) == {"AT_FINALISER"}


def test_weak_reference_callback_is_seen(watch: Watch) -> None:
    def step() -> None:
        node = _Node()
        reference = weakref.ref(node, lambda _: _spin(watch))
        del node
        assert reference() is None

    assert _interrupted(watch, step) == {"AT_FINALISER"}


def test_generator_close_is_seen(watch: Watch) -> None:
    def generator() -> Iterator[int]:
        try:
            yield 1
        finally:
            _spin(watch)

    def step() -> None:
        g = generator()
        next(g)
        del g

    assert _interrupted(watch, step) == {"AT_FINALISER"}


def test_foreign_native_code_is_seen(watch: Watch) -> None:
    ctypes = pytest.importorskip("ctypes")
    callback = ctypes.CFUNCTYPE(None)(lambda: _spin(watch))
    assert _interrupted(watch, lambda: callback()) == {"AT_FOREIGN"}
    assert any("_ctypes" in detail for _, detail, _ in watch.seen)


def test_sqlite_callback_is_foreign(watch: Watch) -> None:
    sqlite3 = pytest.importorskip("sqlite3")
    connection = sqlite3.connect(":memory:")
    connection.create_function("spin", 0, lambda: _spin(watch))
    assert _interrupted(watch, lambda: connection.execute("select spin()").fetchall()) == {
        "AT_FOREIGN"
    }
    connection.close()


def test_a_stack_deeper_than_the_unwinder_looks_is_refused(watch: Watch) -> None:
    def nest(depth: int) -> None:
        if depth:
            max([0], key=lambda _: nest(depth - 1) or 0)
        else:
            watch.seen.clear()  # what came on the way down
            _spin(watch)
            deepest.update(watch.kinds())

    deepest: set[str] = set()
    watch.run(lambda: nest(40))
    assert deepest == {"AT_DEEP"}


def test_a_c_call_that_looks_at_signals_is_no_wait(watch: Watch) -> None:
    # sre looks at its signals now and then; it is not in the table of waits.
    assert "AT_C_CALL" in _interrupted(watch, lambda: re.match("(?:a|aa)+$", "a" * 29 + "b"), 1)


def _later(function: Callable[..., Any], *args: Any) -> None:
    timer = threading.Timer(0.03, function, args)
    timer.daemon = True
    timer.start()


def _wait_sleep() -> None:
    time.sleep(0.03)


def _wait_recv() -> None:
    a, b = socket.socketpair()
    with a, b:
        _later(b.send, b"x")
        a.recv(1)


def _wait_recv_with_timeout() -> None:
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(0.03)
        with pytest.raises(TimeoutError):
            a.recv(1)


def _wait_accept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.03)
        with pytest.raises(TimeoutError):
            server.accept()


def _wait_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    _later(lock.release)
    lock.acquire()


def _wait_lock_with_timeout() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.03)


def _wait_with_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    _later(lock.release)
    with lock:
        pass


def _wait_os_read() -> None:
    reader, writer = os.pipe()
    _later(os.write, writer, b"x")
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)


def _wait_raw_file() -> None:
    reader, writer = os.pipe()
    _later(os.write, writer, b"x")
    with open(reader, "rb", buffering=0) as file:
        file.read(1)
    os.close(writer)


def _wait_select() -> None:
    select.select([], [], [], 0.03)


def _wait_poll() -> None:
    select.poll().poll(30)


def _wait_epoll() -> None:
    with select.epoll() as epoll:
        epoll.poll(0.03)


def _wait_subprocess() -> None:
    subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.05)"], check=True)


def _wait_communicate() -> None:
    subprocess.run(["sleep", "0.03"], capture_output=True, check=True)


def _wait_queue() -> None:
    with pytest.raises(queue.Empty):
        queue.Queue[int]().get(timeout=0.03)


if sys.version_info >= (3, 13):

    def _wait_simple_queue() -> None:
        with pytest.raises(queue.Empty):
            queue.SimpleQueue[int]().get(timeout=0.03)


def _wait_event() -> None:
    threading.Event().wait(0.03)


def _wait_thread_join() -> None:
    thread = threading.Thread(target=time.sleep, args=(0.03,))
    thread.start()
    thread.join()


def _wait_sigtimedwait() -> None:
    signal.sigtimedwait([signal.SIGUSR2], 0.03)


WAITS = [value for name, value in sorted(globals().items()) if name.startswith("_wait_")]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__[6:])
def test_a_blocking_call_is_recognised(watch: Watch, wait: Callable[[], None]) -> None:
    watch.run(wait)
    assert "AT_WAIT" in watch.kinds()
    assert "AT_UNKNOWN" not in watch.kinds()


@pytest.mark.parametrize("make", [locks.Lock, locks.RLock])
@pytest.mark.parametrize("how", ["acquire", "with"])
def test_our_own_locks_wait_as_their_callers(watch: Watch, make: Any, how: str) -> None:
    lock = make()
    held = threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.03)

    def step() -> None:
        if how == "with":
            with lock:
                pass
        else:
            lock.acquire()
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    watch.run(step)
    thread.join()
    assert "AT_WAIT" in watch.kinds()
    assert "AT_C_CALL" not in watch.kinds()


def test_buffered_files_are_never_a_wait(watch: Watch) -> None:
    reader, writer = os.pipe()
    _later(os.write, writer, b"x\n")
    with open(reader, "rb") as file:
        watch.run(file.readline)
    os.close(writer)
    assert watch.seen
    assert "AT_WAIT" not in watch.kinds()


# -- signals ------------------------------------------------------------------------------------------------------


def test_somebody_elses_handler_of_sigurg_is_kept_and_comes_back() -> None:
    got: list[int] = []
    old = signal.signal(signal.SIGURG, lambda number, frame: got.append(number))
    try:
        _native.install_kick(VIRTUAL_SIGNAL)
        assert _native.kick_is_installed()
        signal.raise_signal(signal.SIGURG)
        assert got == [signal.SIGURG]
        _native.remove_kick()
        assert not _native.kick_is_installed()
        signal.raise_signal(signal.SIGURG)
        assert got == [signal.SIGURG] * 2
    finally:
        signal.signal(signal.SIGURG, old)


def test_a_handler_installed_after_ours_is_left_in_place() -> None:
    got: list[int] = []
    _native.install_kick(VIRTUAL_SIGNAL)
    old = signal.signal(signal.SIGURG, lambda number, frame: got.append(number))
    try:
        _native.remove_kick()
        signal.raise_signal(signal.SIGURG)
        assert got == [signal.SIGURG]
    finally:
        signal.signal(signal.SIGURG, signal.SIG_DFL if old is None else old)


def test_other_signals_are_not_stranded_by_the_kick(watch: Watch) -> None:
    got: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        watch.on_kick = lambda: signal.raise_signal(signal.SIGUSR1)
        watch.run(lambda: _spin(watch, 5))
        assert len(got) >= 4
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_the_monitor_takes_no_signal_of_the_program(watch: Watch) -> None:
    watch.run(lambda: _spin(watch, 1))
    masks = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as file:
            status = file.read()
        if "clearway-monitr" in status:
            (mask,) = re.findall(r"SigBlk:\s*([0-9a-f]+)", status)
            masks.append(int(mask, 16))
    assert masks
    for mask in masks:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGURG):
            assert mask & (1 << (number - 1))


def test_the_child_of_a_fork_gets_a_monitor_of_its_own(watch: Watch) -> None:
    watch.run(lambda: _spin(watch, 1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            if not watch.clock.registered:
                watch.clock.register()
                watch.run(lambda: _spin(watch, 2))
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    watch.run(lambda: _spin(watch, 1))


def test_a_thousand_clocks_leak_nothing() -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        clock = StepClock()
        clock.configure(mode=_native.MODE_REPORT, quantum_ns=5_000_000, report_ns=100_000_000)
        clock.register()
        clock.unregister()
    assert set(os.listdir("/proc/self/fd")) == before
    monitors = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                monitors += file.read().strip() == "clearway-monitr"
        except OSError:
            pass  # it went away meanwhile
    assert monitors <= 1
