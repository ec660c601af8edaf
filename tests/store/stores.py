"""Small stores for the tests of this room."""

from hilbert_ray.store import FeatureRow, Quarantined, Store, StoredDocument, bucket_of, write_snapshot
from tests import make

FINGERPRINT = "f00d"
"""Of the one encoder of these stores."""


def filled(uri: str, doc_ids: str = "abcd", buckets: int = 4) -> Store:
    """Return a store whose documents all have audio features, a unit a bucket."""
    store = Store.create(uri, buckets)
    write_snapshot(store, iter([make.stored(doc_id, row=row) for row, doc_id in enumerate(doc_ids, start=1)]))
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    for item in store.snapshot().documents():
        commit(store, item)
    return store


def commit(store: Store, *items: StoredDocument, unit: str = "", seed: int = 0) -> None:
    """Store features of documents of one bucket as one unit."""
    bucket = bucket_of(items[0].document.doc_id, store.buckets)
    rows = [make.feature_row(item.document.doc_id, item.source("audio"), seed=seed) for item in items]
    name = unit or f"unit-{items[0].document.doc_id.replace('/', '-')}"
    store.commit("audio", FINGERPRINT, unit=name, bucket=bucket, rows=rows)


def unit_rows(unit: int, seed: int = 0) -> list[FeatureRow]:
    """Return the rows of a unit of two documents."""
    return [make.feature_row(f"{unit}-{i}", n=1 + i, seed=seed + unit) for i in range(2)]


def commit_unit(store: Store, unit: int, seed: int = 0) -> None:
    bucket = unit % store.buckets
    store.commit("audio", FINGERPRINT, unit=f"u{unit:03d}", bucket=bucket, rows=unit_rows(unit, seed))


def many(uri: str, units: int, buckets: int = 2) -> Store:
    """Return a store with an encoder and this many units, one of which is quarantined whole."""
    store = Store.create(uri, buckets)
    store.add_encoder("audio", FINGERPRINT, {"name": "mfcc", "dim": 4})
    for unit in range(1, units):
        commit_unit(store, unit)
    failed = Quarantined(doc_id="q", source="s", stage="read", error="AudioError", message="why\r\n\u2028")
    store.commit("audio", FINGERPRINT, unit="u000", bucket=0, rows=[], quarantined=[failed])
    return store


def commit_files(store: Store) -> list[str]:
    return store.files.names(f"features/audio/{FINGERPRINT}/commits")
