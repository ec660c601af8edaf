"""Cutting documents into segments: audio into windows, turns or at pauses, text into bounded units."""

from hilbert_ray.segmentation.audio import audio_segments, wanted_seconds
from hilbert_ray.segmentation.rules import cutting, segmentation
from hilbert_ray.segmentation.text import characters, sentences, text_segments
from hilbert_ray.segmentation.vad import require_vad

__all__ = [
    "audio_segments",
    "characters",
    "cutting",
    "require_vad",
    "segmentation",
    "sentences",
    "text_segments",
    "wanted_seconds",
]
