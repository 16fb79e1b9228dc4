"""Streams are leases: on Python 3.11 those need the compiled modules."""

from __future__ import annotations

import sys

import pytest

from clearway._compiled import uncompiled_modules

if sys.version_info < (3, 12) and uncompiled_modules():
    pytest.skip("leases need Python 3.12 or compiled clearway", allow_module_level=True)
