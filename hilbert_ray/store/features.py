"""What a store holds of one modality and encoder: rows of features in data files, and commits that name them.

A data file holds one row per document, in columns that pyarrow alone can read:

    doc_id, source  string         the document, and the hash of what its features depend on
    features        large_binary   little-endian float16 [n, dim], row-major
    n, dim          int32          segments, width
    start, end      list<float32>  seconds of each segment; for untimed text its position in [0, 1]
    timed           bool           whether start and end are seconds
    seconds_seen, seconds_present  float64: audio that reached the encoder, audio that the document holds
    (text: tokens_seen, tokens_present)
    roles           list<string>   the speaker of each segment's channel or turn, empty if unknown; null where
                                   none is known, and absent where all are null
    recognition     struct         name, fingerprint and mean confidence of the recogniser that wrote the
                                   transcript, see `Recognition`; null of other transcripts, and absent where
                                   all are null

The bytes of a file depend on its rows alone: one chunk, no dictionary, nothing about the run that wrote it.
Two runs that embed the same documents therefore write the same file, whose name ends in 16 digits of its
SHA-256 and its CRC-32. Readers compare the CRC-32, `store verify` the whole SHA-256, which the commit holds.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from zlib_ng import zlib_ng

from hilbert_ray.config import Modality
from hilbert_ray.document import Recognition, Seconds

CRC32_DIGITS = 8
_RECOGNITION = pa.struct([("name", pa.string()), ("fingerprint", pa.string()), ("confidence", pa.float64())])
AMOUNT: Mapping[Modality, str] = {"audio": "seconds", "text": "tokens"}
"""The unit in which each modality is counted; it is part of the names of columns."""

STATISTICS_BYTES = 2**24
"""Features of a data file up to which Parquet computes statistics of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureRow:
    """The features of one document in one modality.

    `features` is float16 [n, dim]; `start` and `end` are float32 [n]: seconds where `timed`, otherwise
    positions in [0, 1]. `roles` are the speakers of the segments by their channels or turns, n names, empty
    if unknown; None where none is known. `seen` and `present` (seconds of audio, tokens of text) are equal:
    nothing is cut. `recognition` is that of an automatic transcript which the features depend on.
    """

    doc_id: str
    source: str
    features: np.ndarray
    start: np.ndarray
    end: np.ndarray
    timed: bool
    seen: Seconds
    present: Seconds
    roles: tuple[str, ...] | None = None
    recognition: Recognition | None = None

    @property
    def committed(self) -> tuple[str, str, int, float]:
        """What a commit says of the row, see `Commit.stored`."""
        return self.doc_id, self.source, len(self.features), self.seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A document that could not be done, and the stage and error that stopped it."""

    doc_id: str
    source: str
    stage: str
    error: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the values as a commit holds them: the source is named `key` on disk."""
        return {
            "doc_id": self.doc_id,
            "key": self.source,
            "stage": self.stage,
            "error": self.error,
            "message": self.message,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What is done of one unit: the only truth about which documents are stored.

    `stored` lists (doc_id, source, segments, seconds or tokens) in the order of the data file's rows, or, of
    transcripts, (doc_id, source, utterances, seconds). `file` is None where all documents of the unit were
    quarantined. `versions` and `threads` record what wrote it. `recognized` has, by its
    place in `stored`, what recognised the automatic transcript of a document.
    """

    unit: str
    bucket: int
    file: str | None
    sha256: str | None
    size_bytes: int
    stored: tuple[tuple[str, str, int, float], ...]
    quarantined: tuple[Quarantined, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    recognized: Mapping[int, Recognition] = field(default_factory=dict)

    @property
    def amount(self) -> float:
        """Seconds of audio (or tokens of text) that this commit stores."""
        return sum(amount for _, _, _, amount in self.stored)

    def to_json(self) -> bytes:
        """Return the commit as the bytes of its file, one line of JSON."""
        # Names and their order are the format on disk: the same commit must always give the same bytes.
        values = {
            "unit": self.unit,
            "bucket": self.bucket,
            "file": self.file,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "rows": len(self.stored),
            "amount": self.amount,
            "stored": self.stored,
            "quarantined": [failure.to_dict() for failure in self.quarantined],
            "versions": dict(sorted(self.versions.items())),
            "threads": self.threads,
        }
        # Commits without any keep the bytes that they have always had.
        if self.recognized:
            values["recognized"] = [[row, *astuple(one)] for row, one in sorted(self.recognized.items())]
        # One line without spaces, since an index is commits line by line; line breaks in texts are escaped.
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()


def commit_from_json(data: bytes) -> Commit:
    """Read a commit back from the bytes of its file."""
    # msgspec is faster than json, and opening a store parses every commit.
    values: dict[str, Any] = msgspec.json.decode(data)
    return Commit(
        unit=values["unit"],
        bucket=values["bucket"],
        file=values["file"],
        sha256=values["sha256"],
        size_bytes=values["size_bytes"],
        stored=tuple(map(tuple, values["stored"])),
        quarantined=tuple(
            Quarantined(source=fields.pop("key"), **fields) for fields in values["quarantined"]
        ),
        versions=values["versions"],
        threads=values["threads"],
        recognized={row: Recognition(*facts) for row, *facts in values.get("recognized", ())},
    )


def encode_rows(modality: Modality, rows: Sequence[FeatureRow]) -> bytes:
    """Return rows as the bytes of a Parquet file; the same rows always give the same bytes."""
    amount = AMOUNT[modality]
    times = pa.list_(pa.float32())
    # Files without roles and automatic transcripts keep the bytes that they have always had.
    optional = {}
    if any(row.roles is not None for row in rows):
        optional["roles"] = pa.array([row.roles for row in rows], pa.list_(pa.string()))
    if any(row.recognition is not None for row in rows):
        recognitions = [None if row.recognition is None else asdict(row.recognition) for row in rows]
        optional["recognition"] = pa.array(recognitions, _RECOGNITION)
    table = pa.table(
        {
            "doc_id": pa.array([row.doc_id for row in rows], pa.string()),
            "source": pa.array([row.source for row in rows], pa.string()),
            "features": pa.array([_bytes_of(row.features) for row in rows], pa.large_binary()),
            "n": pa.array([row.features.shape[0] for row in rows], pa.int32()),
            "dim": pa.array([row.features.shape[1] for row in rows], pa.int32()),
            "start": pa.array([row.start.astype(np.float32) for row in rows], times),
            "end": pa.array([row.end.astype(np.float32) for row in rows], times),
            "timed": pa.array([row.timed for row in rows], pa.bool_()),
            f"{amount}_seen": pa.array([row.seen for row in rows], pa.float64()),
            f"{amount}_present": pa.array([row.present for row in rows], pa.float64()),
            **optional,
        }
    )
    # To find the least and the largest, Parquet holds the features six times over, and then leaves both out,
    # since they are too long. Small files have the bytes that they have always had.
    is_large = sum(row.features.nbytes for row in rows) > STATISTICS_BYTES
    described = [name for name in table.column_names if name != "features"] if is_large else True
    # Float16 features hardly compress, and a codec's version would change the bytes.
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.combine_chunks(), sink, compression="none", use_dictionary=False, write_statistics=described
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _bytes_of(features: np.ndarray) -> memoryview:
    """Return little-endian float16 [n, dim] as bytes, without a copy."""
    return np.ascontiguousarray(features, "<f2").view(np.uint8).reshape(-1).data


def decode_rows(modality: Modality, data: bytes) -> Iterator[FeatureRow]:
    """Return the rows of a data file, one by one; features are read-only views of its buffer, not copies."""
    # A file is small: a data set around it, or threads for its columns, cost more than reading it.
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).combine_chunks()
    # Read at once and yielded one by one: a fault of the file shows here, not in the middle of the rows.
    return _rows(modality, {name: table[name].chunk(0) for name in table.column_names})


def _rows(modality: Modality, columns: Mapping[str, pa.Array]) -> Iterator[FeatureRow]:
    amount = AMOUNT[modality]
    scalars = ("doc_id", "source", "n", "dim", "timed", f"{amount}_seen", f"{amount}_present")
    roles, recognitions = (
        columns[name].to_pylist() if name in columns else [None] * len(columns["doc_id"])
        for name in ("roles", "recognition")
    )
    documents = zip(
        columns["features"],
        _views(columns["start"]),
        _views(columns["end"]),
        roles,
        recognitions,
        *(columns[name].to_pylist() for name in scalars),
        strict=True,
    )
    for features, start, end, role_of, recognition, doc_id, source, n, dim, timed, seen, present in documents:
        yield FeatureRow(
            doc_id=doc_id,
            source=source,
            # Little-endian on every machine, as the file says.
            features=np.frombuffer(features.as_buffer(), dtype="<f2").reshape(n, dim),
            start=start,
            end=end,
            timed=timed,
            seen=seen,
            present=present,
            roles=None if role_of is None else tuple(role_of),
            recognition=None if recognition is None else Recognition(**recognition),
        )


def _views(lists: pa.ListArray) -> Iterator[np.ndarray]:
    """Yield each list of a column, without a copy."""
    # Times of all documents are one flat array, cut at the list offsets.
    values = lists.values.to_numpy()
    return (values[first:end] for first, end in pairwise(lists.offsets.to_pylist()))


def crc32_of(data: bytes) -> str:
    """Return the CRC-32 of some bytes, in hexadecimal: it finds every error of up to 32 bits in a row."""
    # zlib's own takes six times as long, which is 2.7 % of reading a store. Not ISA-L: fsspec would take it
    # for gzip, too, with errors of its own.
    return f"{zlib_ng.crc32(data):0{CRC32_DIGITS}x}"


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
