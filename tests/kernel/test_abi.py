"""Our copy of the io_uring ABI against the system's own header, for this processor and for aarch64."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sysconfig

import pytest

SOURCE = pathlib.Path(__file__).parents[2] / "src" / "clearway"
HEADERS = [
    "kernel/uring.h",
    "kernel/sysio.h",
    "kernel/dgram.h",
    "kernel/launch.h",
    "channels/ring.h",
]

# (ours, the system's): sizes and the offsets that the kernel reads.
STRUCTS = {
    "cw_sqe": (
        "io_uring_sqe",
        ["opcode", "flags", "ioprio", "fd", "off", "addr", "len", "user_data"],
    ),
    "cw_cqe": ("io_uring_cqe", ["user_data", "res", "flags"]),
    "cw_params": ("io_uring_params", ["sq_entries", "cq_entries", "flags", "features"]),
    "cw_buf": ("io_uring_buf", ["addr", "len", "bid"]),
    "cw_buf_reg": ("io_uring_buf_reg", ["ring_addr", "ring_entries", "bgid"]),
    "cw_rsrc_update": ("io_uring_rsrc_update", ["offset", "data"]),
    "cw_getevents_arg": ("io_uring_getevents_arg", ["sigmask", "sigmask_sz", "ts"]),
}
# Macros of the system's header; what an older one lacks is not compared.
MACROS = {
    "CW_SETUP_CQSIZE": "IORING_SETUP_CQSIZE",
    "CW_SETUP_R_DISABLED": "IORING_SETUP_R_DISABLED",
    "CW_SETUP_SUBMIT_ALL": "IORING_SETUP_SUBMIT_ALL",
    "CW_SETUP_TASKRUN_FLAG": "IORING_SETUP_TASKRUN_FLAG",
    "CW_SETUP_SINGLE_ISSUER": "IORING_SETUP_SINGLE_ISSUER",
    "CW_SETUP_DEFER_TASKRUN": "IORING_SETUP_DEFER_TASKRUN",
    "CW_SETUP_NO_SQARRAY": "IORING_SETUP_NO_SQARRAY",
    "CW_ENTER_GETEVENTS": "IORING_ENTER_GETEVENTS",
    "CW_ENTER_EXT_ARG": "IORING_ENTER_EXT_ARG",
    "CW_ENTER_REGISTERED_RING": "IORING_ENTER_REGISTERED_RING",
    "CW_FEAT_CQE_SKIP": "IORING_FEAT_CQE_SKIP",
    "CW_SQ_CQ_OVERFLOW": "IORING_SQ_CQ_OVERFLOW",
    "CW_SQ_TASKRUN": "IORING_SQ_TASKRUN",
    "CW_OFF_SQES": "IORING_OFF_SQES",
    "CW_RECV_MULTISHOT": "IORING_RECV_MULTISHOT",
    "CW_ACCEPT_MULTISHOT": "IORING_ACCEPT_MULTISHOT",
    "CW_CQE_F_BUFFER": "IORING_CQE_F_BUFFER",
    "CW_CQE_F_MORE": "IORING_CQE_F_MORE",
    "CW_SYS_SETUP": "SYS_io_uring_setup",
    "CW_SYS_ENTER": "SYS_io_uring_enter",
    "CW_SYS_REGISTER": "SYS_io_uring_register",
}
# Enumerators, which the preprocessor cannot ask for; all are in the headers of Linux 6.1, which the engine needs.
ENUMERATORS = {
    "CW_OP_POLL_ADD": "IORING_OP_POLL_ADD",
    "CW_OP_SENDMSG": "IORING_OP_SENDMSG",
    "CW_OP_ACCEPT": "IORING_OP_ACCEPT",
    "CW_OP_ASYNC_CANCEL": "IORING_OP_ASYNC_CANCEL",
    "CW_OP_READ": "IORING_OP_READ",
    "CW_OP_SEND": "IORING_OP_SEND",
    "CW_OP_RECV": "IORING_OP_RECV",
    "CW_OP_SEND_ZC": "IORING_OP_SEND_ZC",
    "CW_REGISTER_PROBE": "IORING_REGISTER_PROBE",
    "CW_REGISTER_ENABLE_RINGS": "IORING_REGISTER_ENABLE_RINGS",
    "CW_REGISTER_RING_FDS": "IORING_REGISTER_RING_FDS",
    "CW_REGISTER_PBUF_RING": "IORING_REGISTER_PBUF_RING",
    "CW_SQE_BUFFER_SELECT": "(1U << IOSQE_BUFFER_SELECT_BIT)",
    "CW_SQE_CQE_SKIP_SUCCESS": "(1U << IOSQE_CQE_SKIP_SUCCESS_BIT)",
    "CW_CQE_BUFFER_SHIFT": "IORING_CQE_BUFFER_SHIFT",
}

COMPILERS = ["cc", "aarch64-linux-gnu-gcc"]


def compile_only(compiler, source, tmp_path, *options):
    """Check C source without producing anything; the diagnostics are the assertion's text."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    program = tmp_path / "check.c"
    program.write_text(source)
    done = subprocess.run(
        [compiler, "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", *options, program],
        capture_output=True,
        text=True,
    )
    if "linux/io_uring.h: No such file" in done.stderr:
        pytest.skip("the system's kernel headers have no io_uring.h")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compiler", COMPILERS)
