"""Benchmarks: each compares with a plain baseline in the same run; `python -m bench` runs them all."""
