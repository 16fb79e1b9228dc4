"""Mixed real work gives the same results when it is suspended at thousands of arbitrary instructions.

``CLEARWAY_SUSPENSIONS`` sets how many suspensions are made (default 20,000; a million takes minutes).
"""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import functools
import importlib
import io
import json
import logging
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clearway.scheduler.preemption import refusal

if refusal("on") is not None:
    pytest.skip(f"{refusal('on')}", allow_module_level=True)

from clearway.testing import shuffle

SUSPENSIONS = int(os.environ.get("CLEARWAY_SUSPENSIONS", "20000"))

#: Runs that must do it, at the most: fewer suspensions than expected are a finding, not a reason to go on.
RUNS_MAX = max(SUSPENSIONS // 100, 10)

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=-1)


def with_json(seed: int) -> Any:
    data = {str(i): [i * seed, {"nested": i / 7}] for i in range(12)}
    # Indented output comes from the encoder that is written in Python.
    return json.loads(json.dumps(data, indent=1, default=str))


def with_regex(seed: int) -> Any:
    text = " ".join(f"key{i}=value{i * seed}" for i in range(12))
    return re.sub(r"(\w+)=(\w+)", lambda match: f"{match[2]}:{match[1]}", text)


def with_sort_keys(seed: int) -> Any:
    def key(number: int) -> int:
        return (number * 7919 + seed) % 101

    def compare(a: int, b: int) -> int:
        return key(a) - key(b)

    return sorted(range(20), key=key), sorted(range(12), key=functools.cmp_to_key(compare))


def with_generators(seed: int) -> Any:
    def inner(n: int) -> Iterator[int]:
        for i in range(n):
            received = yield i * seed
            assert received is None

    def outer() -> Iterator[int]:
        for n in range(5):
            yield from inner(n)

    return list(outer()), sum(x * x for x in outer())


def with_exceptions(seed: int) -> Any:
    seen = []

    def deep(n: int) -> None:
        if n == 0:
            raise ValueError(seed)
        try:
            deep(n - 1)
        finally:
            seen.append((n, type(sys.exc_info()[1]).__name__))

    try:
        try:
            deep(5)
        except ValueError as error:
            seen.append((0, str(sys.exc_info()[1] is error)))
            raise KeyError(seed) from error
    except KeyError as error:
        seen.append((error.args[0], repr(error.__cause__)))
    assert sys.exc_info() == (None, None, None)
    return seen


def with_context(seed: int) -> Any:
    token = variable.set(seed)
    seen = [variable.get() for _ in range(15)]

    def inside() -> int:
        variable.set(seed + 1)
        return variable.get()

    seen.append(contextvars.copy_context().run(inside))
    seen.append(variable.get())
    variable.reset(token)
    return seen


def with_logging(seed: int) -> Any:
    stream = io.StringIO()
    logger = logging.Logger(f"million.{seed}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    for i in range(5):
        logger.info("record %d of %d", i, seed)
    return stream.getvalue()


def with_imports(seed: int) -> Any:
    name = ("colorsys", "sndhdr", "chunk", "this_does_not_exist", "stringprep")[seed % 5]
    if name in ("sndhdr", "chunk"):  # gone in 3.13
        name = "colorsys"
    sys.modules.pop(name, None)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return type(error).__name__
    return len([each for each in vars(module) if not each.startswith("__")])


def with_sqlite(seed: int) -> Any:
    connection = sqlite3.connect(":memory:")
    try:
        connection.create_function("triple", 1, lambda x: 3 * x)
        connection.execute("create table t (a integer)")
        connection.executemany("insert into t values (?)", [(i * seed,) for i in range(10)])
        return connection.execute("select triple(a) from t order by a desc").fetchall()
    finally:
        connection.close()


def with_decimal(seed: int) -> Any:
    with decimal.localcontext() as context:
        context.prec = 20 + seed % 5
        total = decimal.Decimal(1)
        for i in range(1, 15):
            total += decimal.Decimal(seed) / i
        return str(total), decimal.getcontext().prec


def with_numpy(seed: int) -> Any:
    numpy = pytest.importorskip("numpy")
    matrix = numpy.arange(16).reshape(4, 4) * seed
    return numpy.vectorize(lambda x: x % 7)(matrix).tolist(), float(matrix.sum())


WORK: list[Callable[[int], Any]] = [
    with_json,
    with_regex,
    with_sort_keys,
    with_generators,
    with_exceptions,
    with_context,
    with_logging,
    with_imports,
    with_sqlite,
    with_decimal,
]
try:
    import numpy  # noqa: F401
except ImportError:
    pass
else:
    WORK.append(with_numpy)


async def everything(expected: list[list[Any]] | None) -> list[list[Any]]:
    async def worker(number: int) -> list[Any]:
        results = []
        for offset in range(len(WORK)):
            work = WORK[(number + offset) % len(WORK)]
            task = asyncio.current_task()
            variable.set(number)
            result = work(number)
            assert variable.get() == number, work.__name__
            assert asyncio.current_task() is task, work.__name__
            if expected is not None:
                assert result == expected[number][offset], work.__name__
            results.append(result)
            if offset % 3 == 0:
                await asyncio.sleep(0)
        return results

    return list(await asyncio.gather(*(worker(number) for number in range(6))))


@pytest.mark.limit(60 + SUSPENSIONS / 200)
def test_results_do_not_depend_on_suspensions() -> None:
    expected = asyncio.run(everything(None))
    made = runs = 0
    while made < SUSPENSIONS:
        assert runs < RUNS_MAX, f"{made} suspensions in {runs} runs"
        report = shuffle(lambda: everything(expected), runs=1, seed=runs, gap=12, record=False)
        made += report.suspensions
        runs += 1
