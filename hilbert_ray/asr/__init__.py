"""Automatic speech recognition: recognisers behind one protocol, and recordings of any length."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.asr.long_form import (
        DocumentSpeech,
        Transcription,
        document_speech,
        recognize,
        require_long_form,
        windows,
    )
    from hilbert_ray.asr.protocol import Recognizer, Spoken, Window, Word
    from hilbert_ray.asr.registry import build_recognizer, precision_rule

__all__ = [
    "DocumentSpeech",
    "Recognizer",
    "Spoken",
    "Transcription",
    "Window",
    "Word",
    "build_recognizer",
    "document_speech",
    "precision_rule",
    "recognize",
    "require_long_form",
    "windows",
]

__getattr__ = lazy_names(
    __name__,
    {
        "long_form": (
            "DocumentSpeech",
            "Transcription",
            "document_speech",
            "recognize",
            "require_long_form",
            "windows",
        ),
        "protocol": ("Recognizer", "Spoken", "Window", "Word"),
        "registry": ("build_recognizer", "precision_rule"),
    },
)
