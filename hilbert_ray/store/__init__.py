"""The feature store: validated manifests and, per modality and encoder, the features of their documents."""

from hilbert_ray.store.features import Commit, FeatureRow, Quarantined, encode_rows, sha256_of
from hilbert_ray.store.snapshot import Snapshot, StoredDocument, bucket_of, digest, encode_text
from hilbert_ray.store.sorting import RowBlock, row_block
from hilbert_ray.store.store import Place, Placed, Store, reads_turns

__all__ = [
    "Commit",
    "FeatureRow",
    "Place",
    "Placed",
    "Quarantined",
    "RowBlock",
    "Snapshot",
    "Store",
    "StoredDocument",
    "bucket_of",
    "digest",
    "encode_rows",
    "encode_text",
    "reads_turns",
    "row_block",
    "sha256_of",
]
