"""Build the compiled modules of clearway; everything else is in pyproject.toml."""

import os
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
# How many modules are translated or compiled at a time.
JOBS = int(os.environ.get("CLEARWAY_BUILD_JOBS", "0")) or os.cpu_count() or 1
SKIP = os.environ.get("CLEARWAY_SKIP_CYTHON", "") not in ("", "0")

DIRECTIVES = {
    "language_level": "3",
    # The .pxd beside a module is its only C declaration; annotations stay annotations.
    "annotation_typing": False,
    # Bounds checks stay on: two compares per index, and a bug raises IndexError instead of crashing.
    "initializedcheck": False,
    "cdivision": True,
}


def extensions() -> list[Extension]:
    if SKIP or not sys.platform.startswith("linux"):
        return []
    from Cython.Build import cythonize

    table = runpy.run_path(str(HERE / "src/clearway/_compiled.py"))["COMPILED_MODULES"]
    modules = [
        Extension(
            name,
            [f"src/{source}"],
            include_dirs=["src/clearway/kernel", "src/clearway/scheduler"],
            depends=[str(path) for path in sorted((HERE / "src").rglob("*.h"))],
            extra_compile_args=["-O2", "-g1", "-fno-strict-aliasing", "-Wno-unused-function"],
            extra_link_args=["-pthread"],
        )
        for name, source in table.items()
    ]
    return cythonize(
        modules,
        include_path=["src"],
        compiler_directives=DIRECTIVES,
        # Its processes import the main module anew where they are not forked, which may be this file.
        nthreads=JOBS if sys.version_info < (3, 14) else None,
    )


setup(ext_modules=extensions(), options={"build_ext": {"parallel": JOBS}})
