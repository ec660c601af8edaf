"""A document, its segments, its transcript, and the manifest that lists documents.

Records are small frozen values; audio and text files are opened only when someone asks.
"""

from hilbert_ray.document.manifest import (
    Block,
    Fault,
    ManifestError,
    duplicate_fault,
    files_of,
    map_blocks,
    read_manifest,
)
from hilbert_ray.document.records import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Label,
    Samples,
    Seconds,
    Segment,
    TextSegment,
    TimesError,
    Utterance,
    parse_document,
    resolve,
)
from hilbert_ray.document.transcript import check_text_kind, check_times, load_text

__all__ = [
    "AudioSegment",
    "Block",
    "Document",
    "DocumentError",
    "Fault",
    "Hertz",
    "Label",
    "ManifestError",
    "Samples",
    "Seconds",
    "Segment",
    "TextSegment",
    "TimesError",
    "Utterance",
    "check_text_kind",
    "check_times",
    "duplicate_fault",
    "files_of",
    "load_text",
    "map_blocks",
    "parse_document",
    "read_manifest",
    "resolve",
]
