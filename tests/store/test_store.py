"""The store: create-only files, commits as the only truth, the newest manifest as the only view."""

import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config.settings import MODALITIES, Modality
from hilbert_ray.document.manifest import Fault
from hilbert_ray.document.records import Utterance
from hilbert_ray.storage.files import Files, StorageError
from hilbert_ray.store import export as export
from hilbert_ray.store import sorting as documents
from hilbert_ray.store.features import FeatureRow, Quarantined, decode_rows, encode_rows, sha256_of
from hilbert_ray.store.snapshot import StoredDocument, bucket_of
from hilbert_ray.store.store import Store
from tests import make
from tests.faulty import Fault as Spoilt
from tests.faulty import Request, faulty_object_store

FINGERPRINT = "f00d"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be made: on the local disk, and on an object store."""
    if request.param == "local":
        return str(tmp_path / "store")
    uri: str = request.getfixturevalue("object_store")
    return f"{uri}/{tmp_path.name}/store"


def filled(uri: str, doc_ids: str = "abcd", buckets: int = 4) -> Store:
    """Return a store whose documents all have audio features, a unit a bucket."""
    store = Store.create(uri, buckets)
    store.write_documents(iter([make.stored(doc_id, row=row) for row, doc_id in enumerate(doc_ids, start=1)]))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    for item in store.stored_documents():
        commit(store, item)
    return store


def commit(store: Store, *items: StoredDocument, unit: str = "", seed: int = 0) -> None:
    """Store features of documents of one bucket as one unit."""
    bucket = bucket_of(items[0].document.doc_id, store.buckets)
    rows = [make.feature_row(item.document.doc_id, item.source("audio"), seed=seed) for item in items]
    name = unit or f"unit-{items[0].document.doc_id.replace('/', '-')}"
    store.commit("audio", FINGERPRINT, unit=name, bucket=bucket, rows=rows)


def test_documents_come_back_as_they_were_written(place: str) -> None:
    rich = make.stored(
        "rich",
        row=2,
        text=(
            Utterance(text="héllo", start=0.5, end=1.25, role="a"),
            Utterance(text="b", start=2.0, end=3.0),
        ),
        labels={"mood": "low", "age": 7, "tags": ["x", "y"], "held": {"x": 1, "y": None}},
        group="g1",
        split="test",
    )
    plain = make.stored("plain", row=1, audio=None, text="one sentence. another.", audio_version=None)
    filed = make.stored("filed", row=3, text=None, text_file="/t.vtt", audio=None, audio_version=None)
    fault = Fault(row=4, doc_id="bad", stage="manifest", error="DocumentError", message="why")
    store = Store.create(place, buckets=3)
    store.write_documents([rich, plain, filed, fault])
    again = Store.open(place)
    found = {item.document.doc_id: item for item in again.stored_documents()}
    assert found == {"rich": rich, "plain": plain, "filed": filed}
    assert again.faults() == [fault]
    assert [bucket_of(doc_id, 3) for doc_id in found] == sorted(bucket_of(doc_id, 3) for doc_id in found)


def test_without_words_a_document_still_says_that_it_has_text(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path))
    without = make.stored("b", text=None, text_version=None)
    store.write_documents(iter([make.stored("a"), without]))
    found = {document.doc_id: document for document in store.documents()}
    assert (found["a"].text, found["a"].has_text) == ("", True)
    assert not found["b"].has_text


def test_documents_of_some_buckets_or_ids_are_read_alone(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), buckets=4)
    ids = [f"d{i}" for i in range(700)]
    store.write_documents(iter([make.stored(doc_id) for doc_id in ids]))
    for bucket in range(4):
        here = {item.document.doc_id for item in store.stored_documents(buckets={bucket})}
        assert here == {doc_id for doc_id in ids if bucket_of(doc_id, 4) == bucket}
    [one] = store.stored_documents(buckets={bucket_of("d7", 4)}, doc_ids={"d7"})
    assert one.document.doc_id == "d7"
    blocks = store.snapshot().blocks(rows=200)
    assert len(blocks) > 1
    assert sorted(bucket for block in blocks for bucket in block) == [0, 1, 2, 3]


def test_the_bucket_of_a_document_never_changes() -> None:
    assert [bucket_of(doc_id, 256) for doc_id in ("d1", "interview-7", "é")] == [39, 126, 47]


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.sampled_from("abcdef"), max_size=20),
    faulty=st.lists(st.sampled_from(["a", "b", "z", ""]), max_size=3),
    run=st.integers(1, 5),
)
def test_ids_used_twice_are_faults_however_the_rows_are_sorted(
    ids: list[str], faulty: list[str], run: int
) -> None:
    """Rows are sorted by bucket in runs of bounded size: the outcome must not depend on where a run ends."""
    import tempfile

    rows: list[StoredDocument | Fault] = [make.stored(doc_id, row=row) for row, doc_id in enumerate(ids)]
    rows += [
        Fault(row=100 + i, doc_id=doc_id, stage="m", error="E", message="m")
        for i, doc_id in enumerate(faulty)
    ]
    uses = [*ids, *faulty]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_RUN_BYTES", 250 * run)
        store = Store.create(folder, buckets=3)
        store.write_documents(iter(rows))
        assert sorted(document.doc_id for document in store.documents()) == sorted(
            doc_id for doc_id in ids if uses.count(doc_id) == 1
        )
        lost = [row for row, doc_id in enumerate(ids) if uses.count(doc_id) > 1]
        assert sorted(fault.row for fault in store.faults()) == lost + [100 + i for i in range(len(faulty))]
        for fault in store.faults():
            assert (fault.error == "DuplicateIdError") == (
                fault.doc_id != "" and uses.count(fault.doc_id) > 1
            )


def test_the_same_manifest_makes_no_new_snapshot_and_another_one_replaces_it(place: str) -> None:
    store = Store.create(place, buckets=2)
    first = store.write_documents(iter([make.stored("a"), make.stored("b")]))
    assert store.write_documents(iter([make.stored("b"), make.stored("a")])) == first
    second = store.write_documents(iter([make.stored("b")]))
    assert (first.number, second.number) == (1, 2)
    assert [document.doc_id for document in store.documents()] == ["b"]
    assert store.snapshot(1) == first


def test_features_come_back_exactly_and_only_from_committed_files(place: str) -> None:
    store = filled(place)
    store.files.create(f"features/audio/{FINGERPRINT}/data/bucket=0000/stray-0.parquet", b"no parquet")
    found = {row.doc_id: row for row in store.read("audio", FINGERPRINT)}
    assert sorted(found) == list("abcd")
    expected = make.feature_row("a", make.stored("a").source("audio"))
    for name in ("features", "start", "end"):
        np.testing.assert_array_equal(getattr(found["a"], name), getattr(expected, name))
        assert getattr(found["a"], name).dtype == getattr(expected, name).dtype
    assert (found["a"].timed, found["a"].seen, found["a"].present) == (True, 3.0, 3.0)
    by_bucket = [row.doc_id for bucket in range(4) for row in store.read("audio", FINGERPRINT, bucket)]
    assert sorted(by_bucket) == list("abcd")


def test_pyarrow_alone_can_read_a_data_file(tmp_path: Path) -> None:
    filled(str(tmp_path), "a")
    [path] = tmp_path.glob("features/audio/*/data/*/*.parquet")
    code = (
        f"import pyarrow.parquet as pq; t = pq.read_table({str(path)!r}, partitioning=None);"
        "print(*(f'{f.name}:{f.type}' for f in t.schema)); print(len(t['features'][0].as_py()))"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [
        "doc_id:string source:string features:large_binary n:int32 dim:int32 start:list<element: float> "
        "end:list<element: float> timed:bool seconds_seen:double seconds_present:double",
        str(3 * 4 * 2),
    ]


def test_the_same_rows_give_the_same_bytes_however_they_were_made(tmp_path: Path) -> None:
    rows = [make.feature_row("a"), make.feature_row("b", n=5, seed=1)]
    sliced = [
        replace(row, features=np.asfortranarray(row.features), start=row.start.astype(float)) for row in rows
    ]
    data = encode_rows("audio", rows)
    assert encode_rows("audio", sliced) == data
    assert encode_rows("audio", list(decode_rows("audio", data))) == data
    (tmp_path / "a.parquet").write_bytes(data)
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 1


def test_of_two_writers_of_a_unit_the_first_wins_and_the_second_takes_its_commit(place: str) -> None:
    store = Store.create(place)
    kept = store.commit("text", FINGERPRINT, unit="u", bucket=1, rows=[make.feature_row("a", seed=1)])
    lost = store.commit("text", FINGERPRINT, unit="u", bucket=1, rows=[make.feature_row("a", seed=2)])
    same = store.commit("text", FINGERPRINT, unit="u", bucket=1, rows=[make.feature_row("a", seed=1)])
    assert lost == same == kept
    assert [name for name in store.files.names("features") if "/data/" in name] == [kept.file]
    assert store.committed("text", FINGERPRINT, 1, "u") == kept
    assert store.committed("text", FINGERPRINT, 1, "other") is None


def test_of_racing_writers_exactly_one_creates_a_file(place: str) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        files = Files(place)
        barrier.wait()
        return files.create("race/name.json", str(number).encode() * 1000)

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, is_mine in enumerate(pool.map(write, range(8))) if is_mine]
    files = Files(place)
    assert len(won) == 1
    assert files.read("race/name.json") == str(won[0]).encode() * 1000
    assert files.names("race") == ["race/name.json"]


def test_a_new_source_supersedes_what_was_stored_before(place: str) -> None:
    store = filled(place, "ab")
    changed = make.stored("a", audio_version="9")
    store.write_documents(iter([changed, make.stored("b", row=2)]))
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["b"]
    commit(store, changed, unit="later", seed=7)
    found = {row.doc_id: row for row in store.read("audio", FINGERPRINT)}
    assert sorted(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"].features, make.feature_row("a", seed=7).features)
    [facts] = store.info()["encoders"]
    assert (facts["stored"], facts["superseded"], facts["pending"]) == (2, 1, 0)


def test_documents_that_left_the_manifest_leave_the_readers_view(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "ab")
    store.write_documents(iter([make.stored("b", row=2)]))
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["b"]
    assert store.info()["encoders"][0]["documents"] == 1


def test_a_document_that_two_units_hold_is_read_once_and_always_from_the_same(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    [item] = store.stored_documents()
    commit(store, item, unit="aaa", seed=5)
    [row] = store.read("audio", FINGERPRINT)
    np.testing.assert_array_equal(row.features, make.feature_row("a", seed=5).features)
    assert store.info()["encoders"][0]["segments"] == 3


def test_audio_depends_on_the_transcript_only_where_it_is_cut_by_it() -> None:
    before, after = make.stored("a"), make.stored("a", text_version="8", turns_version="9")
    assert before.source("audio") == after.source("audio")
    assert before.source("audio", reads_turns=True) != after.source("audio", reads_turns=True)
    assert before.source("text") != after.source("text")
    assert make.stored("a", audio_version="2").source("text") == before.source("text")


def test_the_roles_that_the_newest_run_kept_decide_what_is_current(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    store.add_encoder(
        "audio", "cafe", {"name": "other", "dim": 4, "segment": {"audio": "turns", "roles": []}}
    )
    store.write_documents(iter([make.stored("a")]), roles=["b", "a"])
    assert list(store.read("audio", FINGERPRINT)) == []
    assert store.encoders("audio")["cafe"]["segment"]["roles"] == ["a", "b"]
    source = make.stored("a").source("audio", roles=["a", "b"])
    assert list(store.sources(store.snapshot(), {bucket_of("a", 4)}, "audio", False)) == [("a", source)]
    store.write_documents(iter([make.stored("a")]))
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]


def test_sources_read_from_columns_are_those_of_the_documents(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), buckets=1)
    items = [
        make.stored("a"),
        make.stored("b", audio=None, audio_version=None),
        make.stored("c", turns_version=None),
    ]
    snapshot = store.write_documents(iter(items), roles=["x"])
    for by_turns in (False, True):
        for modality in MODALITIES:
            expected = {
                item.document.doc_id: item.source(modality, reads_turns=by_turns, roles=["x"])
                if item.has(modality)
                else None
                for item in items
            }
            assert dict(store.sources(snapshot, {0}, modality, by_turns)) == expected


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Return the features of each NumPy file of a folder, by file name."""
    return {path.name: np.load(path)["features"] for path in folder.iterdir()}


