"""Care of a store: counts, verification and repair, garbage collection."""

import json
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilbert_ray.storage import DamagedError, Files, StorageError
from hilbert_ray.store import (
    Store,
    bucket_of,
    collect_garbage,
    compact_store,
    encode_rows,
    rewrite_about,
    sha256_of,
    store_info,
    verify_store,
    write_snapshot,
)
from tests import make
from tests.store.stores import FINGERPRINT, commit_files, commit_unit, filled, many, unit_rows


def test_info_counts_what_readers_see(tmp_path: Path) -> None:
    store = filled(str(tmp_path))
    facts = store_info(store)
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


def test_verify_names_each_file_that_is_not_as_committed(place: str) -> None:
    store = filled(place)
    assert list(verify_store(store)) == []
    commits = list(store.commits("audio", FINGERPRINT).read())
    flipped, gone = commits[0].file, commits[1].file
    assert flipped is not None
    assert gone is not None
    data = bytearray(store.files.read(flipped))
    data[len(data) // 2] ^= 1
    with store.files.filesystem.open(store.files.path(flipped), "wb") as file:
        file.write(bytes(data))
    store.files.delete(gone)
    problems = {problem.path: problem.message for problem in verify_store(store)}
    assert sorted(problems) == sorted([flipped, gone])
    assert f"but commit {commits[0].unit} says {commits[0].sha256}" in problems[flipped]
    assert "names it, but it is gone" in problems[gone]


def test_verify_finds_wrong_rows_and_features_that_are_no_numbers_and_a_changed_manifest(
    tmp_path: Path,
) -> None:
    store = Store.create(str(tmp_path), buckets=1)
    snapshot = write_snapshot(store, iter([make.stored("a")]))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    bad = replace(make.feature_row("a"), features=np.full((3, 4), np.nan, np.float16))
    commit_bad = store.commit("audio", FINGERPRINT, unit="u1", bucket=0, rows=[bad])
    commit_good = store.commit("audio", FINGERPRINT, unit="u2", bucket=0, rows=[make.feature_row("b")])
    name = tmp_path / f"features/audio/{FINGERPRINT}/commits/bucket=0000/u2.json"
    values = json.loads(name.read_text())
    values["stored"][0][2] = 99
    del values["checksum"]  # somebody edited it on purpose
    name.write_text(json.dumps(values))
    (tmp_path / snapshot.file).write_bytes(b"other")
    problems = {problem.path: problem.message for problem in verify_store(store)}
    assert "document 'a' has features that are not finite" in problems[str(commit_bad.file)]
    assert "its rows are not those of commit u2" in problems[str(commit_good.file)]
    assert "but the manifest 00000001.json says" in problems[snapshot.file]


def test_verify_checks_indexes_and_what_they_fold_and_repair_makes_room_for_embed(place: str) -> None:
    store = many(place, 9, buckets=2)
    [index, _] = compact_store(store, min_commits=1)
    collect_garbage(store, min_age_h=0.0)
    gone = store.commits("audio", FINGERPRINT).find(0, "u004")
    assert gone is not None
    assert gone.file is not None
    store.files.delete(gone.file)
    [problem] = verify_store(store)
    assert problem.path == gone.file
    assert (
        "commit u004 names it, but it is gone; `hilbert-ray store verify --repair` deletes" in problem.message
    )
    assert list(verify_store(store)) == [problem], "without repair nothing changes"
    assert list(verify_store(store, repair=True)) == [problem]
    assert list(verify_store(store)) == []
    assert store.commits("audio", FINGERPRINT).find(0, "u004") is None
    assert [commit.unit for commit in store.commits("audio", FINGERPRINT).read({0})] == [
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
        StorageError, match=r"index .* is damaged \(its sha256 is .* restore it from a copy, or run"
    ):
        list(store.commits("audio", FINGERPRINT).read())
    with pytest.raises(StorageError, match="is damaged"):
        collect_garbage(store, min_age_h=0.0)
    assert [problem.path for problem in verify_store(store, repair=True)] == [index]
    assert list(verify_store(store)) == []
    assert [commit.unit for commit in store.commits("audio", FINGERPRINT).read({0})] == ["u004"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"unit": "u001"}', b"\xff"])
def test_a_damaged_commit_is_named_and_repaired(place: str, content: bytes) -> None:
    store = many(place, 4)
    [name] = [name for name in commit_files(store) if name.endswith("u001.json")]
    with store.files.filesystem.open(store.files.path(name), "wb") as file:
        file.write(content)
    with pytest.raises(
        StorageError,
        match=rf"commit {name} is damaged \(.*--repair`, after which a rerun of `embed` .* writes it again",
    ):
        list(store.commits("audio", FINGERPRINT).read())
    assert [problem.path for problem in verify_store(store, repair=True)] == [name]
    assert [commit.unit for commit in store.commits("audio", FINGERPRINT).read()] == ["u000", "u002", "u003"]
    commit_unit(store, 1)
    assert list(verify_store(store)) == []


def test_gc_deletes_what_nothing_names_and_spares_what_a_run_may_still_commit(place: str) -> None:
    store = filled(place, "ab")
    old = store.snapshot().file
    write_snapshot(store, iter([make.stored("a")]))
    stray = f"features/audio/{FINGERPRINT}/data/bucket=0000/stray-0.parquet"
    store.files.create(stray, b"unfinished")
    assert collect_garbage(store) == []
    assert sorted(collect_garbage(store, min_age_h=0.0)) == sorted(["documents/00000001.json", old, stray])
    assert list(verify_store(store)) == []
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]


