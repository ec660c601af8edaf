"""SubRip."""

from hilbert_ray.transcript.webvtt import read

__all__ = ["read"]
