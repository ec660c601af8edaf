"""Attributes of a document (age, sex, site, device ...), and names that look like a misspelt field.

Whatever a manifest says of a document beyond its fields becomes an attribute. That must not hide a mistake:
`audio_path` where `audio` is absent is refused, and other names that look like a field are warned about.
"""

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

Attribute: TypeAlias = str | int | float | bool

_NAMES = {
    "doc_id": "docid document_id",
    "audio": "audio_path audio_file audio_filepath audio_filename audio_uri audio_url audiopath audiofile "
    "audios wav wavs wav_path wav_file wavfile wav_filepath wav_filename",
    "text": "texts txt transcript transcripts transcription transcriptions utterances turns",
    "text_file": "text_path text_filepath textfile text_filename transcript_path transcript_file "
    "transcript_filepath transcription_path transcription_file txt_path txt_file subtitle_file vtt_file "
    "srt_file",
    "group": "groups grp group_id speaker speaker_id speakerid spk spk_id spkid subject subject_id "
    "participant participant_id patient patient_id person person_id client_id family family_id user_id pid",
    "labels": "label target targets class classes y diagnosis outcome ground_truth",
    "split": "splits partition subset fold data_split dataset_split",
    "attributes": "attribute attrs metadata meta covariates",
    "channels": "channel",
    "diarization": "rttm rttm_path rttm_file rttm_filepath rttm_filename diarization_path diarization_file "
    "diarization_filepath diarisation",
}
"""Names that other tools and people give the fields, and that hardly mean anything else."""
_HINTS = {
    "doc_id": "id doc document uid uuid utt utt_id uttid utterance_id sample_id item_id recording_id "
    "record_id file_id segment_id interview_id",
    "audio": "path file filename file_name filepath file_path recording recording_path sound sound_file mp3 "
    "flac media media_path clip location uri url",
    "text": "sentence sentences utterance segments words content body normalized_text raw_text "
    "raw_transcription "
    "text_content",
    "text_file": "vtt srt subtitles captions",
}
"""Names that may be meant for a field, or be attributes in their own right."""
_FIELD_OF = {name: field for field, names in _NAMES.items() for name in names.split()}
_HINTED = {name: field for field, names in _HINTS.items() for name in names.split()}
_DECISIVE = ("doc_id", "audio", "text", "text_file")
"""Fields without which a document is another one, or none: a misspelt name of these is refused."""


@lru_cache(maxsize=4096)
def resembled_field(name: str) -> str | None:
    """Return the field that a name looks like: another common name for it, or its name with a typing error.

    The field itself is none of these, unless it is written otherwise (`Audio`, ` text`, `text.1`).
    """
    plain = _plain(name)
    if plain.startswith(("label.", "lables.", "labels_")):
        return "labels"
    if plain in _FIELD_OF:
        return _FIELD_OF[plain]
    for field in _NAMES:
        if plain == field:
            return None if name == field else field
        if len(plain) > 3 and _is_typing_error(plain, field):
            return field
    return None


def _plain(name: str) -> str:
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    base, point, number = plain.rpartition(".")
    # pandas renames the second of two equal columns so.
    return base if point and number.isdigit() else plain


def _is_typing_error(name: str, field: str) -> bool:
    """Whether one letter is missing, added or wrong, or two neighbours are exchanged."""
    # `test`, `sext` and `next` are words of their own beside `text`: only its letters in another order count.
    if field == "text":
        return name != field and sorted(name) == sorted(field)
    return name != field and _distance(name, field) <= 1


def _distance(a: str, b: str) -> int:
    """Return the edit distance of two short words, where exchanging two neighbours counts as one edit."""
    # Far apart in length, they are far apart; names of attributes may be long.
    if abs(len(a) - len(b)) > 1:
        return 2
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def misspelt(names: Collection[str], present: Collection[str]) -> str | None:
    """Return what is wrong with the first name that looks like an absent field that decides on the document.

    Args:
        names: names that are not fields.
        present: the fields that are there.
    """
    has_content = not {"audio", "text", "text_file"}.isdisjoint(present)
    for name in names:
        field = resembled_field(name)
        if field is None and not (has_content and "doc_id" in present):
            field = _HINTED.get(_plain(name))
            # A transcript that is there needs no audio, and a recording needs no transcript.
            if has_content and field != "doc_id":
                continue
        if field not in _DECISIVE or field in present:
            continue
        if field in ("text", "text_file") and ("text" in present or "text_file" in present):
            continue  # a transcript is either inline or in a file
        other = " (or to `text_file`, if it names a file)" if field == "text" else ""
        return f"`{name}` looks like the field `{field}`, which is absent: rename it to `{field}`{other}"
    return None


def doubtful_name(name: str, absent: Collection[str]) -> str | None:
    """Return what to warn of an attribute whose name looks like a field; None if it does not.

    Args:
        name: of the attribute.
        absent: fields that no document has.
    """
    field = resembled_field(name)
    if field is None:
        return None
    if field == "labels":
        if _plain(name) not in _FIELD_OF:
            return f"`{name}` is an attribute; to make it a label, name it `labels.<task>`"
        return (
            f"`{name}` is an attribute; if it is to be predicted, name it `labels.{name}` or declare a task "
            f"`{name}` in the settings"
        )
    if field == "group":
        # Beside a group, a speaker is an attribute like any other.
        return (
            None
            if "group" not in absent
            else (
                f"`{name}` is an attribute, and no document has a `group`: if several documents are of the "
                "same "
                f"{name}, name it `group`, or they will be on both sides of a split"
            )
        )
    if field == "split" and "split" in absent:
        return f"`{name}` is an attribute and holds nothing out; if it should, name it `split`"
    return f"`{name}` is an attribute, although it looks like the field `{field}`"


def parse_attributes(given: object, others: Mapping[str, Any]) -> tuple[dict[str, Attribute], str | None]:
    """Check the attributes of one row; return them, and what is wrong with them, if anything.

    Missing values (null, NaN) are left out.

    Args:
        given: the row's field `attributes`.
        others: what else the row holds beyond its fields.
    """
    if given is None:
        given = {}
    if not isinstance(given, dict | Mapping):
        return {}, f"attributes is of type {type(given).__name__}; it must map names to values"
    attributes: dict[str, Attribute] = {}
    for name, value in (*given.items(), *others.items()) if others else given.items():
        kind = type(value)
        if (kind is str or kind is int) and name not in attributes and _is_name(name):
            attributes[name] = value
            continue
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if not isinstance(name, str) or not _is_name(name):
            return {}, f"an attribute has the name {name!r}; it must be printable text"
        if not isinstance(value, str | int | float):
            field = resembled_field(name)
            return {}, (
                f"`{name}` is of type {type(value).__name__}, and attributes are text, numbers or "
                "true/false; "
                + (f"if it is the field `{field}`, rename it" if field else "remove it, or write its parts")
            )
        if name in attributes and attributes[name] != value:
            return {}, f"attribute `{name}` has two values; give one"
        attributes[name] = value
    return attributes, None


@lru_cache(maxsize=4096)
def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip()) and name.isprintable()
