"""Tests of the room `segmentation`."""
