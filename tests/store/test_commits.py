"""Many commits: indexes that repeat them, garbage collection, and readers and writers meanwhile."""

import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hilbert_ray.store import Store, collect_garbage, compact_store, verify_store, write_snapshot
from tests import make
from tests.faulty import Request, faulty_object_store
from tests.store.stores import FINGERPRINT, commit_files, commit_unit, many


def test_compact_folds_commits_and_gc_then_deletes_them_and_readers_see_no_difference(place: str) -> None:
    store = many(place, 11)
    before = list(store.commits("audio", FINGERPRINT).read())
    assert [commit.unit for commit in before if commit.bucket == 0] == [f"u{i:03d}" for i in range(0, 11, 2)]
    assert compact_store(store, min_commits=6) == [
        name for name in commit_files(store) if "bucket=0000/index-" in name
    ]
    assert len(commit_files(store)) == 11 + 1
    assert list(store.commits("audio", FINGERPRINT).read()) == before
    assert collect_garbage(store) == []
    assert len(collect_garbage(store, min_age_h=0.0)) == 6
    assert len(commit_files(store)) == 5 + 1
    assert list(store.commits("audio", FINGERPRINT).read()) == before
    for commit in before:
        assert list(store.commits("audio", FINGERPRINT).read({commit.bucket}))
        assert store.commits("audio", FINGERPRINT).find(commit.bucket, commit.unit) == commit
    assert store.commits("audio", FINGERPRINT).find(0, "u00") is None
    assert list(verify_store(store)) == []
    assert compact_store(store, min_commits=6) == []


def test_a_later_compact_folds_the_older_index_too_and_gc_deletes_that(tmp_path: Path) -> None:
    store = many(str(tmp_path), 3, buckets=1)
    [first] = compact_store(store, min_commits=2)
    collect_garbage(store, min_age_h=0.0)
    commit_unit(store, 7)
    assert compact_store(store, min_commits=2) == []
    commit_unit(store, 8)
    [second] = compact_store(store, min_commits=2)
    assert first != second
    before = list(store.commits("audio", FINGERPRINT).read())
    assert collect_garbage(store, min_age_h=1.0) == []
    old = time.time() - 7200
    for name in commit_files(store):
        if name != second:
            os.utime(store.files.path(name), (old, old))
    assert collect_garbage(store, min_age_h=1.0) == [], "readers that listed before need the other files"
    os.utime(store.files.path(second), (old, old))
    assert len(collect_garbage(store, min_age_h=1.0)) == 3
    assert commit_files(store) == [second]
    assert list(store.commits("audio", FINGERPRINT).read()) == before
    assert [commit.unit for commit in before] == ["u000", "u001", "u002", "u007", "u008"]


def test_a_writer_that_comes_late_to_a_folded_unit_does_no_harm(place: str) -> None:
    store = many(place, 4)
    compact_store(store, min_commits=1)
    before = list(store.commits("audio", FINGERPRINT).read())
    folded = store.commits("audio", FINGERPRINT).find(1, "u001")
    commit_unit(store, 1, seed=9)
    assert store.commits("audio", FINGERPRINT).find(1, "u001") == folded, "the commit is there still: it wins"
    collect_garbage(store, min_age_h=0.0)
    commit_unit(store, 1, seed=9)
    assert list(store.commits("audio", FINGERPRINT).read()) == before
    assert compact_store(store, min_commits=1) == []
    assert list(verify_store(store)) == []
    collect_garbage(store, min_age_h=0.0)
    collect_garbage(store, min_age_h=0.0)
    assert list(store.commits("audio", FINGERPRINT).read()) == before
    assert list(verify_store(store)) == []
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
# The data of a late writer that lost is what the index names.
@example(steps=[("commit", 3, 0), ("compact", 1, 0), ("gc", 0, 0), ("commit", 3, 1), ("commit", 3, 0)])
def test_in_whatever_order_units_are_committed_folded_and_swept_each_stays_once(
    steps: list[tuple[str, int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, 2)
        store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
        first: dict[str, str | None] = {}
        for action, number, seed in steps:
            if action == "commit":
                commit_unit(store, number, seed)
                first.setdefault(f"u{number:03d}", None)
            elif action == "compact":
                compact_store(store, number)
            elif action == "gc":
                collect_garbage(store, min_age_h=0.0)
            else:
                assert list(verify_store(store)) == []
            file_of = {commit.unit: commit.file for commit in store.commits("audio", FINGERPRINT).read()}
            assert sorted(file_of) == sorted(first)
            for unit, file in file_of.items():
                assert first[unit] in (None, file), "the commit that counts has changed"
                first[unit] = file
        assert list(verify_store(store)) == []


def test_compact_gc_writers_and_readers_may_run_at_once(place: str) -> None:
    """Two compactors and two writers race; what a reader saw once, every later reader sees, and once only."""
    store = many(place, 8)
    deadline = time.monotonic() + 1.0
    is_sweeping = threading.Event()

    def compact() -> None:
        rounds = 0
        while time.monotonic() < deadline or rounds < 3:
            compact_store(Store.open(place), min_commits=1)
            rounds += 1

    def write(first: int) -> None:
        number = first
        while number < 300 and (time.monotonic() < deadline or number < first + 6):
            commit_unit(Store.open(place), number)
            number += 2

    def read() -> int:
        seen: set[str] = {f"u{i:03d}" for i in range(8)}
        reads = 0
        while is_sweeping.is_set() or reads < 4:
            units = [commit.unit for commit in Store.open(place).commits("audio", FINGERPRINT).read()]
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
            # Only without writers: at age 0, data that is not committed yet would be deleted.
            while collect_garbage(store, min_age_h=0.0):
                compact_store(store, min_commits=1)
        finally:
            is_sweeping.clear()
        assert min(reader.result() for reader in readers) > 3
    assert list(verify_store(store)) == []
    assert all("index-" in name for name in commit_files(store))


def test_folded_commits_cost_one_request_per_bucket(object_store: str, tmp_path: Path) -> None:
    requests: list[Request] = []

    def listen(request: Request) -> None:
        requests.append(request)

    def cost(store: Store, buckets: set[int] | None = None) -> tuple[int, int]:
        """Return listings and other requests that reading all commits takes."""
        requests.clear()
        assert len(list(store.commits("audio", FINGERPRINT).read(buckets))) == (40 if buckets is None else 5)
        listings = sum("list-type" in request.path for request in requests)
        return listings, len(requests) - listings

    with faulty_object_store(listen):
        store = many(f"{object_store}/{tmp_path.name}", 40, buckets=8)
        assert cost(store) == (1, 40)
        assert cost(store, {3}) == (1, 5)
        assert len(compact_store(store, min_commits=5)) == 8
        assert cost(store) == (1, 8)
        collect_garbage(store, min_age_h=0.0)
        assert cost(store) == (1, 8)
        assert cost(store, {3}) == (1, 1)
        requests.clear()
        assert store.commits("audio", FINGERPRINT).find(3, "u003") is not None
        assert store.commits("audio", FINGERPRINT).find(3, "none") is None
        assert len(requests) == 6
        write_snapshot(store, iter([make.stored("a")]))
        requests.clear()
        store.snapshot()
        assert len(requests) == 2
