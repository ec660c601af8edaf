"""Padded batches of documents, and the order in which an epoch or an evaluation visits them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hilbert_ray.config import Modality
from hilbert_ray.features.arrays import Features, Ragged

LENGTH_BUCKETS_FROM = 2000
"""Documents of a training part from which batches hold documents of similar length. In smaller sets the
length would decide which documents meet as negatives of the contrastive loss."""
SEGMENT_BUDGET = 8192
"""Padded segments of an evaluation batch: bounds its memory, whatever the length of its documents."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return the same on `device`. The copy to a GPU is queued behind its work, and nobody waits for it."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        # From memory that the system cannot move meanwhile; torch keeps it until the copy is done.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalityBatch:
    """One modality of B documents, padded to S segments, the longest document's; at least 1.

    values: float32 [B, S, dim], zeros where padded; mask: bool [B, S], True where a segment is real, so that
    a document without the modality is a row of False; position: float32 [B, S], middle of a segment in [0,
    1]; wide: float32 [B, 2 dim], mean and standard deviation over a document's segments.
    """

    values: Float[Tensor, "batch segments dim"]
    mask: Bool[Tensor, "batch segments"]
    position: Float[Tensor, "batch segments"]
    wide: Float[Tensor, "batch wide"]

    def to(self, device: torch.device | str) -> "ModalityBatch":
        """Return the same with every tensor on `device`."""
        return ModalityBatch(
            values=to_device(self.values, device),
            mask=to_device(self.mask, device),
            position=to_device(self.position, device),
            wide=to_device(self.wide, device),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B padded documents.

    audio, text: the segments of a modality, None without an encoder for it. targets: for each task as in
    `Features`. group: int64 [B].
    """

    audio: ModalityBatch | None
    text: ModalityBatch | None
    targets: Mapping[str, Tensor]
    group: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.group)

    @property
    def by_modality(self) -> dict[Modality, ModalityBatch]:
        """The segments of each modality that has an encoder, audio first."""
        by_modality: dict[Modality, ModalityBatch | None] = {"audio": self.audio, "text": self.text}
        return {modality: padded for modality, padded in by_modality.items() if padded is not None}

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        return replace(
            self,
            audio=None if self.audio is None else self.audio.to(device),
            text=None if self.text is None else self.text.to(device),
            targets={task: to_device(values, device) for task, values in self.targets.items()},
            group=to_device(self.group, device),
        )


def collate(features: Features, indices: np.ndarray) -> Batch:
    """Pad the documents at `indices` into one batch on the CPU."""
    return Batch(
        audio=None if features.audio is None else _pad(features.audio, indices),
        text=None if features.text is None else _pad(features.text, indices),
        targets={task: torch.from_numpy(values[indices]) for task, values in features.targets.items()},
        group=torch.from_numpy(features.groups[indices]),
    )


def _pad(ragged: Ragged, indices: np.ndarray) -> ModalityBatch:
    lengths = ragged.lengths[indices]
    # At least one place, even if no document has the modality: the network puts its learned token there.
    longest = max(int(lengths.max(initial=0)), 1)
    mask = np.arange(longest) < lengths[:, None]
    # The system hands out zeros, so that padding, often half of a batch, costs nothing before it is read.
    values = np.zeros((*mask.shape, ragged.dim), np.float32)
    position = np.zeros(mask.shape, np.float32)
    for i, (first, length) in enumerate(zip(ragged.offsets[indices], lengths, strict=True)):
        values[i, :length] = ragged.values[first : first + length]
        position[i, :length] = ragged.position[first : first + length]
    return ModalityBatch(
        values=torch.from_numpy(values),
        mask=torch.from_numpy(mask),
        position=torch.from_numpy(position),
        wide=torch.from_numpy(ragged.wide[indices]),
    )


def epoch_batches(
    indices: np.ndarray,
    batch_size: int,
    generator: np.random.Generator,
    lengths: np.ndarray | None = None,
    is_labelled: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return one epoch's global batches: a permutation cut into max(1, round(N / batch_size)) of them.

    Args:
        indices: documents of the training part, int64 [N].
        batch_size: documents of a global batch; sizes differ by at most one.
        generator: the epoch's sampler; the same on every rank, so batches do not depend on the world size.
        lengths: segments of each document (indexed like `indices`); above `LENGTH_BUCKETS_FROM` documents,
            batches then hold documents of similar length, in random order.
        is_labelled: which documents have a label, bool [N]; they are spread evenly, so that the numbers of
            two batches differ by at most one. None: by chance.
    """
    order = generator.permutation(len(indices))
    # Near-equal batches instead of a short last one: the contrastive loss depends on the batch's size.
    count = max(round(len(indices) / batch_size), 1)
    has_buckets = lengths is not None and len(indices) > LENGTH_BUCKETS_FROM
    if lengths is not None and has_buckets:
        # A stable sort of the shuffled order: documents of equal length still meet others in each epoch.
        order = order[np.argsort(lengths[order], kind="stable")]
    batches = _cut(order, count, is_labelled)
    if has_buckets:
        batches = [batches[i] for i in generator.permutation(count)]
    return [indices[batch] for batch in batches]


def _cut(order: np.ndarray, count: int, is_labelled: np.ndarray | None) -> list[np.ndarray]:
    """Cut an order of documents into `count` batches of like sizes, the labelled ones evenly."""
    if is_labelled is None or is_labelled.all() or not is_labelled.any():
        return np.array_split(order, count)
    labelled, others = order[is_labelled[order]], order[~is_labelled[order]]
    parts = np.array_split(labelled, count)
    # The first batches are those of one document, and of one labelled document, more: both counts fit.
    sizes = [len(batch) for batch in np.array_split(order, count)]
    ends = np.cumsum([size - len(part) for size, part in zip(sizes, parts, strict=True)])[:-1]
    return [np.concatenate(pair) for pair in zip(parts, np.split(others, ends), strict=True)]


def documents_of_rank(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return the documents of a global batch that one rank computes.

    Ranks differ by at most one document, and have none where the batch has fewer documents than ranks.
    """
    return np.array_split(batch, world_size)[rank]


def eval_batches(count: int, lengths: np.ndarray, budget: int = SEGMENT_BUDGET) -> Iterator[np.ndarray]:
    """Yield all documents 0 to count - 1, longest first, in batches of at most `budget` padded segments.

    A document of more segments than that is a batch of its own. `lengths` are segments, int64 [count].
    """
    # Longest first: documents of a batch pad each other little, and memory runs out at once if at all.
    order = np.argsort(-lengths, kind="stable")[:count]
    start = 0
    while start < len(order):
        size = max(budget // max(int(lengths[order[start]]), 1), 1)
        yield order[start : start + size]
        start += size
