"""Features from a store into memory, or into a memory-mapped file where they are too many."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilbert_ray.config import MODALITIES, Modality, TaskConfig
from hilbert_ray.document import Document, encode_labels
from hilbert_ray.features.arrays import Features, Ragged, mean_std
from hilbert_ray.features.batch import log
from hilbert_ray.features.memory_map import MappedFile, MappedRows, Piece, map_folder
from hilbert_ray.storage import StorageError
from hilbert_ray.store import FeatureRow, Place, Placed, Store


def read_features(
    store: Store,
    placed: Mapping[Modality, Placed],
    tasks: Mapping[str, TaskConfig],
    documents: Sequence[Document],
    memory_bytes: float = math.inf,
) -> Features:
    """Read features of every document that has at least one of the wanted modalities stored.

    Args:
        store: where `embed` put them.
        placed: what `Store.placed` says of each wanted modality.
        tasks: what `targets` are made of.
        documents: which documents, in this order; those that have nothing stored are left out.
        memory_bytes: segments that take more than so much as float32 are mapped from files, see `mapped`.

    Raises:
        StoreError: when the store changes meanwhile.
        OSError: when the files find no room.
    """
    kept = [d for d in documents if any(d.doc_id in found.places for found in placed.values())]
    doc_ids = np.array([d.doc_id for d in kept])
    stored = {
        m: _Stored.of(store, m, doc_ids, placed[m]) for m in MODALITIES if m in placed and placed[m].places
    }
    size = sum(4 * math.prod(one.shape) for one in stored.values())
    is_mapped = size > memory_bytes
    if memory_bytes < math.inf:
        log.info(
            "features take %.2f GiB, of which memory may hold %.2f GiB (fit.memory_gib): they are %s",
            size / 2**30, memory_bytes / 2**30,
            f"mapped from files in {map_folder()} (TMPDIR)" if is_mapped else "read into it",
        )  # fmt: skip
    duration = np.zeros(len(kept))
    parts = {m: _read(one, placed[m].places, duration, is_mapped) for m, one in stored.items()}
    _, groups = np.unique([d.group for d in kept], return_inverse=True)
    return Features(
        doc_ids=doc_ids,
        groups=groups.astype(np.int64),
        audio=parts.get("audio"),
        text=parts.get("text"),
        targets={name: encode_labels(name, task, kept) for name, task in tasks.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """The stored features of some documents in one modality: where the rows of a `Ragged` come from.

    `content` is a hash of the places of all of them, and so of what they are: data files never change.
    """

    store: Store
    modality: Modality
    fingerprint: str
    doc_ids: np.ndarray
    offsets: np.ndarray
    dim: int
    content: str

    @classmethod
    def of(
        cls,
        store: Store,
        modality: Modality,
        doc_ids: np.ndarray,
        placed: Placed,
    ) -> "_Stored":
        """Describe the features of `doc_ids`, in that order, which are where `Store.placed` says."""
        places, fingerprint = placed.places, placed.fingerprint
        lengths = [places[doc_id].segments if doc_id in places else 0 for doc_id in doc_ids.tolist()]
        return cls(
            store=store, modality=modality, fingerprint=fingerprint, doc_ids=doc_ids,
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
            dim=int(store.encoders(modality)[fingerprint]["dim"]), content=_content(doc_ids, places),
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        """Segments of all documents, and dim."""
        return int(self.offsets[-1]), self.dim

    def rows(self, places: Mapping[str, Place]) -> Iterator[tuple[int, FeatureRow]]:
        """Yield each document's number and its stored row, in the store's order.

        Raises:
            StoreError: when the store no longer holds what it did.
        """
        number = {doc_id: i for i, doc_id in enumerate(self.doc_ids.tolist())}
        lengths, segments = np.diff(self.offsets), 0
        for row in self.store.rows(self.modality, places):
            i = number.pop(row.doc_id, None)
            if i is not None:
                if len(row.features) != lengths[i]:
                    raise self._changed()
                segments += len(row.features)
                yield i, row
        if segments != self.offsets[-1]:
            raise self._changed()

    def pieces(self) -> Iterator[Piece]:
        """Yield the rows of a `MappedFile`, on a node that lacks it.

        Raises:
            StoreError: when the store no longer holds what it did.
        """
        places = self.store.placed(self.modality, self.fingerprint).places
        if _content(self.doc_ids, places) != self.content:
            raise self._changed()
        for i, row in self.rows(places):
            yield int(self.offsets[i]), row.features

    def _changed(self) -> StorageError:
        return StorageError(
            f"the {self.modality} features of store {self.store.uri} changed while a run read them; run "
            "again once nothing embeds into it"
        )


def _content(doc_ids: np.ndarray, places: Mapping[str, Place]) -> str:
    digest = hashlib.sha256()
    for doc_id in doc_ids.tolist():
        digest.update(repr((doc_id, places.get(doc_id))).encode())
    return digest.hexdigest()[:32]


def _read(stored: _Stored, places: Mapping[str, Place], duration: np.ndarray, is_mapped: bool) -> Ragged:
    """Read the features of one modality in one pass over the store.

    Args:
        stored: which.
        places: where they are.
        duration: length of each document's recording in seconds, 0 where unknown: the last end of the row
            stands in then. That of audio is written here, for text to be read after it.
        is_mapped: whether the segments go to a file.
    """
    count, dim = stored.shape
    start, end, position = (np.zeros(count, np.float32) for _ in range(3))
    wide = np.zeros((len(stored.doc_ids), 2 * dim), np.float32)

    def pieces() -> Iterator[Piece]:
        for i, row in stored.rows(places):
            if stored.modality == "audio":
                duration[i] = row.present
            span = slice(stored.offsets[i], stored.offsets[i + 1])
            start[span], end[span] = row.start, row.end
            whole = max(float(duration[i]), float(row.end.max(initial=0.0))) if row.timed else 1.0
            position[span] = (row.start + row.end) / (2 * (whole or 1.0))
            values = row.features.astype(np.float32)
            wide[i] = mean_std(values)
            yield int(stored.offsets[i]), row.features if is_mapped else values

    held: Any
    if is_mapped and count:
        file = MappedFile(f"{stored.modality}-{stored.content}", stored.shape, stored.pieces)
        file.write(pieces())
        held = MappedRows(file)
    else:
        held = np.empty(stored.shape, np.float32)
        for first, found in pieces():
            held[first : first + len(found)] = found
    return Ragged(values=held, position=position, start=start, end=end, offsets=stored.offsets, wide=wide)
