"""The store: opening, encoders, units of features, and which of them readers see."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hilbert_ray.storage import StorageError
from hilbert_ray.store import (
    Quarantined,
    Store,
    bucket_of,
    collect_garbage,
    encode_rows,
    store_info,
    verify_store,
    write_snapshot,
)
from hilbert_ray.store.features import decode_rows
from tests import make
from tests.store.stores import FINGERPRINT, commit, filled


def test_creating_a_store_again_opens_it_and_keeps_its_buckets(place: str) -> None:
    Store.create(place, buckets=8)
    assert Store.create(place, buckets=16).buckets == Store.open(place).buckets == 8


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    store.snapshot()
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.uri, copy.buckets) == (store.uri, store.buckets)
    assert [row.doc_id for row in copy.read("audio", FINGERPRINT)] == ["a"]


def test_an_absent_store_a_damaged_one_and_one_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"no store at .*: it has no store\.json; correct the path, or create a store with"
    ):
        Store.open(str(tmp_path))
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StorageError, match=r"store\.json is damaged"):
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


def test_features_come_back_exactly_and_only_from_committed_files(place: str) -> None:
    store = filled(place)
    store.files.create(f"features/audio/{FINGERPRINT}/data/bucket=0000/stray-0.parquet", b"no parquet")
    rows = {row.doc_id: row for row in store.read("audio", FINGERPRINT)}
    assert sorted(rows) == list("abcd")
    expected = make.feature_row("a", make.stored("a").source("audio"))
    for name in ("features", "start", "end"):
        np.testing.assert_array_equal(getattr(rows["a"], name), getattr(expected, name))
        assert getattr(rows["a"], name).dtype == getattr(expected, name).dtype
    assert (rows["a"].timed, rows["a"].seen, rows["a"].present) == (True, 3.0, 3.0)
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
    store.add_encoder("text", FINGERPRINT, {"name": "hashing", "dim": 4})
    kept = store.commit("text", FINGERPRINT, unit="u", bucket=1, rows=[make.feature_row("a", seed=1)])
    lost = store.commit("text", FINGERPRINT, unit="u", bucket=1, rows=[make.feature_row("a", seed=2)])
    same = store.commit("text", FINGERPRINT, unit="u", bucket=1, rows=[make.feature_row("a", seed=1)])
    assert lost == same == kept
    collect_garbage(store, min_age_h=0.0)
    assert [name for name in store.files.names("features") if "/data/" in name] == [kept.file]
    assert store.commits("text", FINGERPRINT).find(1, "u") == kept
    assert store.commits("text", FINGERPRINT).find(1, "other") is None


def test_a_new_source_supersedes_what_was_stored_before(place: str) -> None:
    store = filled(place, "ab")
    changed = make.stored("a", audio_version="9")
    write_snapshot(store, iter([changed, make.stored("b", row=2)]))
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["b"]
    commit(store, changed, unit="later", seed=7)
    rows = {row.doc_id: row for row in store.read("audio", FINGERPRINT)}
    assert sorted(rows) == ["a", "b"]
    np.testing.assert_array_equal(rows["a"].features, make.feature_row("a", seed=7).features)
    [facts] = store_info(store)["encoders"]
    assert (facts["stored"], facts["superseded"], facts["pending"]) == (2, 1, 0)


def test_documents_that_left_the_manifest_leave_the_readers_view(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "ab")
    write_snapshot(store, iter([make.stored("b", row=2)]))
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["b"]
    assert store_info(store)["encoders"][0]["documents"] == 1


def test_a_document_that_two_units_hold_is_read_once_and_always_from_the_same(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    [item] = store.snapshot().documents()
    commit(store, item, unit="aaa", seed=5)
    [row] = store.read("audio", FINGERPRINT)
    np.testing.assert_array_equal(row.features, make.feature_row("a", seed=5).features)
    assert store_info(store)["encoders"][0]["segments"] == 3


def test_the_roles_that_the_newest_run_kept_decide_what_is_current(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    store.add_encoder(
        "audio", "cafe", {"name": "other", "dim": 4, "segment": {"audio": "turns", "roles": []}}
    )
    write_snapshot(store, iter([make.stored("a")]), roles=["b", "a"])
    assert list(store.read("audio", FINGERPRINT)) == []
    assert store.encoders("audio")["cafe"]["segment"]["roles"] == ["a", "b"]
    source = make.stored("a").source("audio", roles=["a", "b"])
    assert list(store.snapshot().sources({bucket_of("a", 4)}, "audio", False)) == [("a", source)]
    write_snapshot(store, iter([make.stored("a")]))
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]


def test_quarantined_documents_are_listed_until_they_are_stored_or_changed(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), buckets=1)
    items = [make.stored("a"), make.stored("b")]
    write_snapshot(store, iter(items))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    failures = [
        Quarantined(
            doc_id=item.document.doc_id,
            source=item.source("audio"),
            stage="read",
            error="AudioError",
            message=f"{item.document.doc_id} is broken",
        )
        for item in items
    ]
    failed = store.commit("audio", FINGERPRINT, unit="u", bucket=0, rows=[], quarantined=failures)
    assert failed.file is None
    assert store.quarantined("audio", FINGERPRINT) == failures
    commit(store, items[0], unit="retry")
    assert store.quarantined("audio", FINGERPRINT) == failures[1:]
    stored = store.locate("audio", FINGERPRINT)
    assert (sorted(stored.locations), stored.quarantined) == (["a"], 1)
    assert stored.locations["a"].segments == len(make.feature_row("a").features)
    write_snapshot(store, iter([items[0], make.stored("b", audio_version="repaired")]))
    assert store.quarantined("audio", FINGERPRINT) == []
    [facts] = store_info(store)["encoders"]
    assert (facts["documents"], facts["stored"], facts["quarantined"], facts["pending"]) == (2, 1, 0, 1)


def test_attempts_are_counted_until_they_are_cleared(place: str) -> None:
    store = Store.create(place)
    assert [store.note_attempt("audio", FINGERPRINT, 3, "u") for _ in range(3)] == [1, 2, 3]
    store.clear_attempts("audio", FINGERPRINT, 3, "u")
    assert store.note_attempt("audio", FINGERPRINT, 3, "u") == 1


def test_a_store_that_cannot_be_written_says_so_and_keeps_what_is_committed(tmp_path: Path) -> None:
    """A file where a folder should be: the write fails for every user, root too."""
    store = filled(str(tmp_path), "a")
    folder = tmp_path / "features" / "text" / FINGERPRINT
    folder.mkdir(parents=True)
    (folder / "data").write_text("in the way")
    with pytest.raises(
        StorageError, match=r"cannot write features/text/.* what is already written is intact: free space"
    ):
        store.commit("text", FINGERPRINT, unit="u", bucket=0, rows=[make.feature_row("a")])
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]
    # The text encoder was never described: nothing of it counts.
    [problem] = verify_store(store)
    assert problem.path == f"features/text/{FINGERPRINT}/encoder.json"


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
