"""Cutting documents into segments: audio into windows, turns or at pauses, text into bounded units.

Every segment keeps its start and end. Nothing falls between segments and the tail is kept; `embed` checks it
for each document with `wanted_seconds` and `characters`.
"""

from hilbert_ray.segment.audio import audio_segments, wanted_seconds
from hilbert_ray.segment.text import Tokens, characters, sentences, text_segments

__all__ = ["Tokens", "audio_segments", "characters", "sentences", "text_segments", "wanted_seconds"]
