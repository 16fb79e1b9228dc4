"""Benchmarks: ratios to peers in one interleaved run, not figures of one machine. See README.md."""
