"""Cutting documents into segments: audio into windows, turns or at pauses, text into bounded units."""

from hilbert_ray.segmentation.audio import audio_segments, expected_seconds
from hilbert_ray.segmentation.buffer import CountedBlocks
from hilbert_ray.segmentation.rules import cutting, segmentation
from hilbert_ray.segmentation.text import characters, sentences, text_segments
from hilbert_ray.segmentation.vad import require_vad

__all__ = [
    "CountedBlocks",
    "audio_segments",
    "characters",
    "cutting",
    "expected_seconds",
    "require_vad",
    "segmentation",
    "sentences",
    "text_segments",
]
