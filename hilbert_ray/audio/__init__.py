"""Audio as a checked stream of mono blocks, one module per container format (see `decoding.FORMATS`)."""

from hilbert_ray.audio.decoding import MIX, Stream, probe, stream
from hilbert_ray.audio.header import AudioInfo

__all__ = [
    "MIX",
    "AudioInfo",
    "Stream",
    "probe",
    "stream",
]
