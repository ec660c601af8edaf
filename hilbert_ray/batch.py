"""Documents as arrays: features of many documents, padded batches of some, and their order.

`Features` is flat NumPy (one array for all segments of a modality, with offsets), so that Ray maps it into
every process without a copy; where the segments exceed memory, they are mapped from a file instead. `collate`
pads chosen documents into a `Batch` of tensors, which is all the model sees; it is the same either way.

Axes: B documents, S audio segments, U text segments, K classes or labels of a task.
"""

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hilbert_ray.config import MODALITIES, Modality, TaskConfig
from hilbert_ray.document import Document
from hilbert_ray.labels import encode_labels
from hilbert_ray.mapped import MappedFile, MappedRows, Piece, folder
from hilbert_ray.store import FeatureRow, Place, Placed, Store, StoreError

log = logging.getLogger(__name__)

LENGTH_BUCKETS_FROM = (
    2000  # documents; below, batches are drawn freely since buckets would choose the negatives
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Segment features of one modality for B documents; document i owns rows offsets[i] to offsets[i + 1].

    values: float32 [segments, dim], an array or `MappedRows` in its place; position: float32 [segments],
    middle of a segment as a share of the recording; start, end: float32 [segments], seconds (positions in
    [0, 1] for untimed text); offsets: int64 [B + 1];
    wide: float32 [B, 2 dim], mean and standard deviation over a document's segments, zeros where it has none.
    """

    values: Any
    position: np.ndarray
    start: np.ndarray
    end: np.ndarray
    offsets: np.ndarray
    wide: np.ndarray

    @property
    def dim(self) -> int:
        """Width of the features."""
        return int(self.values.shape[1])

    @property
    def lengths(self) -> np.ndarray:
        """Segments of each document, int64 [B]; 0 where the modality is absent."""
        return np.diff(self.offsets)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of `values` that the documents at `indices` own, int64, in that order."""
        lengths = self.lengths[indices]
        firsts = np.repeat(self.offsets[indices] - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths)
        return np.asarray(firsts + np.arange(lengths.sum()), np.int64)

    def take(self, indices: np.ndarray) -> "Ragged":
        """Return the documents at `indices`, in that order (a copy, but for what is mapped)."""
        rows = self.rows(indices)
        return Ragged(
            values=self.values.take(rows, axis=0),
            position=self.position[rows],
            start=self.start[rows],
            end=self.end[rows],
            offsets=np.concatenate([[0], self.lengths[indices].cumsum()]).astype(np.int64),
            wide=self.wide[indices],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What training reads: features, groups and targets of B documents.

    targets: for each task int64 [B] with -1 for unlabelled (binary, multiclass, ordinal), float32 [B, K] with
    NaN (multilabel) or float32 [B] with NaN (regression). A modality without an encoder is None.
    """

    doc_ids: np.ndarray
    groups: np.ndarray
    audio: Ragged | None
    text: Ragged | None
    targets: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.doc_ids)

    def only(self, modality: Modality) -> "Features":
        """Return the same documents with one modality alone; those that lack it keep no segment at all."""
        return replace(self, text=None) if modality == "audio" else replace(self, audio=None)

    def take(self, indices: np.ndarray) -> "Features":
        """Return the documents at `indices`, in that order (a copy, but for what is mapped)."""
        return Features(
            doc_ids=self.doc_ids[indices],
            groups=self.groups[indices],
            audio=None if self.audio is None else self.audio.take(indices),
            text=None if self.text is None else self.text.take(indices),
            targets={task: values[indices] for task, values in self.targets.items()},
        )

    @property
    def mapped(self) -> list[str]:
        """Names of the files that hold segments, see `mapped.remove`; none where they are in memory."""
        parts = [part.values for part in (self.audio, self.text) if part is not None]
        return [values.file.name for values in parts if isinstance(values, MappedRows)]

    @property
    def lengths(self) -> np.ndarray:
        """Longest of a document's two sequences, int64 [B]."""
        parts = [part.lengths for part in (self.audio, self.text) if part is not None]
        return np.asarray(np.maximum.reduce([np.zeros(len(self), np.int64), *parts]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Padded documents. Masks are True where a segment is real; an absent modality is a row of False.

    audio: float32 [B, S, dim]; audio_mask: bool [B, S]; audio_position: float32 [B, S] in [0, 1];
    audio_wide: float32 [B, 2 dim]; the same for text; targets as in `Features`, group int64 [B]. A modality
    that has no encoder is None throughout.
    """

    audio: Float[Tensor, "batch audio_segments audio_dim"] | None
    audio_mask: Bool[Tensor, "batch audio_segments"] | None
    audio_position: Float[Tensor, "batch audio_segments"] | None
    audio_wide: Float[Tensor, "batch audio_wide"] | None
    text: Float[Tensor, "batch text_segments text_dim"] | None
    text_mask: Bool[Tensor, "batch text_segments"] | None
    text_position: Float[Tensor, "batch text_segments"] | None
    text_wide: Float[Tensor, "batch text_wide"] | None
    targets: Mapping[str, Tensor]
    group: Tensor

    def __len__(self) -> int:
        return len(self.group)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        moved = {
            name: value.to(device)
            for name in ("audio", "audio_mask", "audio_position", "audio_wide", "text", "text_mask",
                         "text_position", "text_wide", "group")
            if (value := getattr(self, name)) is not None
        }  # fmt: skip
        return replace(
            self, **moved, targets={task: value.to(device) for task, value in self.targets.items()}
        )


def mean_std(values: np.ndarray) -> np.ndarray:
    """Return mean and deviation over segments: float32 [segments, dim] -> [2 dim]; zeros for none."""
    count = len(values)
    if not count:
        return np.zeros(2 * values.shape[1], np.float32)
    # What `values.mean(0)` and `values.std(0)` do, with the same bits; most documents are short.
    mean = np.add.reduce(values, 0) / count
    centred = values - mean
    return np.concatenate([mean, np.sqrt(np.add.reduce(centred * centred, 0) / count)])


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
            f"mapped from files in {folder()} (TMPDIR)" if is_mapped else "read into it",
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

    def _changed(self) -> StoreError:
        return StoreError(
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


def collate(features: Features, indices: np.ndarray) -> Batch:
    """Pad the documents at `indices` into one batch on the CPU."""
    parts: dict[str, Any] = {}
    for modality in MODALITIES:
        part: Ragged | None = getattr(features, modality)
        names = (modality, f"{modality}_mask", f"{modality}_position", f"{modality}_wide")
        parts.update(zip(names, (None,) * 4 if part is None else _pad(part, indices), strict=True))
    return Batch(
        **parts,
        targets={task: torch.from_numpy(values[indices]) for task, values in features.targets.items()},
        group=torch.from_numpy(features.groups[indices]),
    )


def _pad(part: Ragged, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lengths = part.lengths[indices]
    longest = max(int(lengths.max(initial=0)), 1)  # an absent modality's token needs a place
    mask = np.arange(longest) < lengths[:, None]
    source = np.where(mask, part.offsets[indices][:, None] + np.arange(longest), 0)
    if len(part.values):
        values = part.values[source]
        values[~mask] = 0
        position = part.position[source] * mask
    else:
        values = np.zeros((*mask.shape, part.dim), np.float32)
        position = np.zeros(mask.shape, np.float32)
    return (
        torch.from_numpy(values.astype(np.float32, copy=False)),
        torch.from_numpy(mask),
        torch.from_numpy(position.astype(np.float32, copy=False)),
        torch.from_numpy(part.wide[indices]),
    )


def epoch_batches(
    indices: np.ndarray, batch_size: int, generator: np.random.Generator, lengths: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return one epoch's global batches: a permutation cut into round(N / batch_size) near-equal parts.

    Args:
        indices: documents of the training part, int64 [N].
        batch_size: documents of a global batch; part sizes differ by at most one.
        generator: the run's sampler; the same on every rank, so batches do not depend on the world size.
        lengths: segments of each document (indexed like `indices`); above `LENGTH_BUCKETS_FROM` documents,
            batches then hold documents of similar length, in random order.
    """
    order = generator.permutation(len(indices))
    count = max(round(len(indices) / batch_size), 1)
    if lengths is not None and len(indices) > LENGTH_BUCKETS_FROM:
        order = order[np.argsort(lengths[order], kind="stable")]
        parts = np.array_split(order, count)
        return [indices[parts[i]] for i in generator.permutation(count)]
    return [indices[part] for part in np.array_split(order, count)]


def share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return one rank's part of a global batch; parts differ by at most one document and may be empty."""
    return np.array_split(batch, world_size)[rank]


def eval_batches(count: int, lengths: np.ndarray, budget: int = 8192) -> Iterator[np.ndarray]:
    """Yield all documents 0..count-1, longest first, in batches of at most `budget` padded segments."""
    order = np.argsort(-lengths, kind="stable")[:count]
    start = 0
    while start < len(order):
        size = max(budget // max(int(lengths[order[start]]), 1), 1)
        yield order[start : start + size]
        start += size