def test_features_are_exported_as_numpy_files(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    store.write_documents(iter([make.stored("a"), make.stored("b"), make.stored("x/y")]))
    commit(store, make.stored("x/y"))
    assert store.export(str(tmp_path / "out"), "numpy") == 3
    found = {path.name: np.load(path) for path in (tmp_path / "out" / f"audio-{FINGERPRINT}").iterdir()}
    assert sorted(found) == ["a.npz", "b.npz", "x%2Fy.npz"]
    for name in ("features", "start", "end", "timed"):
        np.testing.assert_array_equal(found["a.npz"][name], getattr(make.feature_row("a"), name))


def test_chosen_documents_are_exported_alone_and_only_their_buckets_are_read(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "abcdef")
    for item in store.stored_documents():
        if item.document.doc_id not in "bd" and bucket_of(item.document.doc_id, 4) not in (
            bucket_of("b", 4),
            bucket_of("d", 4),
        ):
            for path in tmp_path.glob(f"store/**/unit-{item.document.doc_id}-*.parquet"):
                path.write_bytes(b"damaged")
    assert store.export(str(tmp_path / "out"), "numpy", ["d", "b"]) == 2
    assert sorted(read_folder(tmp_path / "out" / f"audio-{FINGERPRINT}")) == ["b.npz", "d.npz"]
    assert store.export(str(tmp_path / "table"), "arrow", ["b"]) == 1
    with pa.ipc.open_file(str(tmp_path / "table" / f"audio-{FINGERPRINT}.arrow")) as reader:
        [row] = reader.read_all().to_pylist()
    np.testing.assert_array_equal(np.array(row["features"], np.float16), make.feature_row("b").features)
    assert (row["doc_id"], row["group"], row["start"], row["seconds"]) == ("b", "b", [0.0, 1.0, 2.0], 3.0)


def test_documents_that_cannot_be_exported_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "a")
    store.write_documents(iter([make.stored("a"), make.stored("b")]))
    out = tmp_path / "out"
    with pytest.raises(
        StorageError, match=r"document 'zz' is not in the newest manifest of store .* 2 documents"
    ):
        store.export(str(out), "numpy", ["a", "zz"])
    with pytest.raises(
        StorageError, match=r"document 'b' has no features in store .* pending or quarantined"
    ):
        store.export(str(out), "numpy", ["a", "b"])
    with pytest.raises(StorageError, match=r"has no features to export; run `hilbert-ray embed` first"):
        Store.create(str(tmp_path / "empty")).export(str(out))
    with pytest.raises(StorageError, match=r"--out is s3://b/out; an export is written to a local folder"):
        store.export("s3://b/out")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("store", "empty")] == []


