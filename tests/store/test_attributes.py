"""Attributes in a snapshot: kept with the documents, in a column that is there only if one has some."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from hilbert_ray.config import MODALITIES
from hilbert_ray.document import Attribute, with_labels_of
from hilbert_ray.store import Store, write_snapshot
from hilbert_ray.store.snapshot import Snapshot
from tests import make


def columns_of(store: Store, snapshot: Snapshot) -> list[str]:
    names: list[str] = pq.read_schema(Path(store.uri, snapshot.file)).names
    return names


def test_attributes_are_kept_and_change_no_source(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path), 2)
    plain = [make.stored(name) for name in "abc"]
    without = write_snapshot(store, plain)
    assert "attributes" not in columns_of(store, without)
    attributes: dict[str, Attribute] = {"age": 34, "site": "Zürich", "smoker": False, "bmi": 22.5}
    known = [replace(plain[0], document=replace(plain[0].document, attributes=attributes)), *plain[1:]]
    snapshot = write_snapshot(store, known)
    assert snapshot.number == without.number + 1
    read = {item.document.doc_id: item for item in snapshot.documents()}
    assert read == {item.document.doc_id: item for item in known}
    assert [type(value) for value in read["a"].document.attributes.values()] == [int, float, str, bool]
    for modality in MODALITIES:
        after, before = (each.sources({0, 1}, modality, False) for each in (snapshot, without))
        assert list(after) == list(before)
    assert {item.document.doc_id for item in without.documents()} == set("abc")


def test_an_attribute_becomes_the_label_of_a_task_of_its_name() -> None:
    document = replace(make.stored("a").document, attributes={"phq": 7, "age": 40}, labels={"mood": "low"})
    assert with_labels_of(document, ["bdi"]) is document
    labelled = with_labels_of(document, ["phq", "mood"])
    assert (labelled.labels, labelled.attributes) == ({"phq": 7, "mood": "low"}, {"age": 40})
