"""Cutting documents into segments: audio into windows, turns or at pauses, text into bounded units."""

from hilbert_ray.segmentation.audio import audio_segments, expected_seconds
from hilbert_ray.segmentation.buffer import CountedBlocks
from hilbert_ray.segmentation.fills import heard_together
from hilbert_ray.segmentation.pauses import cut_speech
from hilbert_ray.segmentation.rules import cutting, segmentation
from hilbert_ray.segmentation.text import characters, sentences, text_segments
from hilbert_ray.segmentation.vad import FRAME as VAD_FRAME
from hilbert_ray.segmentation.vad import RATE_HZ as VAD_RATE_HZ
from hilbert_ray.segmentation.vad import SPEECH as VAD_SPEECH
from hilbert_ray.segmentation.vad import (
    is_vad_installed,
    require_vad,
    seconds_of_speech,
    speech_share,
    vad_identity,
)

__all__ = [
    "VAD_FRAME",
    "VAD_RATE_HZ",
    "VAD_SPEECH",
    "CountedBlocks",
    "audio_segments",
    "characters",
    "cut_speech",
    "cutting",
    "expected_seconds",
    "heard_together",
    "is_vad_installed",
    "require_vad",
    "seconds_of_speech",
    "segmentation",
    "sentences",
    "speech_share",
    "text_segments",
    "vad_identity",
]
