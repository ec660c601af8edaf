"""The format on disk: an older store opens, and the same inputs give the same bytes as they did then."""

import hashlib
import io
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hilbert_ray.config import MODALITIES, Modality
from hilbert_ray.document import Document, InvalidRow, Label, Utterance, duplicate_row
from hilbert_ray.storage import block_checksums, with_checksum
from hilbert_ray.store import (
    FeatureRow,
    Quarantined,
    Store,
    StoredDocument,
    bucket_of,
    collect_garbage,
    compact_store,
    count_unchecked,
    sorting,
    store_info,
    verify_store,
    write_snapshot,
)

GOLDEN = Path(__file__).parent / "golden"
"""Written from the inputs below by commit da53054. Never regenerate it: stores of that time must open."""
WRITTEN_WITH = "26.0.1"
"""Version of pyarrow that wrote these files: every Parquet file names it, and others compress differently."""
FINGERPRINTS: dict[Modality, str] = {"audio": "f00d", "text": "beef"}


def manifest() -> Iterator[StoredDocument | InvalidRow]:
    """Yield every kind of document, a fault, and two rows of one id."""
    turns = (Utterance(text="hällo", start=0.5, end=1.25, role="a"), Utterance(text="b"))
    labels: dict[str, Label] = {"mood": "løw", "age": 7, "tags": ["x", "y"], "held": {"x": 1, "y": None}}
    yield StoredDocument(
        document=Document(
            doc_id="d1", audio="/d1.wav", text=turns, group="g1", labels=labels, split="test"
        ),
        row=1, audio_version="10-1", text_version="t1", turns_version="u1",
    )  # fmt: skip
    yield StoredDocument(
        document=Document(doc_id="interview-7", text="One sentence. Another.", group="g1"),
        row=2, audio_version=None, text_version="t2", turns_version=None,
    )  # fmt: skip
    yield StoredDocument(
        document=Document(doc_id="é", audio="s3://bucket/e.mp3", text_file="s3://bucket/e.vtt", group="é"),
        row=3, audio_version="ETag:e", text_version="ETag:v", turns_version="ETag:v",
    )  # fmt: skip
    yield InvalidRow(row=4, doc_id="bad", stage="manifest", error="DocumentError", message="why")
    for row, audio in ((5, "/a.wav"), (6, "/b.wav")):
        yield StoredDocument(
            document=Document(doc_id="twice", audio=audio, group="g2"),
            row=row, audio_version=str(row - 4), text_version=None, turns_version=None,
        )  # fmt: skip


def features(doc_id: str, source: str, segments: int, timed: bool) -> FeatureRow:
    """Return features whose values and times float16 and float32 hold exactly."""
    at = np.arange(segments, dtype=np.float32)
    scale = 1 if timed else segments
    return FeatureRow(
        doc_id=doc_id,
        source=source,
        features=((np.arange(segments * 3) - 4) / 8).reshape(segments, 3).astype(np.float16),
        start=at / scale,
        end=(at + 1) / scale,
        timed=timed,
        seen=float(segments),
        present=float(segments),
    )


def write(uri: str) -> Store:
    """Write the golden store: two manifests, two encoders, a quarantined transcript, and indexes."""
    store = Store.create(uri, 2)
    write_snapshot(store, manifest(), roles=["b", "a"])
    snapshot = write_snapshot(store, list(manifest())[:4], roles=["b", "a"])
    segment = {"audio": "turns", "roles": []}
    store.add_encoder("audio", FINGERPRINTS["audio"], {"name": "mfcc", "dim": 3, "segment": segment})
    store.add_encoder("text", FINGERPRINTS["text"], {"name": "hashing", "dim": 3})
    for item in snapshot.documents():
        for modality in MODALITIES:
            if item.has(modality):
                commit(store, item, modality)
    compact_store(store, min_commits=2)
    return store


