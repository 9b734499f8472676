"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json]` prints a table with the peer beside us."""