def test_layouts_and_numbers_are_the_kernel_s(compiler, tmp_path):
    if _kernel_headers(compiler) < (6, 1):
        pytest.skip("the system's kernel headers are older than Linux 6.1")
    lines = [
        "#define _GNU_SOURCE",
        "#include <stddef.h>",
        "#include <linux/io_uring.h>",
        '#include "uring.h"',
    ]
    for ours, (theirs, fields) in STRUCTS.items():
        lines.append(f'_Static_assert(sizeof(struct {ours}) == sizeof(struct {theirs}), "{ours}");')
        for field in fields:
            lines.append(
                f"_Static_assert(offsetof(struct {ours}, {field}) == "
                f'offsetof(struct {theirs}, {field}), "{ours}.{field}");'
            )
    for ours, theirs in MACROS.items():
        lines += [f"#ifdef {theirs}", f'_Static_assert({ours} == {theirs}, "{ours}");', "#endif"]
    for ours, theirs in ENUMERATORS.items():
        lines.append(f'_Static_assert({ours} == {theirs}, "{ours}");')
    compile_only(compiler, "\n".join(lines) + "\n", tmp_path, f"-I{SOURCE / 'kernel'}")


def _kernel_headers(compiler):
    """(major, minor) of the kernel whose headers the compiler finds; (0, 0) without any."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    done = subprocess.run(
        [compiler, "-E", "-P", "-"],
        input="#include <linux/version.h>\nLINUX_VERSION_MAJOR LINUX_VERSION_PATCHLEVEL\n",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return (0, 0)
    return tuple(int(word) for word in done.stdout.split()[-2:])


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_headers_compile(compiler, header, tmp_path):
    include = sysconfig.get_paths()["include"]
    compile_only(
        compiler,
        f'#include "{SOURCE / header}"\n',
        tmp_path,
        f"-I{include}",
        f"-I{SOURCE / 'kernel'}",
    )


@pytest.mark.parametrize(
    ("compiler", "acquire", "release"), [("aarch64-linux-gnu-gcc", "ldar", "stlr")]
)
def test_ring_indices_are_ordered_on_weakly_ordered_processors(
    compiler, acquire, release, tmp_path
):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    source = tmp_path / "order.c"
    source.write_text(
        f'#include "{SOURCE / "kernel/uring.h"}"\n'
        "uint32_t ready(struct cw_ring *r) { return cw_cq_ready(r); }\n"
        "void advance(struct cw_ring *r) { cw_cq_advance(r, 1); }\n"
        "void publish(struct cw_pool *p) { cw_pool_publish(p); }\n"
    )
    done = subprocess.run(
        [compiler, "-O2", "-S", "-o", "-", source], capture_output=True, text=True, check=True
    )
    for function, instruction in (("ready", acquire), ("advance", release), ("publish", release)):
        body = done.stdout.split(f"\n{function}:")[1].split("\tret")[0]
        assert f"\t{instruction}" in body, f"{function} is not ordered:\n{body}"
