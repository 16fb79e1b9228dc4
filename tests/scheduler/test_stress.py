"""Mixed real work, suspended again and again at arbitrary points, must give what it gives undisturbed.

``CLEARWAY_STRESS_SUSPENSIONS`` (default 3,000) says how many suspensions there must have been at least.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import decimal
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import random
import re
import sqlite3
import string
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clearway.scheduler.preemption import Scheduler

from .host import Host

SUSPENSIONS = int(os.environ.get("CLEARWAY_STRESS_SUSPENSIONS", "3000"))
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


def work_json(seed: int) -> Any:
    data = {f"key {i}": [i * seed, {"nested": str(i)}] for i in range(30)}
    return json.loads(json.dumps(data, default=str, indent=1))


def work_json_in_python(seed: int) -> Any:
    class Odd:
        def __init__(self, value: int) -> None:
            self.value = value

    return json.dumps([Odd(seed + i) for i in range(20)], default=lambda odd: odd.value)


def work_regex(seed: int) -> Any:
    text = " ".join(f"{i * seed}:{chr(97 + i % 26)}" for i in range(100))
    return re.sub(r"(\d+):(\w)", lambda m: m[2] + str(int(m[1]) % 97), text)


def work_sort(seed: int) -> Any:
    numbers = [(i * seed * 7919) % 1009 for i in range(200)]
    by_digits = sorted(numbers, key=lambda n: (str(n)[::-1], n))
    by_comparison = sorted(numbers, key=functools.cmp_to_key(lambda a, b: (a > b) - (a < b)))
    return by_digits, by_comparison


def work_generators(seed: int) -> Any:
    def tree(n: int) -> Iterator[int]:
        if n:
            yield from tree(n - 1)
            yield n * seed
            yield from tree(n - 1)

    return sum(tree(7)), list(itertools.islice(itertools.accumulate(tree(5)), 20))


def work_exceptions(seed: int) -> Any:
    out = []

    def fail(n: int) -> None:
        try:
            if n == 0:
                raise KeyError(seed)
            fail(n - 1)
        except KeyError as error:
            if n % 3 == 0:
                raise ValueError(n) from error
            raise
        finally:
            out.append(n)

    for n in range(8):
        try:
            fail(n)
        except (KeyError, ValueError) as error:
            out.append(type(error).__name__)
            out.append(type(error.__cause__).__name__)
            out.append(sys.exc_info()[0] is type(error))
    out.append(sys.exc_info() == (None, None, None))
    return out


def work_context(seed: int) -> Any:
    seen = []

    def inside(depth: int) -> None:
        variable.set(seed * 100 + depth)
        for _ in range(30):
            seen.append(variable.get() - seed * 100)
        if depth:
            contextvars.copy_context().run(inside, depth - 1)
        seen.append(variable.get() - seed * 100)

    contextvars.copy_context().run(inside, 4)
    return seen


def work_logging(seed: int) -> Any:
    stream = io.StringIO()
    logger = logging.Logger(f"stress {seed}")
    logger.addHandler(logging.StreamHandler(stream))
    for i in range(20):
        logger.warning("record %d of %d", i, seed)
    return stream.getvalue()


def work_sqlite(seed: int) -> Any:
    connection = sqlite3.connect(":memory:")
    connection.create_function("twice", 1, lambda n: 2 * n)
    connection.execute("create table t (n integer)")
    connection.executemany("insert into t values (?)", [(i * seed,) for i in range(50)])
    rows = connection.execute("select twice(n) from t order by n % 7, n").fetchall()
    connection.close()
    return rows


def work_decimal(seed: int) -> Any:
    with decimal.localcontext() as context:
        context.prec = 20 + seed % 10
        total = decimal.Decimal(0)
        for i in range(1, 60):
            total += decimal.Decimal(1) / decimal.Decimal(i)
        return str(total), context.prec


def work_classes(seed: int) -> Any:
    class Vector:
        def __init__(self, *values: int) -> None:
            self.values = values

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Vector) and self.values == other.values

        def __hash__(self) -> int:
            return hash(self.values)

        def __add__(self, other: Any) -> Any:
            return Vector(*(a + b for a, b in zip(self.values, other.values, strict=True)))

        def __lt__(self, other: Any) -> bool:
            return bool(self.values < other.values)

        def __del__(self) -> None:
            collections.Counter(self.values)

    vectors = [Vector(i % 5, i * seed % 7) for i in range(60)]
    counted = collections.Counter(vectors)
    return sorted(v.values for v in counted), max(vectors).values, sum(vectors, Vector(0, 0)).values


def work_import(seed: int) -> Any:
    import colorsys

    try:
        __import__(f"this_module_does_not_exist_{seed}")
    except ImportError as error:
        return str(error), colorsys.rgb_to_hls(0.5, 0.25, 1.0)
    return None


def work_text(seed: int) -> Any:
    generator = random.Random(seed)
    text = "".join(generator.choice(string.ascii_letters) for _ in range(300))
    return hashlib.sha256(zlib.compress(text.encode())).hexdigest(), text.title().swapcase()


def work_locks(seed: int) -> Any:
    lock = threading.RLock()
    values: list[int] = []
    with lock:
        for i in range(40):
            with lock:
                values.append(i * seed)
    return values


WORK: list[Callable[[int], Any]] = [
    value for name, value in sorted(globals().items()) if name.startswith("work_")
]


@pytest.mark.limit(20 + SUSPENSIONS / 500)
def test_results_are_those_of_the_undisturbed_run() -> None:
    expected = {(work.__name__, seed): work(seed) for work in WORK for seed in range(1, 9)}
    # Ten times shorter than the shortest quantum that users may ask for.
    scheduler = Scheduler("on", 0.00005, "round-robin")
    host = Host(scheduler)
    rounds = 0

    async def worker(number: int) -> None:
        nonlocal rounds
        generator = random.Random(number)
        while scheduler.suspensions < SUSPENSIONS:
            work = generator.choice(WORK)
            seed = generator.randrange(1, 9)
            assert work(seed) == expected[work.__name__, seed], (work.__name__, seed)
            rounds += 1
            if generator.random() < 0.3:
                await asyncio.sleep(0)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(worker(number))

    try:
        asyncio.set_event_loop(host)
        host.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        host.close()
    assert scheduler.suspensions >= SUSPENSIONS
    assert rounds > len(WORK)
    print(rounds, scheduler.statistics())