def commit(store: Store, item: StoredDocument, modality: Modality) -> None:
    """Store a document as a unit of its own; the transcript of `é` is quarantined."""
    doc_id = item.document.doc_id
    source = item.source(modality, reads_turns=modality == "audio", roles=["a", "b"])
    rows = [features(doc_id, source, item.row + 1, timed=modality == "audio")]
    failures = []
    if (doc_id, modality) == ("é", "text"):
        failure = Quarantined(
            doc_id=doc_id, source=source, stage="read", error="TextError", message="why\r\n\u2028 é"
        )
        rows, failures = [], [failure]
    store.commit(
        modality, FINGERPRINTS[modality], unit=f"unit-{item.row}", bucket=bucket_of(doc_id, 2), rows=rows,
        quarantined=failures, versions={"python": "3.11", "numpy": "2"}, threads=2,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a folder by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def with_names_of_today(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files of the golden store with the CRC-32 of data files in names and commits, as today."""
    names = {
        name: f"{name.removesuffix('.parquet')}-{zlib.crc32(data):08x}.parquet"
        for name, data in files.items()
        if "/data/" in name
    }
    renamed = {}
    for name, data in files.items():
        if "/commits/" in name:
            for old, new in names.items():
                data = data.replace(old.encode(), new.encode())
        if name.endswith(".jsonl"):
            name = f"{name.rpartition('-')[0]}-{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
        renamed[names.get(name, name)] = data
    return renamed


@pytest.mark.skipif(pa.__version__ != WRITTEN_WITH, reason=f"the golden bytes are of pyarrow {WRITTEN_WITH}")
def test_the_same_inputs_give_the_files_of_the_golden_store_and_checksums_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Messages may be reworded, the format may not change: the golden store keeps its message.
    messages = {fault.row: fault.message for fault in Store.open(str(GOLDEN)).snapshot(1).faults}

    def with_golden_message(row: int, doc_id: str, rows: list[int]) -> InvalidRow:
        return replace(duplicate_row(row, doc_id, rows), message=messages[row])

    monkeypatch.setattr(sorting, "duplicate_row", with_golden_message)
    write(str(tmp_path))
    written, golden = contents(tmp_path), with_names_of_today(contents(GOLDEN))
    assert sorted(written) == sorted(golden)
    for name, data in golden.items():
        if name.startswith("documents/") and name.endswith(".json"):
            file = golden[json.loads(data)["file"]]
            data = json.dumps({**json.loads(data), "blocks": block_checksums(io.BytesIO(file))}).encode()
        assert written[name] == (with_checksum(data) if name.endswith(".json") else data), name


def test_the_golden_store_opens_and_holds_what_was_written(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    items = {item.document.doc_id: item for item in store.snapshot(1).documents()}
    expected = {row.document.doc_id: row for row in manifest() if isinstance(row, StoredDocument)}
    assert items == {doc_id: item for doc_id, item in expected.items() if doc_id != "twice"}
    assert [(fault.row, fault.error) for fault in store.snapshot(1).faults] == [
        (4, "DocumentError"),
        (5, "DuplicateIdError"),
        (6, "DuplicateIdError"),
    ]
    newest = store.snapshot()
    assert (newest.number, newest.num_documents, newest.roles) == (2, 3, ("a", "b"))
    assert newest.row_groups == ((0, 1), (1, 2))
    assert {row.doc_id for row in store.read("audio", "f00d")} == {"d1", "é"}
    for row in store.read("text", "beef"):
        expected_row = features(row.doc_id, row.source, len(row.features), timed=False)
        np.testing.assert_array_equal(row.features, expected_row.features)
        np.testing.assert_array_equal(row.end, expected_row.end)
    [failure] = store.quarantined("text", "beef")
    assert (failure.doc_id, failure.error, failure.message) == ("é", "TextError", "why\r\n\u2028 é")
    assert failure.source == items["é"].source("text", roles=["a", "b"])
    assert store.encoders("audio")["f00d"]["segment"] == {"audio": "turns", "roles": ["a", "b"]}


def test_the_golden_store_is_intact_and_may_be_collected(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    assert list(verify_store(store)) == []
    assert count_unchecked(store) == len(list(GOLDEN.rglob("*.json")))
    before = store_info(store)
    assert [
        (each["stored"], each["quarantined"], each["pending"], each["segments"], each["indexes"])
        for each in before["encoders"]
    ] == [(2, 0, 0, 6, 1), (2, 1, 0, 5, 1)]
    # Four commits are in indexes, and the first manifest shares its file with the second.
    assert len(collect_garbage(store, min_age_h=0.0)) == 5
    assert list(verify_store(store)) == []
    after = store_info(store)
    assert [each["stored"] for each in after["encoders"]] == [each["stored"] for each in before["encoders"]]
