"""Test tools: ``shuffle`` finds the races that preemption can bring about."""

from __future__ import annotations

from clearway.testing.shuffler import Point, ShuffleFailure, ShuffleReport, shuffle, shuffled

__all__ = ["Point", "ShuffleFailure", "ShuffleReport", "shuffle", "shuffled"]
