"""Tests of `hilbert_ray.transcription`."""
