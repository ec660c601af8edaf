"""Documents as arrays: features of many documents in memory, padded batches of some, and their order.

`Features` is flat NumPy (one array for all segments of a modality, with offsets), so that Ray maps it into
every process without a copy. `collate` pads chosen documents into a `Batch` of tensors, which is all the
model sees.

Axes: B documents, S audio segments, U text segments, K classes or labels of a task.
"""

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
from hilbert_ray.store import FeatureRow, Store

LENGTH_BUCKETS_FROM = (
    2000  # documents; below, batches are drawn freely since buckets would choose the negatives
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Segment features of one modality for B documents; document i owns rows offsets[i] to offsets[i + 1].

    values: float32 [segments, dim]; position: float32 [segments], middle of a segment as a share of the
    recording; start, end: float32 [segments], seconds (positions in [0, 1] for untimed text); offsets: int64
    [B + 1];
    wide: float32 [B, 2 dim], mean and standard deviation over a document's segments, zeros where it has none.
    """

    values: np.ndarray
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
        """Return the documents at `indices`, in that order (a copy)."""
        rows = self.rows(indices)
        return Ragged(
            values=self.values[rows],
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
        """Return the documents at `indices`, in that order (a copy)."""
        return Features(
            doc_ids=self.doc_ids[indices],
            groups=self.groups[indices],
            audio=None if self.audio is None else self.audio.take(indices),
            text=None if self.text is None else self.text.take(indices),
            targets={task: values[indices] for task, values in self.targets.items()},
        )

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
    if not len(values):
        return np.zeros(2 * values.shape[1], np.float32)
    return np.concatenate([values.mean(0), values.std(0)])


def ragged(rows: Sequence[FeatureRow | None], dim: int, duration: Sequence[float | None]) -> Ragged:
    """Join stored rows of one modality, None where a document lacks it.

    Args:
        rows: features of each document, or None.
        dim: width of the features.
        duration: length of each recording in seconds where known; else the last end of the row stands in.
    """
    empty = np.zeros((0, dim), np.float32)
    values = [empty if row is None else row.features.astype(np.float32) for row in rows]
    start = [np.zeros(0, np.float32) if row is None else np.asarray(row.start, np.float32) for row in rows]
    end = [np.zeros(0, np.float32) if row is None else np.asarray(row.end, np.float32) for row in rows]
    position = []
    for row, begins, ends, seconds in zip(rows, start, end, duration, strict=True):
        last = float(ends.max(initial=0.0))
        whole = 1.0 if row is None or not row.timed else max(seconds or last, last)
        position.append((begins + ends) / 2 / (whole or 1.0))
    return Ragged(
        values=np.concatenate([empty, *values]),
        position=np.concatenate([np.zeros(0, np.float32), *position]).astype(np.float32),
        start=np.concatenate([np.zeros(0, np.float32), *start]),
        end=np.concatenate([np.zeros(0, np.float32), *end]),
        offsets=np.cumsum([0, *(len(v) for v in values)], dtype=np.int64),
        wide=np.stack([mean_std(v) for v in values]) if rows else np.zeros((0, 2 * dim), np.float32),
    )


def read_features(
    store: Store,
    audio: str | None,
    text: str | None,
    tasks: Mapping[str, TaskConfig],
    documents: Sequence[Document],
    bucket: int | None = None,
) -> Features:
    """Read features of every document that has at least one of the wanted modalities stored.

    Args:
        store: where `embed` put them.
        audio: fingerprint of the audio encoder, or None for no audio.
        text: fingerprint of the text encoder, or None for no text.
        tasks: what `targets` are made of.
        documents: which documents, in this order; those that have nothing stored are left out.
        bucket: read this bucket of the store alone.
    """
    stored: dict[Modality, dict[str, FeatureRow]] = {}
    fingerprints: dict[Modality, str | None] = {"audio": audio, "text": text}
    for modality, fingerprint in fingerprints.items():
        if fingerprint is not None:
            stored[modality] = {row.doc_id: row for row in store.read(modality, fingerprint, bucket)}
    kept = [d for d in documents if any(d.doc_id in rows for rows in stored.values())]
    heard = stored.get("audio", {})
    duration = [heard[d.doc_id].present if d.doc_id in heard else None for d in kept]
    parts: dict[Modality, Ragged] = {}
    for modality, rows in stored.items():
        dim = next((row.features.shape[1] for row in rows.values()), 0)
        if dim:
            parts[modality] = ragged([rows.get(d.doc_id) for d in kept], dim, duration)
    _, groups = np.unique([d.group for d in kept], return_inverse=True)
    return Features(
        doc_ids=np.array([d.doc_id for d in kept]),
        groups=groups.astype(np.int64),
        audio=parts.get("audio"),
        text=parts.get("text"),
        targets={name: encode_labels(name, task, kept) for name, task in tasks.items()},
    )


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
        values = part.values[source] * mask[..., None]
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
