"""Measure servers against each other: interleaved, pinned, in fresh processes, as paired ratios.

One *round* measures every server once in every situation, in random order; a figure is compared
only with figures of the same round. A server is started anew for each sample, so that what is
chance in a process (address layout, hash seed, the allocator's habits: stock asyncio runs in one of
two modes by that chance alone) is averaged over and not frozen into the result.

While a sample is taken this process sleeps: it draws its progress between samples.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks import stats

ROOT = Path(__file__).parent.parent
#: A server that has not said its port by then is broken: importing takes well under a second.
START_TIMEOUT_S = 20.0
#: Beyond connecting, warm-up, window and drain: only a stuck load generator takes longer.
LOAD_GRACE_S = 30.0
#: A generator this busy may be what limits the sample; such samples are counted and shown.
LOAD_BOUND = 0.97
#: Other programs (or the hypervisor) took so much of a measured core: the sample is disturbed.
DISTURBED = 0.10


class BenchmarkError(RuntimeError):
    """A server or the load generator failed; the text says which and what it printed."""


@dataclass(frozen=True)
class Server:
    """One contestant: a name for the table, the program, and what its environment adds."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """What the servers are measured in: the load generator's arguments and a name for the table."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One server, one situation, one window. ``raw`` is the load generator's whole report."""

    server: str
    situation: str
    round: int
    raw: dict[str, Any]
    #: What the server said of itself when it started.
    ready: dict[str, Any]

    def figure(self, name: str) -> float | None:
        """A figure by its name in FIGURES; None where the machine or the server has none."""
        return FIGURES[name](self.raw)


def _per_request(raw: dict[str, Any], *keys: str, scale: float = 1.0) -> float | None:
    server = raw.get("server")
    if not server or not raw["requests"] or any(server.get(key) is None for key in keys):
        return None
    return float(sum(server[key] for key in keys)) * scale / float(raw["requests"])


def _latency(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda raw: raw["latency_us"][name] if raw["latency_us"]["count"] else None


def _server(name: str, scale: float = 1.0) -> Callable[[dict[str, Any]], float | None]:
    return lambda raw: raw["server"][name] * scale if raw.get("server") else None


#: Every figure that is derived from a sample, with its unit in its name.
FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "requests_per_s": lambda raw: raw["requests_per_s"],
    "p50_us": _latency("p50"),
    "p90_us": _latency("p90"),
    "p99_us": _latency("p99"),
    "p99_9_us": _latency("p99_9"),
    "max_us": _latency("max"),
    "cpu_us": lambda raw: _per_request(raw, "cpu_s", scale=1e6),
    "user_us": lambda raw: _per_request(raw, "user_s", scale=1e6),
    "system_us": lambda raw: _per_request(raw, "system_s", scale=1e6),
    "switches": lambda raw: _per_request(raw, "switches_voluntary", "switches_involuntary"),
    "faults": lambda raw: _per_request(raw, "minor_faults"),
    "instructions": lambda raw: _per_request(raw, "instructions_user", "instructions_kernel"),
    "instructions_user": lambda raw: _per_request(raw, "instructions_user"),
    "rss_mib": _server("rss_kib", 1 / 1024),
    "server_busy": _server("busy"),
    "load_busy": lambda raw: raw["load"]["busy"],
    "others": lambda raw: max(
        raw["load"]["core_others"], (raw.get("server") or {}).get("core_others", 0.0)
    ),
}


def asyncio_mode(sample: Sample) -> str:
    """Which of its two modes stock asyncio was in.

    It receives into a fresh 256 KiB object. Where the allocator answers that with mmap and munmap
    the kernel faults pages in anew for each read, and the server is several times slower; where it
    comes from the heap there are none. Faults per request tell the two apart.
    """
    faults = sample.figure("faults")
    if faults is None:
        return "unknown"
    return "mmap per read (slow)" if faults > 0.5 else "heap (fast)"


# ---- processes -----------------------------------------------------------------------------------


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _said(complaints: IO[str]) -> str:
    complaints.seek(0)
    return complaints.read().strip() or "nothing"


@contextmanager
def running(server: Server) -> Iterator[dict[str, Any]]:
    """Start ``server``, yield the JSON object of its first line, and kill it afterwards.

    Raises:
        BenchmarkError: it died or said nothing within START_TIMEOUT_S.
    """
    # A file and not a pipe: a server that complains a lot must not block on a pipe nobody reads.
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        process = subprocess.Popen(
            server.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, **server.env},
        )
        assert process.stdout is not None
        try:
            readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            line = process.stdout.readline() if readable else ""
            try:
                ready = json.loads(line)
            except ValueError:
                why = "did not start" if readable else f"said no port for {START_TIMEOUT_S:g} s"
                if readable:
                    process.wait(START_TIMEOUT_S)
                raise BenchmarkError(
                    f"server {server.name} {why}; it printed:\n{_said(complaints)}"
                ) from None
            try:
                yield ready
            except BenchmarkError as error:
                raise BenchmarkError(f"{error}\nthe server printed: {_said(complaints)}") from None
            if process.poll() is not None:
                raise BenchmarkError(
                    f"server {server.name} died under load with exit code {process.returncode}:\n"
                    f"{_said(complaints)}"
                )
        finally:
            _stop(process)


def measure(
    server: Server, load: Sequence[str], situation: Situation, *, round: int = 0, timeout_s: float
) -> Sample:
    """Take one sample: a fresh server, one run of the load generator ``load``.

    The generator is given ``--port`` and ``--pid`` and the situation's arguments.

    Raises:
        BenchmarkError: server or generator failed, or connections were lost.
    """
    with running(server) as ready:
        command = [
            *load,
            f"--port={ready['port']}",
            f"--pid={ready['pid']}",
            *situation.arguments,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(
                f"{server.name}, {situation.name}: no end of the load in {timeout_s:g} s"
            ) from None
        try:
            raw = json.loads(done.stdout)
        except ValueError:
            raise BenchmarkError(
                f"{server.name}, {situation.name}: load generator: {done.stderr.strip()}"
            ) from None
        if done.returncode or raw.get("errors"):
            raise BenchmarkError(
                f"{server.name}, {situation.name}: {raw.get('errors')} connections failed: "
                f"{done.stderr.strip()}"
            )
    return Sample(server.name, situation.name, round, raw, ready)


def interleave(
    servers: Sequence[Server],
    situations: Sequence[Situation],
    load: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    seed: int | None = None,
    on_start: Callable[[int, int, Situation, Server], None] | None = None,
    on_sample: Callable[[Sample], None] | None = None,
) -> list[Sample]:
    """Measure every server in every situation ``rounds`` times, in random order within a round.

    All servers of one situation are measured one after the other, so that the two sides of a pair
    lie seconds apart.

    Args:
        load: the load generator's command; its arguments come from the situation.
        seconds: length of one window with its warm-up, to know when a generator is stuck.
        seed: fixes the order; None draws one.
        on_start: called before each sample with its number, their total, situation and server.
        on_sample: called after each sample.

    Raises:
        BenchmarkError: a sample failed. What was measured until then is lost on purpose: a server
            that sometimes fails has no throughput.
    """
    rng = random.Random(seed)
    samples: list[Sample] = []
    total = rounds * len(servers) * len(situations)
    for round in range(rounds):
        for situation in rng.sample(situations, len(situations)):
            for server in rng.sample(servers, len(servers)):
                if on_start is not None:
                    on_start(len(samples), total, situation, server)
                sample = measure(
                    server, load, situation, round=round, timeout_s=seconds + LOAD_GRACE_S
                )
                samples.append(sample)
                if on_sample is not None:
                    on_sample(sample)
    return samples


# ---- results -------------------------------------------------------------------------------------


class Results:
    """Samples by server and situation, with the two questions asked of them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)
        self._of: dict[tuple[str, str], dict[int, Sample]] = defaultdict(dict)
        for sample in samples:
            self._of[sample.server, sample.situation][sample.round] = sample

    def of(self, server: str, situation: str) -> list[Sample]:
        return list(self._of[server, situation].values())

    def spread(self, server: str, situation: str, figure: str) -> stats.Spread | None:
        """Median and spread of a figure over the rounds; None where it is absent."""
        values = [sample.figure(figure) for sample in self.of(server, situation)]
        return stats.spread([value for value in values if value is not None])

    def ratio(self, server: str, peer: str, situation: str, figure: str) -> stats.Ratio | None:
        """``server``'s figure over ``peer``'s, paired by round."""
        ours, theirs = self._of[server, situation], self._of[peer, situation]
        pairs = []
        for round in sorted(ours.keys() & theirs.keys()):
            a, b = ours[round].figure(figure), theirs[round].figure(figure)
            if a is not None and b is not None:
                pairs.append((a, b))
        return stats.paired_ratio(pairs)

    def load_bound(self, server: str, situation: str) -> float:
        """Fraction of the samples in which the load generator's core was full."""
        samples = self.of(server, situation)
        full = sum(sample.raw["load"]["busy"] >= LOAD_BOUND for sample in samples)
        return full / len(samples) if samples else 0.0

    def disturbed(self) -> float:
        """Fraction of all samples in which others used the measured cores."""
        taken = [sample.figure("others") or 0.0 for sample in self.samples]
        return sum(value > DISTURBED for value in taken) / len(taken) if taken else 0.0

    def modes(self, server: str, situation: str) -> dict[str, int]:
        """How often the control ran in which of its modes."""
        counts: dict[str, int] = defaultdict(int)
        for sample in self.of(server, situation):
            counts[asyncio_mode(sample)] += 1
        return dict(counts)


# ---- progress ------------------------------------------------------------------------------------


class Progress:
    """One line that says what is measured and how long it will take.

    Drawn only between samples: a display that redraws itself would run on the measured cores.
    """

    def __init__(self, stream: Any = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.began = time.monotonic()
        self.note = ""

    def start(self, done: int, total: int, situation: Situation, server: Server) -> None:
        elapsed = time.monotonic() - self.began
        left = f"{elapsed / done * (total - done):.0f} s left" if done else ""
        bar = "█" * round(24 * done / total) + "·" * (24 - round(24 * done / total))
        line = f"{bar} {done}/{total}  {situation.name}: {server.name}  {left}  {self.note}"
        if self.live:
            width = shutil.get_terminal_size((100, 24)).columns - 1
            self.stream.write(f"\r\x1b[K{line[:width]}")
        elif done % max(1, total // 10) == 0:
            self.stream.write(f"{line}\n")
        self.stream.flush()

    def sample(self, sample: Sample) -> None:
        self.note = f"(last: {sample.server} {sample.raw['requests_per_s']:,.0f}/s)"

    def close(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
