"""The bars of the preemptive scheduler: ratios, each taken within one run.

``python -m benchmarks.preempt [--rounds N] [--engine E] [--json FILE]``. Every measurement is a
fresh process on one core; the client of the echo server sits on another. Latency is counted from
when a message was due, so a server that stands still is not forgiven what nobody could send. The client
runs under SCHED_FIFO where that is allowed: otherwise its own waiting for its core, milliseconds
beside any other program, is taken for the server's. How late it still was is printed, and so is how
long the server waited for its core, which no event loop can help.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, table

#: CPU time of one hog, seconds; four of them stop a cooperative loop for 1.6 s.
HOG_S = 0.4
#: Between two messages to the echo server, and two wake-ups of the high-priority task, seconds.
GAP_S = 0.005
QUANTUM_S = 0.001
#: Of the bar on what preemption costs the hogs.
COST_QUANTUM_S = 0.005
#: Of the bar on many hogs that begin at once: CPU time of each, seconds, how many there are, and how often they come.
BURST_HOG_S = 0.003
BURST = 8
BURST_GAP_S = 0.05
BURSTS = 32
#: How long the weighted hogs run together, seconds.
SHARE_S = 2.0
WEIGHTS = (1.0, 2.0, 4.0)
#: Pairs of one measurement of what preemption costs, CPU time of a hog in them (seconds), and processes in
#: which it is taken: where a process's stacks and code lie decides by some per cent how fast a hog is.
COST_PAIRS = 3
COST_HOG_S = 0.1
COST_PROCESSES = 7
_CHUNK = 2_000


def hog(rounds: int) -> int:
    """Pure Python without an ``await``.

    Its numbers are those that CPython keeps ready made: with others the allocator's state, which differs
    between any two runs, decides by up to a tenth how fast it is.
    """
    value = 0
    for _ in range(rounds // 200):
        for number in range(200):
            value = (value ^ number) + 1 & 0xFF
    return value


def rounds_for(seconds: float) -> int:
    """Rounds of :func:`hog` that take so long here, undisturbed: by the fastest of five tries."""

    def once() -> float:
        began = time.thread_time()
        hog(100_000)
        return time.thread_time() - began

    return int(seconds / min(once() for _ in range(5)) * 100_000)


def percentile(values: Sequence[float], fraction: float) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


# -- what runs in a process of its own: each returns figures -----------------------------------


def run_on(
    loop: str, main: Coroutine[Any, Any, Any], *, preempt: str = "on", **options: Any
) -> Any:
    """Run on uvloop, or on clearway with that engine."""
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    import clearway

    return clearway.run(main, engine=loop, preempt=preempt, **options)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def echo(loop: str) -> dict[str, float]:
    """The latency of an echo server beside four hogs, seconds, while they run."""
    rounds = rounds_for(HOG_S)

    async def compute() -> None:
        hog(rounds)

    async def beside() -> None:
        await asyncio.gather(*(compute() for _ in range(4)))

    return echo_beside(loop, beside)


def bursts(loop: str) -> dict[str, float]:
    """The same beside hogs that become ready at the same time, again and again."""
    rounds = rounds_for(BURST_HOG_S)

    async def compute() -> None:
        hog(rounds)

    async def beside() -> None:
        for _ in range(BURSTS):
            await asyncio.gather(asyncio.sleep(BURST_GAP_S), *(compute() for _ in range(BURST)))

    return echo_beside(loop, beside)


def echo_beside(loop: str, beside: Callable[[], Coroutine[Any, Any, None]]) -> dict[str, float]:
    """The latency of an echo server while ``beside()`` runs, seconds."""

    async def main() -> dict[str, float]:
        running = asyncio.get_running_loop()
        server = await running.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.preempt", "--client", str(port)]
        client = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdin is not None and client.stdout is not None
        await client.stdout.readline()  # it has had its first echoes
        began, waited = time.monotonic(), waited_for_core()
        await beside()
        ended, waited = time.monotonic(), waited_for_core() - waited
        client.stdin.close()
        told = json.loads(await client.stdout.read())
        await client.wait()
        server.close()
        samples = [item for item in told["samples"] if began <= item[0] < ended]
        late = [got - due for due, _, got in samples]
        return {
            "p50": percentile(late, 0.5),
            "p99": percentile(late, 0.99),
            "worst": max(late),
            "samples": len(late),
            "client_late_p99": percentile([sent - due for due, sent, _ in samples], 0.99),
            "client_fifo": float(told["fifo"]),
            "waited_for_core": waited / (ended - began),
        }

    figures: dict[str, float] = run_on(loop, main(), quantum=QUANTUM_S)
    return figures


def waited_for_core() -> float:
    """Seconds for which this process's main thread was ready to run and had no core; 0.0 where the kernel
    does not tell."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def run_before_others() -> bool:
    """Ask for the core whenever this process is ready; False where that is not allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def client(port: int) -> None:
    """Send a message every :data:`GAP_S` until stdin ends; print when each was due, sent and answered."""
    move_to_other_core()
    fifo = run_before_others()
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    samples: list[tuple[float, float, float]] = []
    buffer = b""
    due = time.monotonic()
    sent = 0
    stopping = False
    while not stopping or len(samples) < sent:
        now = time.monotonic()
        while due <= now and not stopping:
            connection.send(struct.pack("dd", due, time.monotonic()))
            sent += 1
            due += GAP_S
        watched: list[Any] = [connection] if stopping else [connection, sys.stdin]
        timeout = 10.0 if stopping else max(due - time.monotonic(), 0.0)
        ready = select.select(watched, [], [], timeout)[0]
        if connection in ready:
            buffer += connection.recv(65536)
            now = time.monotonic()
            while len(buffer) >= 16:
                samples.append((*struct.unpack("dd", buffer[:16]), now))
                buffer = buffer[16:]
                if len(samples) == 20:
                    print("ready", flush=True)
        elif stopping:
            break
        if sys.stdin in ready:
            stopping = True
    print(json.dumps({"samples": samples, "fifo": fifo}))


def move_to_other_core() -> None:
    cores = machine.default_cores()
    core = int(os.environ.get("CLEARWAY_BENCH_CLIENT_CORE", cores[1]))
    if core >= 0:
        os.sched_setaffinity(0, {core})


def cost(loop: str) -> dict[str, float]:
    """CPU time of four hogs that take turns over that of the same four one after the other: the same tasks on
    the same loop without preemption.

    Of the whole process, so that the monitor's is in it.
    """
    rounds = rounds_for(COST_HOG_S)

    async def compute() -> None:
        hog(rounds)

    async def together() -> float:
        began = time.process_time()
        await asyncio.gather(*(compute() for _ in range(4)))
        return time.process_time() - began

    def once(mode: str) -> float:
        used: float = run_on(loop, together(), preempt=mode, quantum=COST_QUANTUM_S)
        return used

    ratios = []
    for number in range(COST_PAIRS):
        if number % 2:
            alone = once("off")
            preempted = once("on")
        else:
            preempted = once("on")
            alone = once("off")
        ratios.append(preempted / alone)
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def priority(loop: str) -> dict[str, float]:
    """How late a high-priority task wakes under ten low hogs, seconds."""
    import clearway

    rounds = rounds_for(HOG_S / 2)

    async def compute() -> None:
        hog(rounds)

    async def urgent(late: list[float]) -> None:
        while True:
            due = time.monotonic() + GAP_S
            await asyncio.sleep(GAP_S)
            late.append(time.monotonic() - due)

    async def main() -> list[float]:
        late: list[float] = []
        task = clearway.create_task(urgent(late), priority=10)
        await asyncio.sleep(2 * GAP_S)
        late.clear()
        await asyncio.gather(*(clearway.create_task(compute(), priority=0) for _ in range(10)))
        task.cancel()
        return late

    late = run_on(loop, main(), quantum=QUANTUM_S, policy="priority")
    return {"p50": percentile(late, 0.5), "p99": percentile(late, 0.99), "samples": len(late)}


def equal(loop: str) -> dict[str, float]:
    """Eight equal hogs: how far apart they finish, as a part of the time they took together."""
    rounds = rounds_for(HOG_S / 2)

    async def main() -> float:
        ended: list[float] = []
        began = time.monotonic()

        async def compute() -> None:
            hog(rounds)
            ended.append(time.monotonic() - began)

        await asyncio.gather(*(compute() for _ in range(8)))
        return (max(ended) - min(ended)) / max(ended)

    return {"spread": run_on(loop, main(), quantum=QUANTUM_S, policy="fair")}


def weighted(loop: str) -> dict[str, float]:
    """Hogs of weight 1, 2 and 4: the greatest error of a share, relative to what it should be."""
    import clearway

    async def main() -> list[int]:
        done = [0] * len(WEIGHTS)
        end = time.monotonic() + SHARE_S

        async def compute(index: int) -> None:
            while time.monotonic() < end:
                hog(_CHUNK)
                done[index] += 1

        await asyncio.gather(
            *(
                clearway.create_task(compute(index), weight=weight)
                for index, weight in enumerate(WEIGHTS)
            )
        )
        return done

    done = run_on(loop, main(), quantum=QUANTUM_S, policy="fair")
    shares = [count / sum(done) for count in done]
    wanted = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    errors = [abs(share / want - 1) for share, want in zip(shares, wanted, strict=True)]
    return {"error": max(errors), **{f"share_{n}": share for n, share in enumerate(shares)}}


SCENARIOS: dict[str, Callable[[str], dict[str, float]]] = {
    "echo": echo,
    "bursts": bursts,
    "cost": cost,
    "priority": priority,
    "equal": equal,
    "weighted": weighted,
}


# -- the harness -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One line of the verdict. ``value`` is the median over the rounds and must be ``at_most`` or
    ``at_least`` the bound."""

    name: str
    value: float
    low: float
    high: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.at_least is not None and self.value >= self.at_least

    @property
    def bound(self) -> str:
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"


