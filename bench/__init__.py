"""Benchmarks: what a secure round costs beside a plain one, on this machine, now. Run by `scripts/bench`."""
