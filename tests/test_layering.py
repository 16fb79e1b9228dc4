"""The layers of the package hold: in Python by import-linter, in Cython by reading it.

``.importlinter`` is the one table. import-linter reads Python only; what ``.pxd`` and ``.pyx``
files import and cimport is found here and held to the same table.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
CONFIGURATION = ROOT / ".importlinter"

#: Where a plain .py file may use Cython's own syntax; everywhere else it must run uncompiled as it
#: is, and its C declarations are in the .pxd beside it.
COMPILED_ONLY = (
    "clearway.kernel.",
    "clearway.engine.uring",
    "clearway.scheduler._native",
    "clearway.testing._events",
)

_FROM = re.compile(r"^\s*from\s+(?P<module>[.\w]+)\s+c?import\s+(?P<names>.*)$")
_IMPORT = re.compile(r"^\s*c?import\s+(?P<modules>[\w.]+(?:\s*,\s*[\w.]+)*)\s*(?:as\s+\w+)?\s*$")


def layers() -> list[list[set[str]]]:
    """The layers from the top; each a list of groups that may not know each other.

    Members of one group may: the ``a : b`` of import-linter.
    """
    configuration = configparser.ConfigParser()
    configuration.read(CONFIGURATION)
    text = configuration["importlinter:contract:layers"]["layers"]
    result = []
    for line in text.strip().splitlines():
        names = [name.strip(" ()") for name in re.split(r"[|:]", line)]
        strangers = "|" in line
        result.append([{name} for name in names] if strangers else [set(names)])
    return result


def place(layering: list[list[set[str]]], member: str) -> tuple[int, int]:
    """The layer and the group of a direct member of the package."""
    for height, groups in enumerate(layering):
        for index, group in enumerate(groups):
            if member in group:
                return height, index
    raise KeyError(member)


def wrong(layering: list[list[set[str]]], importer: str, imported: str) -> str | None:
    """Why ``importer`` may not import ``imported`` (both dotted names), or None if it may."""
    parts = imported.split(".")
    importing = importer.split(".")[1]
    if len(parts) == 1:
        allowed = importing in ("cli", "__main__")
        return None if allowed else f"{importer} imports the public face"
    if importing == parts[1]:
        return None
    upper, lower = place(layering, importing), place(layering, parts[1])
    if upper[0] < lower[0] or upper == lower:
        return None
    where = "above" if upper[0] > lower[0] else "beside"
    return f"{importer} imports {imported}, which is {where} it"


def imports(text: str, module: str) -> Iterator[str]:
    """Modules of clearway that Cython source imports or cimports, as dotted names.

    :param module: the dotted name of the source itself, for relative imports.
    """
    # Statements in brackets and with a trailing backslash go over several lines.
    text = re.sub(r"#.*", "", text)
    text = re.sub(r"\(([^()]*)\)", lambda match: match[1].replace("\n", " "), text)
    text = text.replace("\\\n", " ")
    for line in text.splitlines():
        if match := _FROM.match(line):
            base = match["module"]
            if base.startswith("."):
                dots = len(base) - len(base.lstrip("."))
                parents = module.split(".")[:-dots]
                base = ".".join([*parents, base.lstrip(".")]).rstrip(".")
            if base == "clearway" or base.endswith(".") or _is_package(base):
                # The names may be modules themselves.
                names = [name.split()[0] for name in match["names"].split(",") if name.strip()]
                candidates = [f"{base}.{name}" for name in names]
                yield from [name if _exists(name) else base for name in candidates]
            else:
                yield base
        elif match := _IMPORT.match(line):
            yield from (name.strip() for name in match["modules"].split(","))


def _path(module: str) -> Path:
    return SOURCE.joinpath(*module.split("."))


def _is_package(module: str) -> bool:
    return (_path(module) / "__init__.py").exists()


def _exists(module: str) -> bool:
    return _is_package(module) or any(
        _path(module).with_suffix(suffix).exists() for suffix in (".py", ".pyx", ".pxd")
    )


def _module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


CYTHON = sorted([*SOURCE.rglob("*.pyx"), *SOURCE.rglob("*.pxd")])


def test_python_imports_point_down() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with the lint extra")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
    ]
    done = subprocess.run(
        [*command, "--config", str(CONFIGURATION), "--no-cache"],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CYTHON, ids=_module)
def test_cython_imports_point_down(path: Path) -> None:
    module = _module(path)
    layering = layers()
    found = [name for name in imports(path.read_text(), module) if name.split(".")[0] == "clearway"]
    assert [reason for name in found if (reason := wrong(layering, module, name))] == []


def test_no_cython_syntax_in_plain_python() -> None:
    offenders = [
        _module(path)
        for path in sorted(SOURCE.rglob("*.py"))
        if re.search(r"^\s*(from\s+\S+\s+)?cimport\b|cython\.cimports", path.read_text(), re.M)
        and not _module(path).startswith(COMPILED_ONLY)
    ]
    assert offenders == []


TABLE = [[{"top"}], [{"a"}, {"b"}], [{"c", "d"}], [{"bottom"}]]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("clearway.top.x", "clearway.bottom.y", True),
        ("clearway.bottom.y", "clearway.top.x", False),
        ("clearway.a", "clearway.b.x", False),
        ("clearway.a.x", "clearway.a.y", True),
        ("clearway.c", "clearway.d", True),
        ("clearway.c", "clearway.a", False),
        ("clearway.a", "clearway", False),
    ],
)
def test_the_table_is_read_as_import_linter_reads_it(
    importer: str, imported: str, allowed: bool
) -> None:
    assert (wrong(TABLE, importer, imported) is None) == allowed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from clearway.kernel.sysio cimport monotonic", ["clearway.kernel.sysio"]),
        ("    cimport clearway.steps", ["clearway.steps"]),
        ("cimport clearway.steps as s", ["clearway.steps"]),
        (
            "from clearway.kernel cimport (\n  sysio, # one\n  absent)",
            ["clearway.kernel.sysio", "clearway.kernel"],
        ),
        ("from .interface cimport Engine", ["clearway.engine.interface"]),
        ("from ..steps cimport \\\n Step", ["clearway.steps"]),
        ("from .. import steps", ["clearway.steps"]),
        ("from clearway import run", ["clearway"]),
        ("import os, clearway.steps", ["os", "clearway.steps"]),
        ("# cimport clearway.steps", []),
        ("cdef int cimported = 1", []),
    ],
)
def test_cython_imports_are_found(text: str, found: list[str]) -> None:
    assert list(imports(text, "clearway.engine.epoll")) == found
