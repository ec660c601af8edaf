"""Transcripts: readers of every format in one table, and the rules that repair what they read."""

from hilbert_ray.transcript.automatic import DOUBTFUL, UNWRITTEN, AutomaticTranscript
from hilbert_ray.transcript.cue import Flaw
from hilbert_ray.transcript.flaws import FlawCounts
from hilbert_ray.transcript.reading import LoadedText, TranscriptError, check_text_kind, load_text
from hilbert_ray.transcript.times import check_times, clip

__all__ = [
    "DOUBTFUL",
    "UNWRITTEN",
    "AutomaticTranscript",
    "Flaw",
    "FlawCounts",
    "LoadedText",
    "TranscriptError",
    "check_text_kind",
    "check_times",
    "clip",
    "load_text",
]
