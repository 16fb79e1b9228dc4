"""Compile the C programs of this directory when they are needed, into ``out/benchmarks/native``.

The file name carries a hash of everything that went into the binary, so an edited source is
rebuilt and two checkouts never share a program.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
#: The load generators' common half; it lives in the package because the demo ships with it.
SHARED = ROOT / "src" / "clearway" / "cli" / "_loadgen.h"
CFLAGS = ["-O2", "-g1", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function"]


class BuildError(RuntimeError):
    """A C program could not be compiled; the text holds the compiler's own words."""


def build(name: str, *, libraries: tuple[str, ...] = ()) -> Path:
    """Compile ``<name>.c`` unless an up-to-date binary is there, and return the binary's path.

    ``CC`` chooses the compiler (default ``cc``); ``libraries`` are linked ("ssl" for -lssl).

    Raises:
        BuildError: there is no compiler, or it refused.
    """
    source = HERE / f"{name}.c"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    digest = hashlib.sha256(" ".join([*compiler, *CFLAGS, *libraries]).encode())
    for part in (source, *sorted(HERE.glob("*.h")), SHARED):
        digest.update(part.read_bytes())
    cache = ROOT / "out" / "benchmarks" / "native"
    binary = cache / f"{name}-{digest.hexdigest()[:12]}"
    if binary.exists():
        return binary
    cache.mkdir(parents=True, exist_ok=True)
    # Built beside its place and renamed into it: a second process never runs half a file.
    handle, temporary = tempfile.mkstemp(dir=cache)
    os.close(handle)
    include = [f"-I{SHARED.parent}", f"-I{HERE}"]
    link = [f"-l{library}" for library in libraries]
    try:
        done = subprocess.run(
            [*compiler, *CFLAGS, *include, "-o", temporary, str(source), *link],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BuildError(f"{source.name} does not compile:\n{done.stderr}")
        os.chmod(temporary, 0o755)
        os.replace(temporary, binary)
    except FileNotFoundError as error:
        raise BuildError(
            f"no C compiler: {compiler[0]} was not found; install gcc or set CC"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return binary
