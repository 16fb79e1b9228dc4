"""Servers that the benchmarks measure, each run in a process of its own."""
