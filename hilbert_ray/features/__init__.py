"""Documents as arrays: features read from a store, padded batches, and memory maps."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.features.arrays import Features, Ragged, is_labelled, mean_std
    from hilbert_ray.features.batch import (
        LENGTH_BUCKETS_FROM,
        Batch,
        ModalityBatch,
        collate,
        documents_of_rank,
        epoch_batches,
        eval_batches,
        to_device,
    )
    from hilbert_ray.features.dataset import Dataset, open_dataset
    from hilbert_ray.features.duplicates import NearDuplicates
    from hilbert_ray.features.memory_map import BLOCK_ROWS, MappedRows, remove_maps
    from hilbert_ray.features.reading import read_features
    from hilbert_ray.features.transcripts import Transcript

__all__ = [
    "BLOCK_ROWS",
    "LENGTH_BUCKETS_FROM",
    "Batch",
    "Dataset",
    "Features",
    "MappedRows",
    "ModalityBatch",
    "NearDuplicates",
    "Ragged",
    "Transcript",
    "collate",
    "documents_of_rank",
    "epoch_batches",
    "eval_batches",
    "is_labelled",
    "mean_std",
    "open_dataset",
    "read_features",
    "remove_maps",
    "to_device",
]

__getattr__ = lazy_names(
    __name__,
    {
        "arrays": (
            "Features",
            "Ragged",
            "is_labelled",
            "mean_std",
        ),
        "batch": (
            "Batch",
            "LENGTH_BUCKETS_FROM",
            "ModalityBatch",
            "collate",
            "documents_of_rank",
            "epoch_batches",
            "eval_batches",
            "to_device",
        ),
        "dataset": (
            "Dataset",
            "open_dataset",
        ),
        "duplicates": ("NearDuplicates",),
        "memory_map": (
            "BLOCK_ROWS",
            "MappedRows",
            "remove_maps",
        ),
        "reading": ("read_features",),
        "transcripts": ("Transcript",),
    },
)
