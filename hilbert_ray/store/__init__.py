"""The feature store: validated manifests and, per modality and encoder, the features of their documents."""

from hilbert_ray.store.commits import Commits
from hilbert_ray.store.contents import CONTENTS, Content, ContentRow, TranscriptRow
from hilbert_ray.store.current import DataLocation, StoredFeatures
from hilbert_ray.store.errors import PendingError, StoreError
from hilbert_ray.store.export import Format, export_store
from hilbert_ray.store.features import (
    Commit,
    FeatureRow,
    Quarantined,
    decode_rows,
    encode_rows,
    sha256_of,
)
from hilbert_ray.store.maintenance import (
    Problem,
    collect_garbage,
    compact_store,
    count_unchecked,
    open_to_verify,
    rewrite_about,
    store_info,
    verify_store,
)
from hilbert_ray.store.snapshot import FileVersions, Snapshot, StoredDocument, bucket_of, digest, encode_text
from hilbert_ray.store.sorting import RowBlock, row_block, write_snapshot
from hilbert_ray.store.store import Store, reads_turns

__all__ = [
    "CONTENTS",
    "Commit",
    "Commits",
    "Content",
    "ContentRow",
    "DataLocation",
    "FeatureRow",
    "FileVersions",
    "Format",
    "PendingError",
    "Problem",
    "Quarantined",
    "RowBlock",
    "Snapshot",
    "Store",
    "StoreError",
    "StoredDocument",
    "StoredFeatures",
    "TranscriptRow",
    "bucket_of",
    "collect_garbage",
    "compact_store",
    "count_unchecked",
    "decode_rows",
    "digest",
    "encode_rows",
    "encode_text",
    "export_store",
    "open_to_verify",
    "reads_turns",
    "rewrite_about",
    "row_block",
    "sha256_of",
    "store_info",
    "verify_store",
    "write_snapshot",
]
