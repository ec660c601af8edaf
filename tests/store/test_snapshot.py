"""Documents in a store: the newest manifest as the only view, by bucket, with the versions of their files."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import MODALITIES
from hilbert_ray.document import InvalidRow, Utterance
from hilbert_ray.store import Store, StoredDocument, bucket_of, sorting, write_snapshot
from tests import make
from tests.faulty import faulty_object_store


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
    fault = InvalidRow(row=4, doc_id="bad", stage="manifest", error="DocumentError", message="why")
    store = Store.create(place, buckets=3)
    write_snapshot(store, [rich, plain, filed, fault])
    again = Store.open(place)
    documents = {item.document.doc_id: item for item in again.snapshot().documents()}
    assert documents == {"rich": rich, "plain": plain, "filed": filed}
    assert again.snapshot().faults == (fault,)
    assert [bucket_of(doc_id, 3) for doc_id in documents] == sorted(
        bucket_of(doc_id, 3) for doc_id in documents
    )


def test_without_its_text_a_document_still_says_that_it_has_text(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path))
    without = make.stored("b", text=None, text_version=None)
    write_snapshot(store, iter([make.stored("a"), without]))
    documents = {item.document.doc_id: item.document for item in store.snapshot().documents(with_text=False)}
    assert (documents["a"].text, documents["a"].has_text) == ("", True)
    assert not documents["b"].has_text


def test_documents_of_some_buckets_or_ids_are_read_alone(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), buckets=4)
    ids = [f"d{i}" for i in range(700)]
    write_snapshot(store, iter([make.stored(doc_id) for doc_id in ids]))
    for bucket in range(4):
        here = {item.document.doc_id for item in store.snapshot().documents(buckets={bucket})}
        assert here == {doc_id for doc_id in ids if bucket_of(doc_id, 4) == bucket}
    [item] = store.snapshot().documents(buckets={bucket_of("d7", 4)}, doc_ids={"d7"})
    assert item.document.doc_id == "d7"
    blocks = store.snapshot().blocks(num_documents=200)
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
    rows: list[StoredDocument | InvalidRow] = [make.stored(doc_id, row=row) for row, doc_id in enumerate(ids)]
    rows += [
        InvalidRow(row=100 + i, doc_id=doc_id, stage="m", error="E", message="m")
        for i, doc_id in enumerate(faulty)
    ]
    uses = [*ids, *faulty]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "_RUN_BYTES", 250 * run)
        store = Store.create(folder, buckets=3)
        write_snapshot(store, iter(rows))
        snapshot = store.snapshot()
        kept = sorted(item.document.doc_id for item in snapshot.documents())
        assert kept == sorted(doc_id for doc_id in ids if uses.count(doc_id) == 1)
        lost = [row for row, doc_id in enumerate(ids) if uses.count(doc_id) > 1]
        assert sorted(fault.row for fault in store.snapshot().faults) == lost + [
            100 + i for i in range(len(faulty))
        ]
        for fault in store.snapshot().faults:
            assert (fault.error == "DuplicateIdError") == (
                fault.doc_id != "" and uses.count(fault.doc_id) > 1
            )


def test_the_same_manifest_makes_no_new_snapshot_and_another_one_replaces_it(place: str) -> None:
    store = Store.create(place, buckets=2)
    first = write_snapshot(store, iter([make.stored("a"), make.stored("b")]))
    assert write_snapshot(store, iter([make.stored("b"), make.stored("a")])) == first
    second = write_snapshot(store, iter([make.stored("b")]))
    assert (first.number, second.number) == (1, 2)
    assert [item.document.doc_id for item in store.snapshot().documents()] == ["b"]
    assert store.snapshot(1) == first


def test_audio_depends_on_the_transcript_only_where_it_is_cut_by_it() -> None:
    before, after = make.stored("a"), make.stored("a", text_version="8", turns_version="9")
    assert before.source("audio") == after.source("audio")
    assert before.source("audio", reads_turns=True) != after.source("audio", reads_turns=True)
    assert before.source("text") != after.source("text")
    assert make.stored("a", audio_version="2").source("text") == before.source("text")


def test_sources_read_from_columns_are_those_of_the_documents(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), buckets=1)
    items = [
        make.stored("a"),
        make.stored("b", audio=None, audio_version=None),
        make.stored("c", turns_version=None),
    ]
    snapshot = write_snapshot(store, iter(items), roles=["x"])
    for by_turns in (False, True):
        for modality in MODALITIES:
            expected = {
                item.document.doc_id: item.source(modality, reads_turns=by_turns, roles=["x"])
                if item.has(modality)
                else None
                for item in items
            }
            assert dict(snapshot.sources({0}, modality, by_turns)) == expected


def test_the_footer_of_the_documents_is_fetched_once_by_a_process(object_store: str, tmp_path: Path) -> None:
    """It grows with the manifest, and a worker looks up the documents of every unit."""
    fetched: list[str] = []

    def documents(prefix: str) -> Iterator[StoredDocument]:
        for i in range(40):  # so large that only what is requested is read
            yield make.stored(f"{prefix}{i}", text=random.Random(i).randbytes(200_000).hex())

    def fetches(doc_id: str) -> int:
        fetched.clear()
        [item] = snapshot.documents({bucket_of(doc_id, 8)}, {doc_id}, with_text=False)
        assert item.document.doc_id == doc_id
        return sum(snapshot.file in path for path in fetched)

    with faulty_object_store(lambda request: fetched.append(request.path)):
        store = Store.create(f"{object_store}/{tmp_path.name}", 8)
        snapshot = write_snapshot(store, documents("d"))
        first, second, third = (fetches("d3") for _ in range(3))
        assert first > second == third > 0
        snapshot = write_snapshot(store, documents("e"))
        assert fetches("e3") > fetches("e3"), "the footer of another manifest is another"