def test_an_export_never_mixes_with_what_is_there_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    out = tmp_path / "out"
    out.mkdir()
    assert store.export(str(out)) == 2
    before = sorted(out.rglob("*"))
    with pytest.raises(StorageError, match=r"out is there and not empty; an export is written whole"):
        store.export(str(out))
    assert sorted(out.rglob("*")) == before
    [damaged] = tmp_path.glob("store/**/unit-b-*.parquet")
    damaged.write_bytes(b"damaged")
    with pytest.raises(StorageError, match=r"data file .*unit-b-.*parquet is damaged .* --mend"):
        store.export(str(tmp_path / "other"))
    damaged.unlink()
    with pytest.raises(StorageError, match=r"names is gone .*unit-b-.*`hilbert-ray store verify` lists"):
        store.export(str(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_hugging_face_datasets_reads_an_export_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two encoders, documents without labels or split, files of more than one shard."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets  # type: ignore[import-untyped]

    monkeypatch.setattr(export, "_GROUP_BYTES", 50)
    monkeypatch.setattr(export, "_SHARD_BYTES", 400)
    store = Store.create(str(tmp_path / "store"), 4)
    items = [
        make.stored(
            f"d{i}", labels={"mood": "løw", "age": i} if i % 2 else {}, split="test" if i == 3 else None
        )
        for i in range(9)
    ]
    store.write_documents(iter(items))
    expected: dict[Modality, dict[str, FeatureRow]] = {"audio": {}, "text": {}}
    for modality, by_id in expected.items():
        store.add_encoder(modality, FINGERPRINT, {"name": "mfcc", "dim": 4})
        for i, item in enumerate(items[:-1]):
            doc_id = item.document.doc_id
            row = make.feature_row(doc_id, item.source(modality), n=i + 1, seed=i)
            by_id[doc_id] = replace(row, timed=i != 2)
            bucket = bucket_of(doc_id, 4)
            store.commit(modality, FINGERPRINT, unit=doc_id, bucket=bucket, rows=[by_id[doc_id]])
    out = tmp_path / "out"
    assert store.export(str(out)) == 8
    assert len(list((out / f"text-{FINGERPRINT}").iterdir())) > 1
    assert "| 8 | 1 |" in (out / "README.md").read_text()
    for modality in MODALITIES:
        found = datasets.load_dataset(
            str(out), f"{modality}-{FINGERPRINT}", split="train", cache_dir=str(tmp_path / "cache")
        )
        assert sorted(found["doc_id"]) == [f"d{i}" for i in range(8)]
        for row in found:
            want = expected[modality][row["doc_id"]]
            number = int(row["doc_id"][1:])
            features_found = np.array(row["features"], np.float16)
            assert features_found.tobytes() == want.features.tobytes()
            assert np.array(row["start"], np.float32).tobytes() == want.start.tobytes()
            assert np.array(row["end"], np.float32).tobytes() == want.end.tobytes()
            assert json.loads(row["labels"]) == ({"mood": "løw", "age": number} if number % 2 else {})
            assert (row["group"], row["split"]) == (f"d{number}", "test" if number == 3 else None)
            assert (row["timed"], row["seconds" if modality == "audio" else "tokens"]) == (
                number != 2,
                number + 1,
            )


def test_quarantined_documents_are_listed_until_they_are_stored_or_changed(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), buckets=1)
    items = [make.stored("a"), make.stored("b")]
    store.write_documents(iter(items))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    failures = [
        Quarantined(
            doc_id=item.document.doc_id,
            key=item.source("audio"),
            stage="read",
            error="AudioError",
            message=f"{item.document.doc_id} is broken",
        )
        for item in items
    ]
    made = store.commit("audio", FINGERPRINT, unit="u", bucket=0, rows=[], quarantined=failures)
    assert made.file is None
    assert store.quarantined("audio", FINGERPRINT) == failures
    commit(store, items[0], unit="retry")
    assert store.quarantined("audio", FINGERPRINT) == failures[1:]
    placed = store.placed("audio", FINGERPRINT)
    assert (sorted(placed.places), placed.quarantined) == (["a"], 1)
    assert placed.places["a"].segments == len(make.feature_row("a").features)
    store.write_documents(iter([items[0], make.stored("b", audio_version="mended")]))
    assert store.quarantined("audio", FINGERPRINT) == []
    [facts] = store.info()["encoders"]
    assert (facts["documents"], facts["stored"], facts["quarantined"], facts["pending"]) == (2, 1, 0, 1)


def test_verify_names_each_file_that_is_not_as_committed(place: str) -> None:
    store = filled(place)
    assert list(store.verify()) == []
    commits = list(store.commits("audio", FINGERPRINT))
    flipped, gone = commits[0].file, commits[1].file
    assert flipped is not None
    assert gone is not None
    data = bytearray(store.files.read(flipped))
    data[len(data) // 2] ^= 1
    with store.files.filesystem.open(store.files.path(flipped), "wb") as file:
        file.write(bytes(data))
    store.files.delete(gone)
    problems = {problem.path: problem.message for problem in store.verify()}
    assert sorted(problems) == sorted([flipped, gone])
    assert f"but commit {commits[0].unit} says {commits[0].sha256}" in problems[flipped]
    assert "names it, but it is gone" in problems[gone]


def test_verify_finds_wrong_rows_and_features_that_are_no_numbers_and_a_changed_manifest(
    tmp_path: Path,
) -> None:
    store = Store.create(str(tmp_path), buckets=1)
    snapshot = store.write_documents(iter([make.stored("a")]))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    bad = replace(make.feature_row("a"), features=np.full((3, 4), np.nan, np.float16))
    commit_bad = store.commit("audio", FINGERPRINT, unit="u1", bucket=0, rows=[bad])
    commit_good = store.commit("audio", FINGERPRINT, unit="u2", bucket=0, rows=[make.feature_row("b")])
    name = tmp_path / f"features/audio/{FINGERPRINT}/commits/bucket=0000/u2.json"
    values = json.loads(name.read_text())
    values["stored"][0][2] = 99
    name.write_text(json.dumps(values))
    (tmp_path / snapshot.file).write_bytes(b"other")
    problems = {problem.path: problem.message for problem in store.verify()}
    assert "document 'a' has features that are not finite" in problems[str(commit_bad.file)]
    assert "its rows are not those of commit u2" in problems[str(commit_good.file)]
    assert "but the manifest 00000001.json says" in problems[snapshot.file]


def test_gc_deletes_what_nothing_names_and_spares_what_a_run_may_still_commit(place: str) -> None:
    store = filled(place, "ab")
    old = store.snapshot().file
    store.write_documents(iter([make.stored("a")]))
    stray = f"features/audio/{FINGERPRINT}/data/bucket=0000/stray-0.parquet"
    store.files.create(stray, b"unfinished")
    assert store.gc() == []
    assert sorted(store.gc(min_age_h=0.0)) == sorted(["documents/00000001.json", old, stray])
    assert list(store.verify()) == []
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]


def test_a_file_that_a_dying_writer_left_unfinished_is_never_listed(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    folder = tmp_path / f"features/audio/{FINGERPRINT}/commits/bucket={bucket_of('a', 4):04d}"
    (folder / ".zzz.json.1a2b3c4d.writing").write_text("{")
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]
    assert len(store.gc(min_age_h=0.0)) == 1


def test_creating_a_store_again_opens_it_and_keeps_its_buckets(place: str) -> None:
    Store.create(place, buckets=8)
    assert Store.create(place, buckets=16).buckets == Store.open(place).buckets == 8


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    store.snapshot()
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.uri, copy.buckets) == (store.uri, store.buckets)
    assert [row.doc_id for row in copy.read("audio", FINGERPRINT)] == ["a"]


