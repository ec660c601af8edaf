"""Tests of the room `folds`."""
