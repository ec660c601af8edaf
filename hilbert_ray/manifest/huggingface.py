"""Audio datasets of Hugging Face on disk: what their columns are here, and which files a folder consists of.

Read are `metadata.csv`, `.jsonl` and `.parquet` of an `audiofolder` (paths in `file_name`), Parquet files
with a column of structs of `path` and `bytes`, and folders that `save_to_disk` wrote. Audio inside a table is
no file that could be decoded as a stream: it is unpacked first.
"""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.manifest.arrow import has_audio
from hilbert_ray.manifest.cells import read_json
from hilbert_ray.manifest.rows import BadRow, ManifestError, Record
from hilbert_ray.storage import require_regular

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
           "val": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip
_TEXTS = ("text", "transcription", "transcript", "sentence", "normalized_text", "raw_text")
_LABELS = ("label",)
_JSON_BYTES = 2**26
"""Most bytes of a file that lists what a dataset consists of."""
_PLAIN_NAME = re.compile(r"[^./\0][^/\0]*")


class EmbeddedAudioError(ManifestError):
    """A table that holds the audio itself."""


def renamed(names: Sequence[str], audio: str, classes: Sequence[str] = ()) -> dict[str, str]:
    """Return what the columns of an audio dataset are in a manifest, where their names differ.

    Args:
        names: of all columns.
        audio: name of the column of audio or its path.
        classes: columns that hold classes.
    """
    found = {audio: "audio"}
    text = next((name for name in _TEXTS if name in names), None)
    if text is not None:
        found[text] = "text"
    found |= {name: f"labels.{name}" for name in names if name in _LABELS or name in classes}
    return {old: new for old, new in found.items() if old != new and new not in names}


def note_of(mapping: Mapping[str, str]) -> str:
    """Return how the columns of an audio dataset are read, for the user."""
    read = ", ".join(f"`{old}` as `{new}`" for old, new in mapping.items())
    return f"read as an audio dataset of Hugging Face{': ' if read else ''}{read}"


def is_metadata(uri: str) -> bool:
    """Whether this is the table of an `audiofolder`."""
    return uri.rpartition("/")[2].startswith("metadata.")


def audiofolder_rows(rows: Iterator[Record]) -> Iterator[Record]:
    """Yield rows of `metadata.jsonl` as rows of documents."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, BadRow):
            yield row
            continue
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            yield BadRow(f"row {number} has no file_name; it must name an audio file")
            continue
        record: dict[str, object] = {"doc_id": name}
        labels: dict[str, object] = {}
        mapping = renamed(list(row), "file_name")
        for key, value in row.items():
            key = mapping.get(key, key)
            if key.startswith("labels."):
                labels[key.removeprefix("labels.")] = value
            else:
                record[key] = value
        own = record.get("labels") or {}
        if labels and isinstance(own, dict):  # anything else is refused as what it is
            record["labels"] = {**own, **labels}
        yield record


def audio_column(schema: pa.Schema) -> str | None:
    """Return the column of structs of bytes and path, if the table has one."""
    return next((column.name for column in schema if has_audio(column.type)), None)


def holds_bytes(file: pq.ParquetFile, column: str) -> bool:
    """Whether a Parquet file holds audio itself, and not only its paths; True if it does not say."""
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for i in range(row_group.num_columns):
            chunk = row_group.column(i)
            if chunk.path_in_schema == f"{column}.bytes":
                statistics = chunk.statistics
                if statistics is None or statistics.null_count is None or statistics.num_values:
                    return True
    return False


def unpack_first(manifest: str) -> EmbeddedAudioError:
    """Return the error of a table that holds the audio itself."""
    return EmbeddedAudioError(
        f"manifest {manifest} holds the audio itself, not paths of files, and recordings are decoded from "
        "files: "
        f"write them out with `hilbert-ray unpack {manifest} FOLDER`, then use FOLDER/manifest.jsonl"
    )


def without_bytes(manifest: str, batches: Iterator[pa.RecordBatch], column: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an Arrow file with the audio's path alone.

    Raises:
        ManifestError: if the table holds audio itself.
    """
    for batch in batches:
        audio = batch.column(column)
        held = audio.field("bytes")
        if held.null_count < len(held):
            raise unpack_first(manifest)
        position = batch.schema.get_field_index(column)
        yield batch.set_column(position, column, audio.field("path"))


def tables_of(folder: str) -> list[tuple[str, str, str]]:
    """Return (table, folder of its paths below this one, split) of each table of a dataset's folder."""
    tables = []
    listing = os.path.join(folder, "dataset_dict.json")
    listed = _names(listing, "splits") if os.path.exists(listing) else []
    inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    for name in ("", *(listed or inner)):
        here = os.path.join(folder, name)
        split = _SPLITS.get(name, "")
        if os.path.exists(state := os.path.join(here, "state.json")):
            tables += [(os.path.join(here, file), "", split) for file in _names(state, "_data_files")]
        found = [os.path.join(here, each) for each in _METADATA if os.path.exists(os.path.join(here, each))]
        tables += [(path, name, split) for path in found[:1]]
        # As the hub stores them: data/train-00000-of-00002.parquet, or FOLDER/train/0000.parquet.
        for path in sorted(glob.glob(os.path.join(glob.escape(here), "*-of-*.parquet"))):
            tables.append((path, "", _SPLITS.get(os.path.basename(path).partition("-")[0], split)))
    return tables


def _names(path: str, key: str) -> list[str]:
    """Return the names in the same folder that a file of `datasets` lists.

    Raises:
        ManifestError: if it lists none, or what is elsewhere.
    """
    listed = _json(path).get(key)
    listed = listed if isinstance(listed, list) else []
    names: list[Any] = [one.get("filename") if isinstance(one, dict) else one for one in listed]
    if not names or not all(isinstance(name, str) and _PLAIN_NAME.fullmatch(name) for name in names):
        raise ManifestError(
            f"{path} does not list `{key}` by names as `datasets` does; save the dataset again"
        )
    return names


def _json(path: str) -> dict[str, Any]:
    try:
        require_regular(path)
        if os.path.getsize(path) > _JSON_BYTES:
            raise ValueError(f"it has more than {_JSON_BYTES} bytes")
        with open(path, "rb") as file:
            value = read_json(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"{path}, which says what the dataset consists of, cannot be read: {error}"
        ) from None
    if not isinstance(value, dict):
        raise ManifestError(f"{path} is a JSON {type(value).__name__}; `datasets` writes an object")
    return value