def measure(scenario: str, loop: str) -> dict[str, float]:
    """Run a scenario in a process of its own, on one core.

    :raises RuntimeError: it failed; the text is the last line that it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.preempt", "--scenario", scenario, "--on", loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"{scenario} on {loop}: {said[-1] if said else done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure_often(scenario: str, loop: str) -> dict[str, float]:
    """The medians of as many processes as the scenario needs to be believed."""
    times = COST_PROCESSES if scenario == "cost" else 1
    taken = [measure(scenario, loop) for _ in range(times)]
    return {name: statistics.median(item[name] for item in taken) for name in taken[0]}


def bars(engine: str, rounds: Sequence[dict[str, dict[str, float]]]) -> list[Bar]:
    """Judge the rounds; each maps "scenario@loop" to figures."""

    def bar(name: str, value: Callable[[Any], float], **bound: float) -> list[Bar]:
        try:
            values = [value(item) for item in rounds]
        except KeyError:
            return []  # the peer is not here
        return [Bar(name, statistics.median(values), min(values), max(values), **bound)]

    ours, peer = f"echo@{engine}", "echo@uvloop"
    return [
        *bar("echo p99, quanta", lambda r: r[ours]["p99"] / QUANTUM_S, at_most=2.5),
        *bar("echo p99, uvloop's / ours", lambda r: r[peer]["p99"] / r[ours]["p99"], at_least=100),
        *bar(
            f"echo p99, {BURST} hogs at once, quanta",
            lambda r: r[f"bursts@{engine}"]["p99"] / QUANTUM_S,
            at_most=4.0,
        ),
        *bar("hogs, preempted / serial", lambda r: r[f"cost@{engine}"]["ratio"], at_most=1.05),
        *bar(
            "high priority p99, quanta",
            lambda r: r[f"priority@{engine}"]["p99"] / QUANTUM_S,
            at_most=2.0,
        ),
        *bar("8 equal hogs, spread of ends", lambda r: r[f"equal@{engine}"]["spread"], at_most=0.1),
        *bar("weights 1:2:4, worst share", lambda r: r[f"weighted@{engine}"]["error"], at_most=0.1),
    ]


def conditions(echoes: Sequence[dict[str, float]]) -> str:
    """Under what the latencies were measured, for the reader to judge them by."""
    if not echoes:
        return ""
    late = max(item["client_late_p99"] for item in echoes) * 1e3
    waited = max(item["waited_for_core"] for item in echoes) * 100
    how = "SCHED_FIFO" if all(item["client_fifo"] for item in echoes) else "an ordinary process"
    return (
        f"echo: the client was {how}, its own sends at most {late:.2f} ms late (p99); "
        f"the server waited for its core {waited:.1f} % of the time at most"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and say which bars are met; 1 when one is not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preempt", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=("uring", "epoll"), default="epoll")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scenario", choices=SCENARIOS, help=argparse.SUPPRESS)
    parser.add_argument("--on", help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.client is not None:
        client(arguments.client)
        return 0
    if arguments.scenario is not None:
        own, other = machine.default_cores()
        if own >= 0:
            os.environ["CLEARWAY_BENCH_CLIENT_CORE"] = str(other)
            os.sched_setaffinity(0, {own})
        print(json.dumps(SCENARIOS[arguments.scenario](arguments.on)))
        return 0
    about = machine.describe()
    wanted = [(name, arguments.engine) for name in SCENARIOS] + [("echo", "uvloop")]
    rounds: list[dict[str, dict[str, float]]] = []
    failed: set[str] = set()
    for _ in range(arguments.rounds):
        figures = {}
        for scenario, loop in wanted:
            try:
                figures[f"{scenario}@{loop}"] = measure_often(scenario, loop)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed.add(str(error))
        rounds.append(figures)
    verdicts = bars(arguments.engine, rounds)
    rows = [["bar", "median", "range", "bound", "met"]]
    for bar in verdicts:
        span = f"{bar.low:.3g} - {bar.high:.3g}"
        rows.append(
            [bar.name, f"{bar.value:.3g}", span, bar.bound, "met" if bar.met else "NOT met"]
        )
    print(machine.one_line(about))
    print(f"engine {arguments.engine}, {len(rounds)} rounds, quantum {QUANTUM_S * 1e3:g} ms\n")
    print(table.render(rows))
    print(
        conditions(
            [
                item[f"echo@{arguments.engine}"]
                for item in rounds
                if f"echo@{arguments.engine}" in item
            ]
        )
    )
    for text in sorted(failed):
        print(f"failed: {text}")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "machine": about,
            "engine": arguments.engine,
            "bars": [{**asdict(bar), "met": bar.met} for bar in verdicts],
            "rounds": rounds,
            "failed": sorted(failed),
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if not failed and all(bar.met for bar in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
