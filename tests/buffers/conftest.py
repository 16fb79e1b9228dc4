"""Leases need the buffer protocol: in C, or from Python 3.12 on in Python."""

from __future__ import annotations

import sys

import pytest

from clearway import _compiled


@pytest.fixture(autouse=True)
def _leases(request):
    if request.node.get_closest_marker("without_leases"):
        return
    if sys.version_info < (3, 12) and not _compiled.is_compiled("clearway.buffers.lease"):
        pytest.skip("leases need Python 3.12 or compiled clearway")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "without_leases: runs where there can be no leases")