def test_attempts_are_counted_until_they_are_cleared(place: str) -> None:
    store = Store.create(place)
    assert [store.note_attempt("audio", FINGERPRINT, 3, "u") for _ in range(3)] == [1, 2, 3]
    store.clear_attempts("audio", FINGERPRINT, 3, "u")
    assert store.note_attempt("audio", FINGERPRINT, 3, "u") == 1


def test_an_absent_store_a_damaged_one_and_one_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"no store at .*: there is no store\.json; mend the path, or make one with"
    ):
        Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StorageError, match=r"store\.json of .* is damaged"):
        Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text('{"schema": 99, "buckets": 4}')
    with pytest.raises(StorageError, match=r"has schema 99; this version reads 1: use the version"):
        Store.open(str(tmp_path))


def test_an_encoder_that_is_not_there_or_is_another_is_refused(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    with pytest.raises(
        StorageError, match=r"has no audio features of encoder beef; it has f00d \(mfcc\): run"
    ):
        list(store.read("audio", "beef"))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    with pytest.raises(StorageError, match=r"features of both must not mix: embed into a new store"):
        store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 5})
    assert store.encoders("audio") == {FINGERPRINT: {"name": "mfcc", "dim": 4}}
    assert store.encoders("text") == {}


def test_a_store_that_cannot_be_written_says_so_and_keeps_what_is_committed(tmp_path: Path) -> None:
    """A file where a folder should be: the write fails for every user, root too."""
    store = filled(str(tmp_path), "a")
    folder = tmp_path / "features" / "text" / FINGERPRINT
    folder.mkdir(parents=True)
    (folder / "data").write_text("in the way")
    with pytest.raises(
        StorageError, match=r"cannot write features/text/.* what is committed is unharmed: free space"
    ):
        store.commit("text", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("a")])
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]
    assert list(store.verify()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write goes to a device that is always full; the create-only link must then not happen."""
    import builtins

    store = filled(str(tmp_path), "a")
    before = store.files.names("")
    plain = builtins.open

    def full(path: str, mode: str = "r") -> object:
        return plain("/dev/full", "wb", buffering=0) if mode == "xb" else plain(path, mode)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(StorageError, match="No space left on device"):
        store.commit("audio", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("a")])
    monkeypatch.undo()
    assert store.files.names("") == before


def test_info_counts_what_readers_see(tmp_path: Path) -> None:
    store = filled(str(tmp_path))
    facts = store.info()
    assert {key: facts[key] for key in ("schema", "buckets", "documents", "faults")} == {
        "schema": 1,
        "buckets": 4,
        "documents": 4,
        "faults": 0,
    }
    [encoder] = facts["encoders"]
    size = sum(path.stat().st_size for path in tmp_path.glob("features/audio/*/data/*/*.parquet"))
    assert (encoder["encoder"], encoder["stored"], encoder["segments"], encoder["size_bytes"]) == (
        "mfcc",
        4,
        12,
        size,
    )
    assert encoder["hours"] == pytest.approx(12 / 3600)


# Many commits


def unit_rows(unit: int, seed: int = 0) -> list[FeatureRow]:
    """Return the rows of a unit of two documents."""
    return [make.feature_row(f"{unit}-{i}", n=1 + i, seed=seed + unit) for i in range(2)]


def commit_unit(store: Store, unit: int, seed: int = 0) -> None:
    bucket = unit % store.buckets
    store.commit("audio", FINGERPRINT, unit=f"u{unit:03d}", bucket=bucket, rows=unit_rows(unit, seed))


def many(uri: str, units: int, buckets: int = 2) -> Store:
    """Return a store with an encoder and so many units, one of which is quarantined whole."""
    store = Store.create(uri, buckets)
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    for unit in range(1, units):
        commit_unit(store, unit)
    failed = Quarantined(doc_id="q", key="s", stage="read", error="AudioError", message="why\r\n\u2028")
    store.commit("audio", FINGERPRINT, unit="u000", bucket=0, rows=[], quarantined=[failed])
    return store


def commit_files(store: Store) -> list[str]:
    return store.files.names(f"features/audio/{FINGERPRINT}/commits")


def test_compact_folds_commits_and_gc_then_deletes_them_and_readers_see_no_difference(place: str) -> None:
    store = many(place, 11)
    before = list(store.commits("audio", FINGERPRINT))
    assert [commit.unit for commit in before if commit.bucket == 0] == [f"u{i:03d}" for i in range(0, 11, 2)]
    assert store.compact(min_commits=6) == [
        name for name in commit_files(store) if "bucket=0000/index-" in name
    ]
    assert len(commit_files(store)) == 11 + 1
    assert list(store.commits("audio", FINGERPRINT)) == before
    assert store.gc() == []
    assert len(store.gc(min_age_h=0.0)) == 6
    assert len(commit_files(store)) == 5 + 1
    assert list(store.commits("audio", FINGERPRINT)) == before
    for commit in before:
        assert list(store.commits("audio", FINGERPRINT, {commit.bucket}))
        assert store.committed("audio", FINGERPRINT, commit.bucket, commit.unit) == commit
    assert store.committed("audio", FINGERPRINT, 0, "u00") is None
    assert list(store.verify()) == []
    assert store.compact(min_commits=6) == []


def test_a_later_compact_folds_the_older_index_too_and_gc_deletes_that(tmp_path: Path) -> None:
    store = many(str(tmp_path), 3, buckets=1)
    [first] = store.compact(min_commits=2)
    store.gc(min_age_h=0.0)
    commit_unit(store, 7)
    assert store.compact(min_commits=2) == []
    commit_unit(store, 8)
    [second] = store.compact(min_commits=2)
    assert first != second
    before = list(store.commits("audio", FINGERPRINT))
    assert store.gc(min_age_h=1.0) == []
    old = time.time() - 7200
    for name in commit_files(store):
        if name != second:
            os.utime(store.files.path(name), (old, old))
    assert store.gc(min_age_h=1.0) == [], "who listed before the new index came still needs the others"
    os.utime(store.files.path(second), (old, old))
    assert len(store.gc(min_age_h=1.0)) == 3
    assert commit_files(store) == [second]
    assert list(store.commits("audio", FINGERPRINT)) == before
    assert [commit.unit for commit in before] == ["u000", "u001", "u002", "u007", "u008"]


def test_a_writer_that_comes_late_to_a_folded_unit_does_no_harm(place: str) -> None:
    store = many(place, 4)
    store.compact(min_commits=1)
    before = list(store.commits("audio", FINGERPRINT))
    folded = store.committed("audio", FINGERPRINT, 1, "u001")
    commit_unit(store, 1, seed=9)
    assert store.committed("audio", FINGERPRINT, 1, "u001") == folded, "the commit is there still: it wins"
    store.gc(min_age_h=0.0)
    commit_unit(store, 1, seed=9)
    assert list(store.commits("audio", FINGERPRINT)) == before
    assert store.compact(min_commits=1) == []
    assert list(store.verify()) == []
    store.gc(min_age_h=0.0)
    store.gc(min_age_h=0.0)
    assert list(store.commits("audio", FINGERPRINT)) == before
    assert list(store.verify()) == []
    assert len([name for name in store.files.names("features") if "/data/" in name]) == 3


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.integers(0, 5), st.integers(0, 2)),
            st.tuples(st.just("compact"), st.integers(1, 3), st.just(0)),
            st.tuples(st.just("gc"), st.just(0), st.just(0)),
            st.tuples(st.just("verify"), st.just(0), st.just(0)),
        ),
        max_size=14,
    )
)
def test_in_whatever_order_units_are_committed_folded_and_swept_each_stays_once(
    steps: list[tuple[str, int, int]],
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, 2)
        store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
        first: dict[str, str | None] = {}
        for action, number, seed in steps:
            if action == "commit":
                commit_unit(store, number, seed)
                first.setdefault(f"u{number:03d}", None)
            elif action == "compact":
                store.compact(number)
            elif action == "gc":
                store.gc(min_age_h=0.0)
            else:
                assert list(store.verify()) == []
            found = {commit.unit: commit.file for commit in store.commits("audio", FINGERPRINT)}
            assert sorted(found) == sorted(first)
            for unit, file in found.items():
                assert first[unit] in (None, file), "the commit that counts has changed"
                first[unit] = file
        assert list(store.verify()) == []


def test_compact_gc_writers_and_readers_may_run_at_once(place: str) -> None:
    """Two compactors and two writers race; what a reader saw once, every later reader sees, and once only."""
    store = many(place, 8)
    deadline = time.monotonic() + 1.0
    is_sweeping = threading.Event()

    def compact() -> None:
        while time.monotonic() < deadline:
            Store.open(place).compact(min_commits=1)

    def write(first: int) -> None:
        number = first
        while time.monotonic() < deadline and number < 300:
            commit_unit(Store.open(place), number)
            number += 2

    def read() -> int:
        seen: set[str] = {f"u{i:03d}" for i in range(8)}
        reads = 0
        while time.monotonic() < deadline or is_sweeping.is_set():
            units = [commit.unit for commit in Store.open(place).commits("audio", FINGERPRINT)]
            assert len(set(units)) == len(units)
            assert seen <= set(units)
            seen = set(units)
            reads += 1
        return reads

    with ThreadPoolExecutor(6) as pool:
        works = [pool.submit(compact), pool.submit(compact), pool.submit(write, 10), pool.submit(write, 11)]
        is_sweeping.set()
        readers = [pool.submit(read), pool.submit(read)]
        try:
            for work in works:
                work.result()
            while store.gc(min_age_h=0.0):  # without writers, for their data would be too young to be named
                store.compact(min_commits=1)
        finally:
            is_sweeping.clear()
        assert min(reader.result() for reader in readers) > 3
    assert list(store.verify()) == []
    assert all("index-" in name for name in commit_files(store))


def test_folded_commits_cost_a_request_a_bucket(object_store: str, tmp_path: Path) -> None:
    requests: list[Request] = []

    def listen(request: Request) -> None:
        requests.append(request)

    def cost(store: Store, buckets: set[int] | None = None) -> tuple[int, int]:
        """Return listings and other requests that reading all commits takes."""
        requests.clear()
        assert len(list(store.commits("audio", FINGERPRINT, buckets))) == (40 if buckets is None else 5)
        listings = sum("list-type" in request.path for request in requests)
        return listings, len(requests) - listings

    with faulty_object_store(listen):
        store = many(f"{object_store}/{tmp_path.name}", 40, buckets=8)
        assert cost(store) == (1, 40)
        assert cost(store, {3}) == (1, 5)
        assert len(store.compact(min_commits=5)) == 8
        assert cost(store) == (1, 8)
        store.gc(min_age_h=0.0)
        assert cost(store) == (1, 8)
        assert cost(store, {3}) == (1, 1)
        requests.clear()
        assert store.committed("audio", FINGERPRINT, 3, "u003") is not None
        assert store.committed("audio", FINGERPRINT, 3, "none") is None
        assert len(requests) == 6
        store.write_documents(iter([make.stored("a")]))
        requests.clear()
        store.snapshot()
        assert len(requests) == 2


def test_the_footer_of_the_documents_is_fetched_once_by_a_process(object_store: str, tmp_path: Path) -> None:
    """It grows with the manifest, and a worker looks up the documents of every unit."""
    fetched: list[str] = []

    def documents(prefix: str) -> Iterator[StoredDocument]:
        for i in range(40):  # so large that nothing but what is asked for comes along
            yield make.stored(f"{prefix}{i}", text=random.Random(i).randbytes(200_000).hex())

    def fetches(doc_id: str) -> int:
        fetched.clear()
        [found] = store.stored_documents(snapshot, {bucket_of(doc_id, 8)}, {doc_id}, words=False)
        assert found.document.doc_id == doc_id
        return sum(snapshot.file in path for path in fetched)

    with faulty_object_store(lambda request: fetched.append(request.path)):
        store = Store.create(f"{object_store}/{tmp_path.name}", 8)
        snapshot = store.write_documents(documents("d"))
        first, second, third = (fetches("d3") for _ in range(3))
        assert first > second == third > 0
        snapshot = store.write_documents(documents("e"))
        assert fetches("e3") > fetches("e3"), "the footer of another manifest is another"


def test_verify_checks_indexes_and_what_they_fold_and_mend_makes_room_for_embed(place: str) -> None:
    store = many(place, 9, buckets=2)
    [index, _] = store.compact(min_commits=1)
    store.gc(min_age_h=0.0)
    gone = store.committed("audio", FINGERPRINT, 0, "u004")
    assert gone is not None
    assert gone.file is not None
    store.files.delete(gone.file)
    [problem] = store.verify()
    assert problem.path == gone.file
    assert "commit u004 names it, but it is gone; `hilbert-ray store verify --mend` drops" in problem.message
    assert list(store.verify()) == [problem], "looking changes nothing"
    assert list(store.verify(mend=True)) == [problem]
    assert list(store.verify()) == []
    assert store.committed("audio", FINGERPRINT, 0, "u004") is None
    assert [commit.unit for commit in store.commits("audio", FINGERPRINT, {0})] == [
        "u000",
        "u002",
        "u006",
        "u008",
    ]
    commit_unit(store, 4)
    [index] = [name for name in commit_files(store) if "bucket=0000/index-" in name]
    damaged = store.files.read(index).replace(b"u006", b"u005")
    with store.files.filesystem.open(store.files.path(index), "wb") as file:
        file.write(damaged)
    with pytest.raises(
        StorageError, match=r"index .* is damaged: sha256 is .* restore it from a copy, or run"
    ):
        list(store.commits("audio", FINGERPRINT))
    with pytest.raises(StorageError, match="is damaged"):
        store.gc(min_age_h=0.0)
    assert [problem.path for problem in store.verify(mend=True)] == [index]
    assert list(store.verify()) == []
    assert [commit.unit for commit in store.commits("audio", FINGERPRINT, {0})] == ["u004"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"unit": "u001"}', b"\xff"])
def test_a_damaged_commit_is_named_and_mended(place: str, content: bytes) -> None:
    store = many(place, 4)
    [name] = [name for name in commit_files(store) if name.endswith("u001.json")]
    with store.files.filesystem.open(store.files.path(name), "wb") as file:
        file.write(content)
    with pytest.raises(
        StorageError, match=rf"commit {name} is damaged \(.*--mend`, and `embed` makes it again"
    ):
        list(store.commits("audio", FINGERPRINT))
    assert [problem.path for problem in store.verify(mend=True)] == [name]
    assert [commit.unit for commit in store.commits("audio", FINGERPRINT)] == ["u000", "u002", "u003"]
    commit_unit(store, 1)
    assert list(store.verify()) == []


def test_a_folder_that_cannot_be_listed_does_not_count_as_empty(tmp_path: Path) -> None:
    """Fsspec lists such a folder as empty; all data would then be without commits, and deleted."""
    store = many(str(tmp_path), 4)
    commits = tmp_path / f"features/audio/{FINGERPRINT}/commits"
    before = sorted(tmp_path.rglob("*.parquet"))
    commits.rename(tmp_path / "aside")
    commits.symlink_to("commits")
    with pytest.raises(StorageError, match=r"cannot read features/audio/f00d.* nothing is harmed"):
        store.gc(min_age_h=0.0)
    with pytest.raises(StorageError, match="cannot read"):
        list(store.commits("audio", FINGERPRINT))
    assert sorted(tmp_path.rglob("*.parquet")) == before
    commits.unlink()
    (tmp_path / "aside").rename(commits)
    assert list(store.verify()) == []


def test_what_a_writer_uses_again_is_too_young_for_gc(place: str) -> None:
    """A run that died left data without a commit; gc must not delete it while another run commits it."""
    store = many(place, 1)
    rows = unit_rows(5)
    data = encode_rows("audio", rows)
    left = f"features/audio/{FINGERPRINT}/data/bucket=0001/u005-{sha256_of(data)[:16]}.parquet"
    first = store.write_documents(iter([make.stored("a")]))
    store.write_documents(iter([make.stored("b")]))
    store.files.put(left, data)
    time.sleep(2.1)
    before = {name: store.files.entry(name) for name in (left, first.file)}
    commit_unit(store, 5)
    store.write_documents(iter([make.stored("a")]))
    for name, entry in before.items():
        again = store.files.entry(name)
        assert entry is not None
        assert again is not None
        assert again.age_h < entry.age_h
    commit = store.committed("audio", FINGERPRINT, 1, "u005")
    assert commit is not None
    assert commit.file == left
    assert left not in store.gc(min_age_h=0.0)


def test_manifests_that_were_replaced_long_ago_are_deleted_with_their_numbers(place: str) -> None:
    store = Store.create(place, 2)
    shots = [store.write_documents(iter([make.stored(doc_id)])) for doc_id in "aba"]
    assert [shot.number for shot in shots] == [1, 2, 3]
    assert store.gc(min_age_h=1.0) == []
    assert sorted(store.gc(min_age_h=0.0)) == sorted(
        ["documents/00000001.json", "documents/00000002.json", shots[1].file]
    )
    assert [document.doc_id for document in store.documents()] == ["a"]
    assert store.write_documents(iter([make.stored("c")])).number == 4


def test_a_file_where_a_folder_should_be_is_no_other_writer(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write folder/name .* free space or mend the permissions"):
        files.create("folder/name", b"x")


# Faults of the network and of the object store


class Once:
    """Spoils the first request of each method and path that it is about, each in another way."""

    def __init__(self, method: str, part: str, faults: Sequence[Spoilt]) -> None:
        self.method, self.part = method, part
        self.faults = cycle(faults)
        self.spoilt: dict[Request, Spoilt] = {}

    def __call__(self, request: Request) -> Spoilt | None:
        if request.method != self.method or self.part not in request.path or request in self.spoilt:
            return None
        fault = next(self.faults)
        if fault == "ConditionalRequestConflict" and not request.path.endswith(".json"):
            fault = next(self.faults)  # only a conditional write can meet it
        self.spoilt[request] = fault
        return fault


def test_every_write_may_fail_once_and_nothing_is_lost_or_written_twice(
    object_store: str, tmp_path: Path
) -> None:
    """Where an answer is lost the write is sent again, and refused because of the first: that was ours."""

    def fill(uri: str) -> Files:
        store = filled(uri, "abcd", buckets=2)
        first = next(store.stored_documents())
        won = store.commit("text", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("a")])
        assert store.commit("text", FINGERPRINT, unit="u", bucket=0, rows=[]) == won
        assert store.note_attempt("audio", FINGERPRINT, 0, "u") == 1
        assert store.note_attempt("audio", FINGERPRINT, 0, "u") == 2
        assert store.write_documents(iter([first])).number == 2
        assert store.compact(min_commits=1) != []
        return store.files

    faults: list[Spoilt] = [
        "lost answer",
        "lost answer",
        "ConditionalRequestConflict",
        "lost answer",
        "lost request",
        "lost answer",
        "SlowDown",
        "lost answer",
        "InternalError",
    ]
    spoil = Once("PUT", "/store/", faults)
    with faulty_object_store(spoil):
        fill(f"{object_store}/{tmp_path.name}/store")
    written = [request.path for request, fault in spoil.spoilt.items() if fault == "lost answer"]
    for kind in ("/1.json", "/commits/", "/data/", "documents/"):
        assert any(kind in path for path in written), f"no answer to a write of {kind} was lost"
    assert set(spoil.spoilt.values()) == set(faults)
    found = Files(f"{object_store}/{tmp_path.name}/store")
    plain = fill(str(tmp_path / "store"))
    assert found.names("") == plain.names("")
    for name in plain.names(""):
        assert found.read(name) == plain.read(name) or "/attempts/" in name


@pytest.mark.parametrize("then", [None, "NoSuchUpload"])
def test_a_large_file_whose_completion_goes_unanswered_is_ours(
    object_store: str, tmp_path: Path, then: Spoilt | None
) -> None:
    """A file of 100 MiB is sent in parts; servers differ in what they say to a second try to complete it."""
    data = os.urandom(2**20) * 101
    tries: list[Request] = []

    def spoil(request: Request) -> Spoilt | None:
        if request.method != "POST" or "uploadId=" not in request.path:
            return None
        tries.append(request)
        return "lost answer" if len(tries) == 1 else then

    with faulty_object_store(spoil):
        files = Files(f"{object_store}/{tmp_path.name}")
        assert files.create("large", data)
        assert len(tries) == 2
    assert Files(f"{object_store}/{tmp_path.name}").read("large") == data


def test_every_read_may_fail_once_and_gives_all_bytes(object_store: str, tmp_path: Path) -> None:
    uri = f"{object_store}/{tmp_path.name}"
    plain = filled(uri)
    plain.compact(min_commits=1)
    faults: list[Spoilt] = ["cut body", "lost answer", "cut body", "SlowDown", "cut body", "InternalError"]
    spoil = Once("GET", "", faults)
    with faulty_object_store(spoil):
        store = Store.open(uri)
        assert {row.doc_id for row in store.read("audio", FINGERPRINT)} == set("abcd")
        assert list(store.verify()) == []
        assert store.info() == plain.info()
    cut = [request.path for request, fault in spoil.spoilt.items() if fault == "cut body"]
    for kind in ("/data/", "index-", "list-type", "documents/"):
        assert any(kind in path for path in cut), f"no read of {kind} was cut"
    assert set(spoil.spoilt.values()) == set(faults)


def test_reads_that_are_always_cut_and_servers_that_are_gone_are_explained_and_nothing_is_mended(
    object_store: str, tmp_path: Path
) -> None:
    uri = f"{object_store}/{tmp_path.name}"
    store = filled(uri, "ab")
    before = store.files.names("")

    def cut(request: Request) -> Spoilt | None:
        return "cut body" if "/data/" in request.path and request.method == "GET" else None

    def refuse(request: Request) -> Spoilt | None:
        return "ConditionalRequestConflict" if "/data/" in request.path else None

    with (
        faulty_object_store(cut),
        pytest.raises(StorageError, match=r"cannot read features/audio/.* run again"),
    ):
        list(Store.open(uri).read("audio", FINGERPRINT))
    with faulty_object_store(refuse):
        broken = Store.open(uri)
        with pytest.raises(StorageError, match=r"cannot read features/audio/.* nothing is harmed"):
            list(broken.verify(mend=True))
        with pytest.raises(
            StorageError, match=r"cannot write features/audio/.* what is committed is unharmed"
        ):
            broken.commit("audio", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("z")])
    assert store.files.names("") == before
