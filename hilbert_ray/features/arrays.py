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


def mean_std(values: np.ndarray) -> np.ndarray:
    """Return mean and deviation over segments: float32 [segments, dim] -> [2 dim]; zeros for none."""
    count = len(values)
    if not count:
        return np.zeros(2 * values.shape[1], np.float32)
    # What `values.mean(0)` and `values.std(0)` do, with the same bits; most documents are short.
    mean = np.add.reduce(values, 0) / count
    centred = values - mean
    return np.concatenate([mean, np.sqrt(np.add.reduce(centred * centred, 0) / count)])
