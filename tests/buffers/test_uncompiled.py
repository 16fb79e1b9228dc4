"""The stand-in for the compiled leases: as good on Python 3.12, and outspoken on 3.11."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import clearway.buffers

pytestmark = pytest.mark.without_leases


@pytest.fixture(scope="module")
def plain():
    path = Path(clearway.buffers.__file__).with_name("lease.py")
    spec = importlib.util.spec_from_file_location("plain_lease", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 has the buffer protocol")
def test_without_the_buffer_protocol_it_says_what_to_do(plain):
    with pytest.raises(RuntimeError, match=r"Python 3\.12, or compiled clearway"):
        plain.Lease.of(b"abc")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the buffer protocol in Python came in 3.12")
def test_it_guards_its_memory(plain):
    data = bytearray(b"hello world")
    lease = plain.Lease.of(data)
    word = lease[6:]
    with word.view as view, pytest.raises(BufferError):
        word.release()
    assert bytes(word) == b"world" and view is not None
    assert lease.find(b"wor") == 6 and lease.find(b"wor", 7) == -1
    lease.release()
    with pytest.raises(BufferError):
        data.append(1)
    word.release()
    data.append(1)
    with pytest.raises(ValueError, match="released"):
        memoryview(word)


def test_both_offer_the_same(plain):
    from clearway.buffers import lease

    for kind in ("Lease", "Memory"):
        theirs = {name for name in vars(getattr(plain, kind)) if not name.startswith("_")}
        ours = set(dir(getattr(lease, kind)))
        assert theirs <= ours, f"{kind}: {theirs - ours}"
