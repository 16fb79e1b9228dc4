"""Buffers are leased, never owned: windows on memory (``Lease``), and where they come from (``Pool``)."""

from __future__ import annotations

from clearway.buffers.account import Account, Ledger
from clearway.buffers.lease import Lease, Memory, track_leaks
from clearway.buffers.pool import Pool, PoolClosed, PoolExhausted, PoolStatistics

__all__ = [
    "Account",
    "Lease",
    "Ledger",
    "Memory",
    "Pool",
    "PoolClosed",
    "PoolExhausted",
    "PoolStatistics",
    "track_leaks",
]
