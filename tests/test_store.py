"""The store: create-only files, commits as the only truth, the newest manifest as the only view."""

import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import MODALITIES
from hilbert_ray.document import Fault, Utterance
from hilbert_ray.store import (
    Quarantined,
    Store,
    StoredDocument,
    StoreError,
    bucket_of,
    documents,
    features,
)
from hilbert_ray.store.files import Files
from tests import make

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
    name = unit or f"unit-{items[0].document.doc_id}"
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
    store.write_documents(iter([rich, plain, filed, fault]))
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
        patch.setattr(documents, "_RUN_ROWS", run)
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
    data = features.encode("audio", rows)
    assert features.encode("audio", sliced) == data
    assert features.encode("audio", list(features.decode("audio", data))) == data
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


def test_features_are_exported_as_numpy_files(tmp_path: Path) -> None:
    store = filled(str(tmp_path / "store"), "ab")
    store.write_documents(iter([make.stored("a"), make.stored("b"), make.stored("x/y")]))
    commit(store, make.stored("x/y"))
    assert store.export(str(tmp_path / "out")) == 3
    found = {path.name: np.load(path) for path in (tmp_path / "out" / "audio" / FINGERPRINT).iterdir()}
    assert sorted(found) == ["a.npz", "b.npz", "x%2Fy.npz"]
    for name in ("features", "start", "end"):
        np.testing.assert_array_equal(found["a.npz"][name], getattr(make.feature_row("a"), name))


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
    assert store.gc(min_age_h=0.0) == [old, stray]
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
        StoreError, match=r"no store at .*: there is no store\.json; mend the path, or make one with"
    ):
        Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json of .* is damaged"):
        Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text('{"schema": 99, "buckets": 4}')
    with pytest.raises(StoreError, match=r"has schema 99; this version reads 1: use the version"):
        Store.open(str(tmp_path))


def test_an_encoder_that_is_not_there_or_is_another_is_refused(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    with pytest.raises(StoreError, match=r"has no audio features of encoder beef; it has f00d \(mfcc\): run"):
        list(store.read("audio", "beef"))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    with pytest.raises(StoreError, match=r"features of both must not mix: embed into a new store"):
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
        StoreError, match=r"cannot write features/text/.* what is committed is unharmed: free space"
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
    with pytest.raises(StoreError, match="No space left on device"):
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
