"""Tests of `asr`."""
