"""A document and its segments: small frozen values, checked as they come from a manifest's row."""

import os
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from hilbert_ray.config import Channels, ConfigError, parse_channels
from hilbert_ray.document.attributes import Attribute, misspelt, parse_attributes
from hilbert_ray.errors import HilbertError
from hilbert_ray.storage import is_uri

Seconds: TypeAlias = float
Hertz: TypeAlias = int
Samples: TypeAlias = int
Label: TypeAlias = str | int | float | bool | list[str] | dict[str, int | None]
FIELDS = (
    "doc_id",
    "audio",
    "text",
    "text_file",
    "group",
    "labels",
    "split",
    "attributes",
    "channels",
    "diarization",
)
_FIELDS = frozenset(FIELDS)
_NOTHING: Mapping[str, Any] = {}
_NO_IDS = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>"})
"""What programs write for a missing id; `NA` may be someone's initials."""
_UTTERANCE_KEYS = frozenset(("text", "start", "end", "role", "speaker"))
_OTHER_NAMES = {
    "start": {"start_time", "startTime", "start_s", "start_ms", "begin", "onset", "timestamp", "times"},
    "end": {"end_time", "endTime", "end_s", "end_ms", "stop", "stop_time"},
    "role": {"speaker_id", "speaker_label", "spk", "participant"},
}
"""Names of an utterance's times and speaker in other formats: here they would be dropped without a word."""
SPLITS = ("train", "validation", "test")
MISSING = frozenset(
    (
        "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
        "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    )
)  # fmt: skip
"""Words that stand for a missing value, as pandas reads them; the empty string is another."""


class DocumentError(HilbertError, ValueError):
    """A document that is invalid; the message names the document, the value, the rule and what to do."""


class TimesError(DocumentError):
    """Utterances that end after their recording does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A stretch of a transcript; times in seconds from the start of the recording, None if unknown."""

    text: str
    start: Seconds | None = None
    end: Seconds | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Recognition:
    """What recognised the speech of an automatic transcript: the recogniser's name and fingerprint.

    `confidence` is the mean over the words, in [0, 1]; None where the recogniser gives none.
    """

    name: str
    fingerprint: str
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A recording, its transcript, or both.

    `audio`, `text_file` and `diarization` are absolute paths or URIs. `text` is one string (later split into
    sentences) or a sequence of utterances. Documents of one `group`, such as those of one speaker, are never
    split between training and test. A task without an entry in `labels` is unlabelled. `attributes` are
    whatever else is known of it, such as age, sex, site or device: no features depend on them. `channels` are
    those to use of its recording; None leaves that to the settings. `diarization` is a file (RTTM) that says
    who speaks when, from which a transcript without speakers gets them.
    """

    doc_id: str
    audio: str | None = None
    text: str | tuple[Utterance, ...] | None = None
    text_file: str | None = None
    group: str = ""
    labels: Mapping[str, Label] = field(default_factory=dict)
    split: str | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    channels: Channels | None = None
    diarization: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Paths and URIs of all files that the document names."""
        return tuple(path for path in (self.audio, self.text_file, self.diarization) if path is not None)

    @property
    def has_text(self) -> bool:
        """Whether the document has a transcript, inline or in a file."""
        return self.text is not None or self.text_file is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioSegment:
    """A stretch of mono audio: `samples` float32 [n] at the encoder's rate, times in seconds.

    `role` is the speaker whose channel or turn it is, None if unknown; `channel` counts the channels that are
    cut by themselves, from 0. `fill`, float32 [m], is what an encoder hears it in, one array for all segments
    that are heard together, and it begins there at sample `offset`; None where it is heard alone.
    """

    start: Seconds
    end: Seconds
    samples: np.ndarray
    role: str | None = None
    channel: int = 0
    fill: np.ndarray | None = None
    offset: Samples = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSegment:
    """A stretch of text; times in seconds, or positions from 0 to 1 if the transcript has no times."""

    start: Seconds
    end: Seconds
    text: str


Segment: TypeAlias = AudioSegment | TextSegment


def parse_document(record: Mapping[str, Any], folder: str = "", roots: Sequence[str] = ()) -> Document:
    """Check one manifest row and return its document. No message repeats what people said.

    Args:
        record: a row of a manifest: doc_id, audio, text or text_file, diarization, group, labels, split,
            attributes, channels; what else it holds becomes attributes too.
        folder: the folder that relative paths are relative to.
        roots: folders and URI prefixes under which files must be; empty: no restriction.

    Raises:
        DocumentError: if the row is invalid, naming the document, the field, the value and the rule.
    """
    doc_id = record.get("doc_id")
    if not isinstance(doc_id, str) or not doc_id.strip() or doc_id in _NO_IDS:
        others = [name for name in record if isinstance(name, str) and name not in _FIELDS]
        hint = None if doc_id is not None else misspelt(others, FIELDS[1:])
        raise DocumentError(
            f"doc_id is {doc_id!r}; it must be a non-empty string" + (f"; {hint}" if hint else "")
        )
    audio = _parse_path(doc_id, "audio", record.get("audio"))
    text_file = _parse_path(doc_id, "text_file", record.get("text_file"))
    diarization = _parse_path(doc_id, "diarization", record.get("diarization"))
    text = parse_text(doc_id, record.get("text"))
    attributes = _parse_attributes(doc_id, record)
    if text is not None and text_file is not None:
        raise DocumentError(f"document {doc_id!r} has both text and text_file; give one of them")
    if audio is None and text is None and text_file is None:
        raise DocumentError(f"document {doc_id!r} has neither audio nor text; it needs at least one")
    labels = _parse_labels(doc_id, record.get("labels"))
    split = record.get("split")
    if split is not None and split not in SPLITS:
        raise DocumentError(f"document {doc_id!r}: split is {split!r}; the choices are {', '.join(SPLITS)}")
    audio = None if audio is None else resolve(audio, folder)
    text_file = None if text_file is None else resolve(text_file, folder)
    diarization = None if diarization is None else resolve(diarization, folder)
    # Only once joined with the folder does a path with `..` show where it leads.
    paths = (("audio", audio), ("text_file", text_file), ("diarization", diarization))
    for name, path in paths if roots else ():
        if path is not None:
            _check_root(doc_id, name, path, roots)
    return Document(
        doc_id=doc_id,
        audio=audio,
        text=text,
        text_file=text_file,
        group=_parse_group(doc_id, record.get("group")),
        labels=labels,
        split=split,
        attributes=attributes,
        channels=_parse_channels(doc_id, record.get("channels")),
        diarization=diarization,
    )


def _parse_labels(doc_id: str, labels: object) -> dict[str, Label]:
    """Check the labels of a row, and return those that are known.

    Raises:
        DocumentError: if they are no mapping, or one of them is nested deeper than a label can be.
    """
    if not labels:
        return {}
    if not isinstance(labels, (dict, Mapping)):
        raise DocumentError(
            f"document {doc_id!r}: labels is {_shortened(labels)}; it must map each task to its value"
        )
    for task, value in labels.items():
        inner = value.values() if isinstance(value, (dict, Mapping)) else value
        if isinstance(value, (list, dict, Mapping)) and any(
            isinstance(item, (list, dict, Mapping)) for item in inner
        ):
            raise DocumentError(
                f"document {doc_id!r}, task `{task}`: label is {_shortened(value)}; it must be a string, a "
                "number, true or false, a list of these, or map labels to 0, 1 or null"
            )
    # NaN is how tables write that there is no number.
    return {str(task): value for task, value in labels.items() if value is not None and value == value}


def _shortened(value: object) -> str:
    """Return a value as a message shows it: the first of what may be very long."""
    shown = reprlib.repr(value)
    return f"{shown[:200]} ..." if len(shown) > 200 else shown


def _parse_path(doc_id: str, name: str, value: object) -> str | None:
    if value is None:
        return None
    # `open` raises a plain ValueError for a zero byte, which nothing that reads files expects.
    if not isinstance(value, str) or not value or "\0" in value:
        raise DocumentError(f"document {doc_id!r}: {name} is {value!r}; it must be a path, a URI, or null")
    if value in MISSING:
        raise DocumentError(
            f"document {doc_id!r}: {name} is {value!r}, which stands for a missing value; write null, or "
            "leave "
            "the cell empty"
        )
    return value


def _parse_channels(doc_id: str, value: object) -> Channels | None:
    if value is None:
        return None
    try:
        # Tables give every document the keys of all, null where it has none.
        if isinstance(value, dict | Mapping) and any(name is not None for name in value.values()):
            value = {key: name for key, name in value.items() if name is not None}
        return parse_channels(value)
    except ConfigError as error:
        hint = (
            "; a number of channels goes under another name, such as num_channels"
            if isinstance(value, int | float) or (isinstance(value, str) and value.isdigit())
            else ""
        )
        raise DocumentError(f"document {doc_id!r}: {error}{hint}") from None


def _parse_group(doc_id: str, value: object) -> str:
    """Return the group as text, since CSV and JSON may write speaker 7 differently; without one, the id."""
    if value is None:
        return doc_id
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a table makes whole numbers decimal where one is missing
    if isinstance(value, str | int | float) and (group := str(value)).strip() and group not in MISSING:
        return group
    # All documents that lack a group would become one.
    raise DocumentError(
        f"document {doc_id!r}: group is {value!r}; it must be text or a number, or null for a group of its "
        "own"
    )


def group_of(doc_id: str, value: object) -> str:
    """Return the group that `parse_document` gives a row, without refusing any."""
    try:
        return _parse_group(doc_id, value)
    except DocumentError:
        return ""


def _parse_attributes(doc_id: str, record: Mapping[str, Any]) -> dict[str, Attribute]:
    given, others = record.get("attributes"), _NOTHING
    if not _FIELDS.issuperset(record):
        others = {name: value for name, value in record.items() if name not in _FIELDS}
        present = [name for name in FIELDS if record.get(name) is not None]
        if (message := misspelt(others, present)) is not None:
            raise DocumentError(f"document {doc_id!r}: {message}")
    elif not given:
        return {}
    attributes, message = parse_attributes(given, others)
    if message is not None:
        raise DocumentError(f"document {doc_id!r}: {message}")
    return attributes


def resolve(path: str, folder: str) -> str:
    """Return an absolute path or URI; a relative path is relative to `folder`."""
    if is_uri(path) or os.path.isabs(path) or not folder:
        return path
    return f"{folder.rstrip('/')}/{path}" if is_uri(folder) else os.path.join(folder, path)


def _check_root(doc_id: str, name: str, path: str, roots: Sequence[str]) -> None:
    """Check that a file is under one of the roots, after following links and `..`.

    Raises:
        DocumentError: naming the document, the path, the roots and what to do.
    """
    # Links first: one inside a root may lead anywhere.
    allowed = tuple(map(below, roots))
    if not below(path).startswith(allowed):
        raise DocumentError(
            f"document {doc_id!r}: {name} {path} is outside {' and '.join(allowed)} (links and `..` are "
            "followed); move the file there, or allow its folder with another --root"
        )
    # What a file system may read in its own way: fsspec chains protocols at `::`, servers resolve `..` and
    # percent escapes, `file://~` is a home folder. All of them could lead out of the roots unseen.
    refused = ("::", "..", "%", "file://~") if is_uri(path) else ("::",)
    escapes = [part for part in refused if part in path]
    if escapes or (is_uri(path) and not path.isprintable()):
        raise DocumentError(
            f"document {doc_id!r}: {name} {path!r} contains "
            f"{escapes[0] if escapes else 'unprintable characters'}, which may lead out of the folders that "
            "--root allows; rename the file, or write its plain path"
        )


def below(path: str) -> str:
    """Return the prefix of all paths under a folder: ending in `/`, and if local without links and `..`."""
    # The final slash keeps the root /data/a from allowing /data/ab.
    local = path.removeprefix("file://")
    return (path if is_uri(local) else os.path.realpath(local)).rstrip("/") + "/"


def parse_text(doc_id: str, text: object) -> str | tuple[Utterance, ...] | None:
    """Check an inline transcript and return it: one string, utterances, or None.

    Raises:
        DocumentError: if it is invalid, naming the document and the rule, but not what people said.
    """
    if text is None:
        return None
    if isinstance(text, str):
        if not text.strip():
            raise DocumentError(f"document {doc_id!r}: text is empty; write null if there is no transcript")
        if text in MISSING:
            raise DocumentError(
                f"document {doc_id!r}: text is a word that stands for a missing value; write null, or leave "
                "the cell empty, if there is no transcript"
            )
        return text
    if not isinstance(text, list) or not text:
        # The type and not the text: messages end up in logs, and transcripts may be confidential.
        raise DocumentError(
            f"document {doc_id!r}: text is {'empty' if text == [] else f'of type {type(text).__name__}'}; it "
            "must be a string, a list of strings, or a list of {text, start?, end?, role?}"
        )
    utterances = tuple(_parse_utterance(doc_id, i, item) for i, item in enumerate(text))
    timed = sum(u.start is not None for u in utterances)
    # Segments have either times or positions in the text; nothing could order a mixture of both.
    if 0 < timed < len(utterances):
        raise DocumentError(
            f"document {doc_id!r}: {timed} of {len(utterances)} utterances have times; add times to all "
            "or to none"
        )
    if not any(u.text.strip() for u in utterances):
        raise DocumentError(
            f"document {doc_id!r}: all utterances are empty; write null if there is no transcript"
        )
    return utterances


def _parse_utterance(doc_id: str, index: int, item: object) -> Utterance:
    if isinstance(item, str):
        return Utterance(text=item)
    if not isinstance(item, (dict, Mapping)) or not isinstance(text := item.get("text"), str):
        raise DocumentError(
            f"document {doc_id!r}: utterance {index} is of type {type(item).__name__} without a string "
            "`text`; it must be a string, or hold one"
        )
    start: Any
    end: Any
    start, end, role = item.get("start"), item.get("end"), item.get("role")
    if not _UTTERANCE_KEYS.issuperset(item):
        _check_keys(doc_id, index, item)
    if role is None:
        role = item.get("speaker")
    if (start is None) != (end is None):
        raise DocumentError(
            f"document {doc_id!r}: utterance {index} has only one of start and end; write both or none"
        )
    if start is not None:
        # NaN fails every comparison, so it is refused too; a length of 0 is fine, as transcribers write it
        # for short words.
        if not _is_number(start) or not _is_number(end) or not 0 <= start <= end <= sys.float_info.max:
            raise DocumentError(
                f"document {doc_id!r}: utterance {index} runs from {start!r} to {end!r}; times are seconds "
                "with 0 <= start <= end"
            )
        start, end = float(start), float(end)
    if isinstance(role, int) and not isinstance(role, bool):
        role = str(role)  # diarization counts its speakers
    if role is not None and not isinstance(role, str):
        raise DocumentError(f"document {doc_id!r}: utterance {index} has role {role!r}; it must be a string")
    return Utterance(text=text, start=start, end=end, role=role)


def _check_keys(doc_id: str, index: int, item: Mapping[str, Any]) -> None:
    """Check that an utterance holds no times or speaker under names that are not read."""
    for name, others in _OTHER_NAMES.items():
        found = sorted(key for key in others & set(item) if item[key] is not None)
        if found and item.get(name) is None:
            raise DocumentError(
                f"document {doc_id!r}: utterance {index} has {', '.join(found)}, which is not read; write "
                f"`{name}`{' in seconds' if name != 'role' else ''}"
            )


def _is_number(value: object) -> bool:
    # To Python, a bool is an int.
    return isinstance(value, (int, float)) and not isinstance(value, bool)
