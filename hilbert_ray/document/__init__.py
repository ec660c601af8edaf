"""What a document is, its manifest reader, and its labels."""

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
    TimesError,
    Utterance,
)
from hilbert_ray.document.splits import SplitError, SplitSurvey, check_splits, is_held_out, split_of

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
    "TimesError",
    "Utterance",
    "check_splits",
    "class_name",
    "duplicate_row",
    "encode_label",
    "encode_labels",
    "files_of",
    "infer_tasks",
    "is_held_out",
    "map_blocks",
    "split_of",
    "straddling_row",
]
