"""Tests of the room `embedding`."""
