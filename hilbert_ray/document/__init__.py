"""What a document is, its manifest and transcript readers, and its labels."""

from hilbert_ray.document.labels import LabelSurvey, class_name, encode_label, encode_labels, infer_tasks
from hilbert_ray.document.manifest import (
    Block,
    InvalidRow,
    duplicate_row,
    files_of,
    map_blocks,
    straddling_row,
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
    Utterance,
)
from hilbert_ray.document.splits import SplitError, SplitSurvey, check_splits, is_held_out, split_of
from hilbert_ray.document.transcript import check_text_kind, check_times, load_text

__all__ = [
    "AudioSegment",
    "Block",
    "Document",
    "DocumentError",
    "Hertz",
    "InvalidRow",
    "Label",
    "LabelSurvey",
    "Samples",
    "Seconds",
    "Segment",
    "SplitError",
    "SplitSurvey",
    "TextSegment",
    "Utterance",
    "check_splits",
    "check_text_kind",
    "check_times",
    "class_name",
    "duplicate_row",
    "encode_label",
    "encode_labels",
    "files_of",
    "infer_tasks",
    "is_held_out",
    "load_text",
    "map_blocks",
    "split_of",
    "straddling_row",
]
