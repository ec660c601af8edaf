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
    from hilbert_ray.asr.registry import auto_precision, build_recognizer

__all__ = [
    "DocumentSpeech",
    "Recognizer",
    "Spoken",
    "Transcription",
    "Window",
    "Word",
    "auto_precision",
    "build_recognizer",
    "document_speech",
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
        "registry": ("auto_precision", "build_recognizer"),
    },
)
