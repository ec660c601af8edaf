"""Benchmarks: each measures against a plain baseline in the same run; `python -m bench` runs them all."""
