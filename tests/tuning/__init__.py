"""Tests of the room `tuning`."""
