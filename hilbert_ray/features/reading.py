"""Features from a store into memory, or into a memory-mapped file where they are too many."""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilbert_ray.config import MODALITIES, Modality, TaskConfig
from hilbert_ray.document import Document, encode_labels
from hilbert_ray.features.arrays import Features, Ragged, mean_std
from hilbert_ray.features.memory_map import MappedFile, MappedRows, RowSpan, map_folder
from hilbert_ray.store import DataLocation, FeatureRow, Store, StoredFeatures, StoreError

log = logging.getLogger(__name__)


def read_features(
    store: Store,
    stored: Mapping[Modality, StoredFeatures],
    tasks: Mapping[str, TaskConfig],
    documents: Sequence[Document],
    memory_bytes: float = math.inf,
) -> Features:
    """Read features of every document that has at least one of the requested modalities stored.

    Args:
        store: where `embed` wrote them.
        stored: what `Store.locate` returns for each requested modality.
        tasks: what `targets` are made of.
        documents: which documents, in this order; those without stored features are left out.
        memory_bytes: segments that take more than this as float32 are mapped from files, see `memory_map`.

    Raises:
        StoreError: when the store changes meanwhile.
        OSError: when the disk has no space for the files.
    """
    # A document may lack one of two modalities: it is then of length 0 in that `Ragged`.
    with_features = [d for d in documents if any(d.doc_id in each.locations for each in stored.values())]
    doc_ids = np.array([document.doc_id for document in with_features])
    sources = {
        modality: _RaggedSource.of(store, modality, doc_ids, stored[modality])
        for modality in MODALITIES
        if modality in stored and stored[modality].locations
    }
    size_bytes = sum(4 * math.prod(source.shape) for source in sources.values())
    is_mapped = size_bytes > memory_bytes
    if memory_bytes < math.inf:
        log.info(
            "features take %.2f GiB, of which memory may hold %.2f GiB (fit.memory_gib): %s",
            size_bytes / 2**30, memory_bytes / 2**30,
            f"mapped from files in {map_folder()} (TMPDIR)" if is_mapped else "read into memory",
        )  # fmt: skip
    # In the order of MODALITIES: audio comes first, and the recordings' durations with it.
    duration = np.zeros(len(with_features))
    ragged = {
        modality: _read(source, stored[modality].locations, duration, is_mapped)
        for modality, source in sources.items()
    }
    _, groups = np.unique([document.group for document in with_features], return_inverse=True)
    return Features(
        doc_ids=doc_ids,
        groups=groups.astype(np.int64),
        audio=ragged.get("audio"),
        text=ragged.get("text"),
        targets={name: encode_labels(name, task, with_features) for name, task in tasks.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _RaggedSource:
    """The stored features of some documents in one modality: where the rows of a `Ragged` come from.

    `content` is a hash of the locations of all of them, and so of what they are: data files never change.
    """

    store: Store
    modality: Modality
    fingerprint: str
    doc_ids: np.ndarray
    offsets: np.ndarray
    dim: int
    layers: int
    content: str

    @classmethod
    def of(
        cls, store: Store, modality: Modality, doc_ids: np.ndarray, stored: StoredFeatures
    ) -> "_RaggedSource":
        """Describe the features of `doc_ids`, in that order, which are at the locations of `stored`."""
        locations = stored.locations
        lengths = [locations[doc_id].segments if doc_id in locations else 0 for doc_id in doc_ids.tolist()]
        return cls(
            store=store,
            modality=modality,
            fingerprint=stored.fingerprint,
            doc_ids=doc_ids,
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
            dim=store.encoder_dim(modality, stored.fingerprint),
            layers=store.encoder_layers(modality, stored.fingerprint),
            content=_content(doc_ids, locations),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Segments of all documents, and dim."""
        return int(self.offsets[-1]), self.dim

    def rows(self, locations: Mapping[str, DataLocation]) -> Iterator[tuple[int, FeatureRow]]:
        """Yield each document's number and its stored row, in the store's order.

        Raises:
            StoreError: when the store no longer holds what it did.
        """
        number_of = {doc_id: number for number, doc_id in enumerate(self.doc_ids.tolist())}
        lengths, segments = np.diff(self.offsets), 0
        for row in self.store.rows(self.modality, locations):
            number = number_of.pop(row.doc_id, None)
            if number is not None:
                if len(row.features) != lengths[number]:
                    raise self._changed()
                segments += len(row.features)
                yield number, row
        # A row that is missing would leave its place in the array unwritten.
        if segments != self.offsets[-1]:
            raise self._changed()

    def row_spans(self) -> Iterator[RowSpan]:
        """Yield the rows of a `MappedFile`, on a node that lacks it.

        Raises:
            StoreError: when the store no longer holds what it did.
        """
        # The newest snapshot may be another by now: the hash of the locations says whether that matters.
        locations = self.store.locate(self.modality, self.fingerprint).locations
        if _content(self.doc_ids, locations) != self.content:
            raise self._changed()
        for number, row in self.rows(locations):
            yield int(self.offsets[number]), row.features

    def _changed(self) -> StoreError:
        return StoreError(
            f"the {self.modality} features of store {self.store.uri} changed while a run read them; rerun "
            "when nothing embeds into it"
        )


def _content(doc_ids: np.ndarray, locations: Mapping[str, DataLocation]) -> str:
    # Locations, not features: a data file's name holds its hash, so nothing need be read.
    digest = hashlib.sha256()
    for doc_id in doc_ids.tolist():
        digest.update(repr((doc_id, locations.get(doc_id))).encode())
    return digest.hexdigest()[:32]


def _read(
    source: _RaggedSource, locations: Mapping[str, DataLocation], duration: np.ndarray, is_mapped: bool
) -> Ragged:
    """Read the features of one modality in one pass over the store.

    Args:
        source: which.
        locations: where they are.
        duration: float64 [N], length of each document's recording in seconds; 0 where unknown, and then the
            last end of the row is used. Audio writes its own here, for text to be read after it.
        is_mapped: whether the segments go to a file.
    """
    count, dim = source.shape
    start, end, position = (np.zeros(count, np.float32) for _ in range(3))
    wide = np.zeros((len(source.doc_ids), 2 * dim), np.float32)

    def row_spans() -> Iterator[RowSpan]:
        """Yield segments for the file or array, and fill the small arrays on the way."""
        for number, row in source.rows(locations):
            if source.modality == "audio":
                duration[number] = row.present
            span = slice(source.offsets[number], source.offsets[number + 1])
            start[span], end[span] = row.start, row.end
            # Times of text may run past the end of the recording; a position never exceeds 1.
            length = max(float(duration[number]), float(row.end.max(initial=0.0))) if row.timed else 1.0
            position[span] = (row.start + row.end) / (2 * (length or 1.0))
            # Means and deviations in float32: float16 sums overflow at 65,504.
            values = row.features.astype(np.float32)
            wide[number] = mean_std(values)
            yield int(source.offsets[number]), row.features if is_mapped else values

    all_values: Any
    if is_mapped and count:  # an empty file cannot be mapped
        file = MappedFile(f"{source.modality}-{source.content}", source.shape, source.row_spans)
        file.write(row_spans())
        all_values = MappedRows(file)
    else:
        all_values = np.empty(source.shape, np.float32)
        for first, values in row_spans():
            all_values[first : first + len(values)] = values
    return Ragged(
        values=all_values, position=position, start=start, end=end, offsets=source.offsets, wide=wide,
        layers=source.layers,
    )  # fmt: skip
