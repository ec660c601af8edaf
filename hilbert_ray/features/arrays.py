"""Documents as arrays: segment features of many documents, ragged, in order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hilbert_ray.config import Modality
from hilbert_ray.features.memory_map import MappedRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Segment features of one modality for B documents; document i owns rows offsets[i] to offsets[i + 1].

    values: float32 [segments, dim], an array or `MappedRows`, which reads like one; position: float32
    [segments], middle of a segment as a fraction of the recording; start, end: float32 [segments], seconds
    (positions in [0, 1] for untimed text); offsets: int64 [B + 1];
    wide: float32 [B, 2 dim], mean and standard deviation over a document's segments, zeros if it has none.
    layers: how many hidden states of the encoder a row holds, one after the other, all of equal width.
    """

    values: Any
    position: np.ndarray
    start: np.ndarray
    end: np.ndarray
    offsets: np.ndarray
    wide: np.ndarray
    layers: int = 1

    @property
    def dim(self) -> int:
        """Width of a row, all layers together."""
        return int(self.values.shape[1])

    @property
    def wide_by_layer(self) -> np.ndarray:
        """Mean and standard deviation of each layer alone, float32 [B, layers, 2 dim / layers]."""
        statistics = self.wide.reshape(len(self.wide), 2, self.layers, -1)
        return statistics.transpose(0, 2, 1, 3).reshape(len(self.wide), self.layers, -1)

    @property
    def lengths(self) -> np.ndarray:
        """Segments of each document, int64 [B]; 0 where the modality is absent."""
        return np.diff(self.offsets)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of `values` that the documents at `indices` own, int64, in that order."""
        lengths = self.lengths[indices]
        # Row k of the result belongs to a document whose rows begin at `offsets` in `values`, but at the sum
        # of the lengths before it in the result: adding the difference to k gives its row in `values`.
        shifts = np.repeat(self.offsets[indices] - np.concatenate([[0], lengths.cumsum()[:-1]]), lengths)
        return np.asarray(shifts + np.arange(lengths.sum()), np.int64)

    def take(self, indices: np.ndarray) -> "Ragged":
        """Return the documents at `indices`, in that order; a copy, except for values that are mapped."""
        rows = self.rows(indices)
        return Ragged(
            # The method and not an index: memory-mapped rows stay on disk.
            values=self.values.take(rows, axis=0),
            position=self.position[rows],
            start=self.start[rows],
            end=self.end[rows],
            offsets=np.concatenate([[0], self.lengths[indices].cumsum()]).astype(np.int64),
            wide=self.wide[indices],
            layers=self.layers,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What training reads: features, groups and targets of B documents.

    doc_ids, groups: [B]. audio, text: the segments of a modality, None without an encoder for it.
    targets: for each task int64 [B] with -1 for unlabelled (binary, multiclass, ordinal), float32 [B, K] with
    NaN (multilabel) or float32 [B] with NaN (regression).
    """

    doc_ids: np.ndarray
    groups: np.ndarray
    audio: Ragged | None
    text: Ragged | None
    targets: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.doc_ids)

    @property
    def by_modality(self) -> dict[Modality, Ragged]:
        """The segments of each modality that has an encoder, audio first."""
        by_modality: dict[Modality, Ragged | None] = {"audio": self.audio, "text": self.text}
        return {modality: ragged for modality, ragged in by_modality.items() if ragged is not None}

    def only(self, modality: Modality) -> "Features":
        """Return the same documents with one modality alone; those that lack it have no segment at all."""
        return replace(self, text=None) if modality == "audio" else replace(self, audio=None)

    def take(self, indices: np.ndarray) -> "Features":
        """Return the documents at `indices`, in that order; a copy, except for values that are mapped."""
        return Features(
            doc_ids=self.doc_ids[indices],
            groups=self.groups[indices],
            audio=None if self.audio is None else self.audio.take(indices),
            text=None if self.text is None else self.text.take(indices),
            targets={task: values[indices] for task, values in self.targets.items()},
        )

    @property
    def is_labelled(self) -> np.ndarray:
        """Which documents have a label of any task, bool [B]."""
        labelled = np.zeros(len(self), bool)
        for targets in self.targets.values():
            labelled |= is_labelled(targets)
        return labelled

    @property
    def mapped_files(self) -> list[str]:
        """Names of the files that hold segments, for `remove_maps`; empty if all are in memory."""
        values = [ragged.values for ragged in self.by_modality.values()]
        return [rows.file.name for rows in values if isinstance(rows, MappedRows)]

    @property
    def lengths(self) -> np.ndarray:
        """Segments of a document's longer sequence, audio or text, int64 [B]: what padding costs."""
        lengths = [ragged.lengths for ragged in self.by_modality.values()]
        return np.asarray(np.maximum.reduce([np.zeros(len(self), np.int64), *lengths]))


def is_labelled(targets: np.ndarray) -> np.ndarray:
    """Return which documents have a label of a task, bool [B], from its targets as `Features` has them."""
    known = np.isfinite(targets) if targets.dtype.kind == "f" else targets >= 0
    # Of several labels, one that is known is enough.
    return np.asarray(known.reshape(len(targets), -1).any(1))


def mean_std(values: np.ndarray) -> np.ndarray:
    """Return mean and deviation over segments: float32 [segments, dim] -> [2 dim]; zeros for none."""
    count = len(values)
    if not count:
        return np.zeros(2 * values.shape[1], np.float32)
    # The arithmetic of `values.mean(0)` and `values.std(0)`, bit for bit, without their checks: most
    # documents are short, and the checks would take longer than the sums.
    mean = np.add.reduce(values, 0) / count
    centred = values - mean
    return np.concatenate([mean, np.sqrt(np.add.reduce(centred * centred, 0) / count)])
