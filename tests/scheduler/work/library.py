"""Modules of the standard library that run Python code inside of C code, or keep state for everybody."""

from __future__ import annotations

import ast
import collections
import configparser
import copy
import csv
import datetime
import decimal
import fractions
import html.parser
import importlib
import inspect
import io
import json
import linecache
import logging
import os
import pathlib
import pickle
import random
import re
import sqlite3
import string
import subprocess
import sys
import tempfile
import textwrap
import tokenize
import traceback
import types
import typing
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from typing import Any

import clearway

from .language import Odd, Record

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]


def with_json(seed: int) -> Any:
    data = {str(i): [i * seed, {"nested": i / 7}] for i in range(8)}
    # Indented output comes from the encoder that is written in Python.
    text = json.dumps(data, indent=1, default=str)
    hooked = json.loads(text, object_hook=lambda pairs: sorted(pairs.items()))
    return hooked, json.dumps([Odd(seed)], default=lambda odd: odd.number)


def with_logging(seed: int) -> Any:
    stream = io.StringIO()
    logger = logging.Logger(f"million.{seed}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    for i in range(5):
        logger.info("record %d of %r", i, Odd(seed))
    return stream.getvalue()


def with_known_modules(seed: int) -> Any:
    name = ("colorsys", "this_does_not_exist", "stringprep")[seed % 3]
    sys.modules.pop(name, None)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return type(error).__name__
    return len([each for each in vars(module) if not each.startswith("__")])


def with_fresh_modules(seed: int) -> Any:
    """Modules that nobody has imported before, one of which imports the other."""
    with tempfile.TemporaryDirectory() as directory:
        name = "fresh_" + os.path.basename(directory).replace("-", "_")
        body = f"VALUES = []\nfor i in range(20):\n    VALUES.append(i * {seed})\n"
        pathlib.Path(directory, f"{name}_inner.py").write_text(body)
        body = f"from {name}_inner import VALUES\nclass Made:\n    total = sum(VALUES)\n"
        pathlib.Path(directory, f"{name}.py").write_text(body)
        path = [directory]
        finder = importlib.machinery.PathFinder()
        found = []
        for each in (f"{name}_inner", name):
            spec = finder.find_spec(each, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[each] = module
            spec.loader.exec_module(module)
            found.append(module)
        try:
            return found[1].Made.total, found[0].VALUES == found[1].VALUES
        finally:
            for each in (f"{name}_inner", name):
                del sys.modules[each]


def with_sqlite(seed: int) -> Any:
    connection = sqlite3.connect(":memory:")
    try:
        connection.create_function("triple", 1, lambda x: 3 * x)
        connection.create_collation("odd", lambda a, b: (a % 3 > b % 3) - (a % 3 < b % 3))
        connection.execute("create table t (a integer)")
        connection.executemany("insert into t values (?)", ((i * seed,) for i in range(10)))
        connection.row_factory = lambda cursor, row: [column * 2 for column in row]
        return connection.execute("select triple(a) from t order by a desc").fetchall()
    finally:
        connection.close()


def with_decimal(seed: int) -> Any:
    with decimal.localcontext() as context:
        context.prec = 20 + seed % 5
        total = decimal.Decimal(1)
        for i in range(1, 15):
            total += decimal.Decimal(seed) / i
        ratio = sum((fractions.Fraction(1, i) for i in range(1, 8)), fractions.Fraction(seed))
        return str(total), decimal.getcontext().prec, str(ratio)


def with_numpy(seed: int) -> Any:
    if numpy is None:
        return None
    matrix = numpy.arange(16).reshape(4, 4) * seed
    objects = numpy.array([Odd(i) for i in range(6)], dtype=object)
    with numpy.errstate(divide="ignore"):
        inverse = numpy.ones(3) / numpy.arange(3)
    return (
        numpy.vectorize(lambda x: x % 7)(matrix).tolist(),
        float(matrix.sum()),
        [odd.number for odd in numpy.sort(objects)],
        (objects == Odd(3)).tolist(),
        numpy.apply_along_axis(lambda row: row[::-1] % 5, 0, matrix).tolist(),
        inverse.tolist(),
        repr(matrix),
    )


class Reduced:
    """Taken apart and put together by Python code, called from the C pickler."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        parts = [self.value[i] for i in range(len(self.value))]
        return (_restore, (parts,), {"state": len(parts)}, iter([1, 2]))

    def __setstate__(self, state: dict[str, int]) -> None:
        self.state = state["state"]

    def append(self, item: int) -> None:
        self.value.append(item)

    def extend(self, items: Any) -> None:
        for item in items:
            self.append(item)


def _restore(parts: list[Any]) -> Reduced:
    return Reduced(list(map(abs, parts[:1])) + parts[1:])


def with_pickles(seed: int) -> Any:
    data = {"reduced": Reduced([seed, Odd(seed)]), "records": [Record("r", [1]), Odd(seed)]}
    data["self"] = data
    results = []
    for dump in (pickle.dumps, pickle._dumps):  # type: ignore[attr-defined]
        for load in (pickle.loads, pickle._loads):  # type: ignore[attr-defined]
            copied = load(dump(data))
            reduced = copied["reduced"]
            results.append((repr(reduced.value), reduced.state, copied["self"] is copied))
    return results


def with_copies(seed: int) -> Any:
    class Deep:
        def __init__(self, n: int) -> None:
            self.n = n
            self.others: list[Any] = []

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            made = memo[id(self)] = Deep(self.n + 1)
            made.others = copy.deepcopy(self.others, memo)
            return made

    one, two = Deep(seed), Deep(seed * 2)
    one.others, two.others = [two, {"one": one}], [one]
    copied = copy.deepcopy(one)
    record = copy.deepcopy(Record("r", [Odd(1), [Odd(2)]]))
    return (
        copied.n,
        copied.others[0].others[0] is copied,
        copied.others[1]["one"] is copied,
        repr(record),
        copy.copy(record).parts is record.parts,
    )


def with_tracebacks(seed: int) -> Any:
    def fail(n: int) -> None:
        if n:
            fail(n - 1)
        raise ValueError(f"at {n}")

    try:
        try:
            fail(3)
        except ValueError:
            raise KeyError(seed)  # noqa: B904
    except KeyError as error:
        text = traceback.format_exc()
        walked = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        short = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert error.__context__ is not None
        names = [entry.name for entry in traceback.extract_tb(error.__context__.__traceback__)]
    code = compile("def made():\n    return 1 / 0\n", f"<made {seed}>", "exec")
    linecache.cache[f"<made {seed}>"] = (30, None, ["def made():\n", "    return 1 / 0\n"], "")
    scope: dict[str, Any] = {}
    exec(code, scope)
    try:
        scope["made"]()
    except ZeroDivisionError:
        made = traceback.format_exc().splitlines()[-1]
    return text.count("raise ValueError"), walked, len(list(short.format())), names, made


def with_inspection(seed: int) -> Any:
    def function(a: int, /, b: str = "", *rest: int, key: Any = None, **others: Any) -> list[Any]:
        return [frame.function for frame in inspect.stack(context=0)[:1]]

    signature = inspect.signature(function)
    bound = signature.bind(seed, "b", 1, 2, key=3, other=4)
    bound.apply_defaults()
    members = dict(inspect.getmembers(Record("r"), lambda value: isinstance(value, (int, str))))
    hints = typing.get_type_hints(Record)
    return (
        str(signature),
        bound.arguments,
        function(1),
        inspect.getsource(Odd.__eq__).count("return"),
        members["name"],
        sorted(hints),
    )


def with_warnings(seed: int) -> Any:
    with clearway.critical(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(3):
            warnings.warn(f"warning {i * seed}", stacklevel=1)
    with clearway.critical(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            warnings.warn("raised", RuntimeWarning, stacklevel=1)
        except RuntimeWarning as error:
            return [str(each.message) for each in caught], str(error)


def with_compilation(seed: int) -> Any:
    source = f"def f(x):\n    y = [x * {seed} for _ in range(3)]\n    return sum(y)\n"
    tree = ast.parse(source)

    class Doubler(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.copy_location(ast.Constant(node.value * 2), node)

    changed = ast.fix_missing_locations(Doubler().visit(tree))
    scope: dict[str, Any] = {}
    exec(compile(changed, "<changed>", "exec"), scope)
    tokens = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)]
    return scope["f"](3), ast.unparse(changed), len(tokens), eval("[i for i in range(5)]")


def with_text(seed: int) -> Any:
    generator = random.Random(seed)
    words = ["".join(generator.choices(string.ascii_letters, k=5)) for _ in range(20)]
    wrapped = textwrap.fill(" ".join(words), 30)
    out = io.StringIO()
    csv.writer(out).writerows([[Odd(i), words[i]] for i in range(3)])
    rows = list(csv.reader(line for line in out.getvalue().splitlines()))
    config = configparser.ConfigParser()
    config.read_string(f"[a]\nbase = {seed}\nvalue = %(base)s0\n")

    class Collector(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.seen.append((tag, attrs))

    collector = Collector()
    collector.feed(f"<p class='a{seed}'>text<b>bold</b></p>")
    return (
        wrapped,
        rows,
        config["a"]["value"],
        collector.seen,
        string.Template("$a and ${b}").substitute(a=seed, b=Odd(seed)),
        "{!r:>10} {[key]}".format(Odd(seed), {"key": seed}),
        re.split(r"(\W)", wrapped)[:6],
    )


def with_xml(seed: int) -> Any:
    class Target:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def start(self, tag: str, attributes: dict[str, str]) -> None:
            self.seen.append(tag + "".join(attributes.values()))

        def close(self) -> list[str]:
            return self.seen

    text = f"<root><a n='{seed}'/><a n='2'><b/></a></root>"
    parser: Any = ElementTree.XMLParser(target=Target())
    parser.feed(text)
    root = ElementTree.fromstring(text)
    return parser.close(), [node.get("n") for node in root.iter("a")], ElementTree.tostring(root)


def with_dates(seed: int) -> Any:
    class Zone(datetime.tzinfo):
        def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
            return datetime.timedelta(hours=seed % 12)

        def dst(self, when: datetime.datetime | None) -> datetime.timedelta:
            return datetime.timedelta(0)

        def tzname(self, when: datetime.datetime | None) -> str:
            return f"zone {seed}"

    when = datetime.datetime(2024, 2, 29, 12, tzinfo=Zone())
    moved = when.astimezone(datetime.UTC)
    return str(when), str(moved), when == moved, when.strftime("%Z %j"), hash(when) == hash(moved)


def with_files(seed: int) -> Any:
    class Upper(io.RawIOBase):
        """A raw file in Python beneath a buffer and a text layer in C."""

        def __init__(self) -> None:
            self.data = b"".join(b"line %d\n" % (i * seed) for i in range(6))

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            part, self.data = self.data[: min(len(buffer), 7)], self.data[7:]
            buffer[: len(part)] = part.upper()
            return len(part)

    lines = list(io.TextIOWrapper(io.BufferedReader(Upper(), 16)))
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "archive.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(3):
                archive.writestr(f"{i}.txt", str(i * seed) * 20)
        with zipfile.ZipFile(path) as archive:
            inside = {name: len(archive.read(name)) for name in archive.namelist()}
        found = sorted(each.name for each in pathlib.Path(directory).iterdir())
    return lines, inside, found


def with_child_processes(seed: int) -> Any:
    done = subprocess.run(["cat"], input=b"%d" % seed, capture_output=True, check=True)
    failed = subprocess.run(["false"])
    return done.stdout, failed.returncode


def with_types(seed: int) -> Any:
    T = typing.TypeVar("T")

    class Box(typing.Generic[T]):
        item: T

    @typing.runtime_checkable
    class Closes(typing.Protocol):
        def close(self) -> None: ...

    space = types.SimpleNamespace(a=Odd(seed), b=[Odd(1)])
    return (
        str(Box[int]).rpartition(".")[2],
        typing.get_args(dict[str, list[int]]),
        isinstance(io.StringIO(), Closes),
        isinstance(3, Closes),
        repr(space),
    )


_in_use: set[Odd] = set()
_recent: collections.OrderedDict[Odd, int] = collections.OrderedDict()


def with_shared_containers(seed: int) -> Any:
    """What others put into the same set and the same cache in between must not matter, or be met half changed."""
    mine = [Odd(seed * 1000 + number) for number in range(8)]
    for key in mine:
        _in_use.add(key)
        _recent[key] = key.number
    found = [key in _in_use for key in mine]
    for key in mine[:4]:
        _recent.move_to_end(key, last=key.number % 2 == 0)
    missing = len(set(mine) - _in_use)
    _in_use.difference_update(mine[:4])
    values = [_recent.pop(key) for key in mine]
    for key in mine[4:]:
        _in_use.remove(key)
    return (
        found,
        missing,
        values,
        [key in _in_use for key in mine],
        [key in _recent for key in mine],
    )