def test_a_file_that_a_dying_writer_left_unfinished_is_never_listed(tmp_path: Path) -> None:
    store = filled(str(tmp_path), "a")
    folder = tmp_path / f"features/audio/{FINGERPRINT}/commits/bucket={bucket_of('a', 4):04d}"
    (folder / ".zzz.json.1a2b3c4d.writing").write_text("{")
    assert [row.doc_id for row in store.read("audio", FINGERPRINT)] == ["a"]
    assert len(collect_garbage(store, min_age_h=0.0)) == 1


def test_a_folder_that_cannot_be_listed_does_not_count_as_empty(tmp_path: Path) -> None:
    """Fsspec lists such a folder as empty; all data would then be without commits, and deleted."""
    store = many(str(tmp_path), 4)
    commits = tmp_path / f"features/audio/{FINGERPRINT}/commits"
    before = sorted(tmp_path.rglob("*.parquet"))
    commits.rename(tmp_path / "aside")
    commits.symlink_to("commits")
    with pytest.raises(StorageError, match=r"cannot read features/audio/f00d.* nothing was changed"):
        collect_garbage(store, min_age_h=0.0)
    with pytest.raises(StorageError, match="cannot read"):
        list(store.commits("audio", FINGERPRINT).read())
    assert sorted(tmp_path.rglob("*.parquet")) == before
    commits.unlink()
    (tmp_path / "aside").rename(commits)
    assert list(verify_store(store)) == []


def test_what_a_writer_uses_again_is_too_young_for_gc(place: str) -> None:
    """A run that died left data without a commit; gc must not delete it while another run commits it."""
    store = many(place, 1)
    rows = unit_rows(5)
    data = encode_rows("audio", rows)
    name = f"u005-{sha256_of(data)[:16]}-{zlib.crc32(data):08x}.parquet"
    left = f"features/audio/{FINGERPRINT}/data/bucket=0001/{name}"
    first = write_snapshot(store, iter([make.stored("a")]))
    write_snapshot(store, iter([make.stored("b")]))
    store.files.put(left, data)
    time.sleep(2.1)
    before = {name: (store.files.entry(name), time.time()) for name in (left, first.file)}
    commit_unit(store, 5)
    write_snapshot(store, iter([make.stored("a")]))
    for name, (entry, then) in before.items():
        again = store.files.entry(name)
        assert entry is not None
        assert again is not None
        # When each was written, whatever time has passed between looking at them.
        assert time.time() - 3600 * again.age_h > then - 3600 * entry.age_h + 0.5
    commit = store.commits("audio", FINGERPRINT).find(1, "u005")
    assert commit is not None
    assert commit.file == left
    assert left not in collect_garbage(store, min_age_h=0.0)


def test_manifests_that_were_replaced_long_ago_are_deleted_with_their_numbers(place: str) -> None:
    store = Store.create(place, 2)
    shots = [write_snapshot(store, iter([make.stored(doc_id)])) for doc_id in "aba"]
    assert [shot.number for shot in shots] == [1, 2, 3]
    assert collect_garbage(store, min_age_h=1.0) == []
    assert sorted(collect_garbage(store, min_age_h=0.0)) == sorted(
        ["documents/00000001.json", "documents/00000002.json", shots[1].file]
    )
    assert [item.document.doc_id for item in store.snapshot().documents()] == ["a"]
    assert write_snapshot(store, iter([make.stored("c")])).number == 4


def test_a_manifest_that_cannot_be_read_now_is_no_damaged_one_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection during `verify --repair` once counted as damage, and the manifest was deleted."""
    store = filled(str(tmp_path), "a")

    def unreachable(files: Files, name: str) -> None:
        raise StorageError(f"cannot read {name}")

    with monkeypatch.context() as patch:
        patch.setattr(Files, "open", unreachable)
        with pytest.raises(StorageError, match=r"cannot read documents/.*parquet"):
            list(verify_store(store, repair=True))
    assert list(verify_store(store)) == []


def test_a_damaged_store_json_is_written_again_from_the_buckets_of_enough_documents(tmp_path: Path) -> None:
    filled(str(tmp_path / "many"), "abcdefghijklmnop", buckets=6)
    filled(str(tmp_path / "one"), "a", buckets=6)
    for name in ("many", "one"):
        about = tmp_path / name / "store.json"
        whole = about.read_bytes()
        about.write_bytes(whole.replace(b"6", b"7", 1))
        with pytest.raises(DamagedError, match=r"store\.json is damaged .*store verify --repair"):
            Store.open(str(tmp_path / name))
        if name == "many":
            assert rewrite_about(str(tmp_path / name)).buckets == 6
            assert about.read_bytes() == whole
            continue
        with pytest.raises(DamagedError, match="the 1 documents of the newest manifest do not tell"):
            rewrite_about(str(tmp_path / name))
