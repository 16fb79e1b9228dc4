"""What every test of the scheduler needs: the compiled modules."""

from __future__ import annotations

import pytest

from clearway._compiled import is_compiled


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_compiled("clearway.scheduler._native"):
        return
    skip = pytest.mark.skip(reason="clearway was installed without its compiled modules")
    for item in items:
        if "/scheduler/" in str(item.path):
            item.add_marker(skip)
