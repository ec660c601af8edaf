"""Padded batches of documents, and the order in which an epoch or an evaluation visits them."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hilbert_ray.config import MODALITIES
from hilbert_ray.features.arrays import Features, Ragged

log = logging.getLogger(__name__)
LENGTH_BUCKETS_FROM = (
    2000  # documents; below, batches are drawn freely since buckets would choose the negatives
)


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


def rank_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
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
