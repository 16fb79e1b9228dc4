"""The engines and the choice between them."""

from __future__ import annotations

import errno
import platform
from typing import Any

from clearway._compiled import is_compiled
from clearway.engine.epoll import EpollEngine
from clearway.engine.sizes import DEFAULT_SIZES, RingSizes

#: What to do about a refusal, by errno of io_uring_setup(2).
REMEDIES = {
    errno.ENOSYS: "the kernel has no io_uring: Linux 6.1 or newer is needed",
    errno.EINVAL: "the kernel's io_uring is too old: Linux 6.1 or newer is needed",
    errno.EPERM: (
        "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, or allow the io_uring system "
        "calls in the container's seccomp profile"
    ),
    errno.EACCES: "a security module forbids io_uring: allow it in its policy",
    errno.ENOMEM: "the locked-memory limit is too low: raise RLIMIT_MEMLOCK (ulimit -l) to 8 MiB or more",
    errno.EMFILE: "the process is out of descriptors: raise RLIMIT_NOFILE (ulimit -n)",
    errno.ENFILE: "the machine is out of descriptors: raise the sysctl fs.file-max",
}


def make_engine(name: str, ready: list[Any], sizes: RingSizes = DEFAULT_SIZES) -> Any:
    """Build the engine called ``name`` ("auto", "uring" or "epoll") on a ready queue.

    "auto" takes io_uring and falls back to epoll on any refusal; ``describe()`` and ``clearway doctor`` say why.

    :raises OSError: io_uring was asked for by name and is refused; the text says what to do.
    """
    if name == "epoll":
        return EpollEngine(ready)
    try:
        return _make_uring(ready, sizes)
    except OSError as exc:
        if name == "uring":
            raise _refusal(exc) from exc
        return EpollEngine(ready)


def _make_uring(ready: list[Any], sizes: RingSizes) -> Any:
    if not is_compiled("clearway.engine.uring"):
        raise OSError(errno.ENOSYS, "clearway is not compiled")
    from clearway.engine.uring import UringEngine

    return UringEngine(ready, sizes)


def _refusal(exc: OSError) -> OSError:
    if not is_compiled("clearway.engine.uring"):
        remedy = (
            "the io_uring engine needs the compiled build: install without CLEARWAY_SKIP_CYTHON"
        )
    else:
        remedy = REMEDIES.get(exc.errno or 0, exc.strerror or "unknown reason")
    return type(exc)(
        exc.errno,
        f'engine="uring" is refused ({errno.errorcode.get(exc.errno or 0, exc.errno)}): {remedy}; '
        f'or use engine="epoll" or "auto"',
    )


def describe() -> dict[str, Any]:
    """Which engine "auto" takes here and why.

    :returns: ``engine`` and ``reason`` (text), ``errno`` (name or None), ``features`` (pairs of name and bool)
        and ``kernel`` (release).
    """
    answer: dict[str, Any] = {
        "engine": "epoll",
        "reason": "",
        "errno": None,
        "features": [],
        "kernel": platform.release(),
    }
    try:
        engine = _make_uring([], DEFAULT_SIZES)
    except OSError as exc:
        answer["errno"] = errno.errorcode.get(exc.errno or 0, str(exc.errno))
        answer["reason"] = str(_refusal(exc).strerror)
        return answer
    engine.close()
    from clearway.engine.uring import probe

    answer["engine"] = "uring"
    answer["reason"] = "the kernel allows io_uring"
    answer["features"] = probe()
    return answer
