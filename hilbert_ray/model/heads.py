"""How much the heads of the network count: weights for each task, a temperature, and offsets.

Axes: N documents, K outputs of a task, W scores of a head (K, or 1 for an ordinal task).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from msgspec import Meta
from torch import Tensor

from hilbert_ray.config import check_fields

HEADS = ("experts", "audio", "text")
"""In the order of `Output.scores`."""
BOTH = "both"
"""A document with audio and text; one with a single modality goes by that modality's name."""
FEW_CASES = 10
"""Held-out cases of a task's rarest class below which fitted weights are called rough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadWeights:
    """What a task's evidence is made of, for documents with the same modalities.

    experts, audio, text: weight of each head, at least 0; those of the heads in use average 1. temperature:
    what the weighted sum is divided by. offsets: what is then added, one number for each logit or one for
    all; none where nothing was fitted, and for regression. labels: held-out labelled documents that they were
    fitted on. cases: those of the rarest class among them (labels, for regression). Weights of 1 from 0
    labels: nothing was fitted, all heads count alike.
    """

    experts: Annotated[float, Meta(ge=0, le=len(HEADS))] = 1.0
    audio: Annotated[float, Meta(ge=0, le=len(HEADS))] = 1.0
    text: Annotated[float, Meta(ge=0, le=len(HEADS))] = 1.0
    temperature: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    offsets: tuple[float, ...] = ()
    labels: Annotated[int, Meta(ge=0)] = 0
    cases: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "heads")

    def values(self) -> tuple[float, float, float]:
        """The weights in the order of `HEADS`."""
        return self.experts, self.audio, self.text


EVEN = HeadWeights()
"""All heads count alike, as they do in training."""


def modalities_of(
    has_audio: Bool[Tensor, " batch"], has_text: Bool[Tensor, " batch"]
) -> dict[str, Bool[Tensor, " batch"]]:
    """Return which documents have both modalities, and which have one alone."""
    return {BOTH: has_audio & has_text, "audio": has_audio & ~has_text, "text": has_text & ~has_audio}


def weigh_heads(
    evidence: Float[Tensor, "batch logits"],
    scores: Float[Tensor, "batch 3 width"],
    weights: Mapping[str, HeadWeights],
    has_audio: Bool[Tensor, " batch"],
    has_text: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch logits"]:
    """Return evidence in which the heads count as weighted, over the temperature, plus the offsets.

    Args:
        evidence: a task's logits less what they hold of the prior, all heads counting alike.
        scores: what each head adds to them.
        weights: by what a document has: `both`, `audio` or `text`. Weights of a single modality are its own
            and not those of both without the other: they hold the share that the other would have had.
        has_audio: which documents have audio.
        has_text: which documents have text.
    """
    by_head, temperature = _by_document(scores, weights, has_audio, has_text)
    # Logits are linear in the scores, thresholds of an ordinal task included: only the change is added.
    weighted = (evidence + (scores * (by_head - 1)[:, :, None]).sum(1)) / temperature
    for name, documents in modalities_of(has_audio, has_text).items():
        if offsets := weights.get(name, EVEN).offsets:
            weighted[documents] += weighted.new_tensor(offsets)
    return weighted


def _by_document(
    scores: Tensor, weights: Mapping[str, HeadWeights], has_audio: Tensor, has_text: Tensor
) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, "batch 1"]]:
    """Return the weights and the temperature of each document; even ones where nothing was fitted."""
    by_head, temperature = scores.new_ones(len(scores), len(HEADS)), scores.new_ones(len(scores), 1)
    for name, documents in modalities_of(has_audio, has_text).items():
        of_these = weights.get(name, EVEN)
        by_head[documents] = scores.new_tensor(of_these.values())
        temperature[documents] = of_these.temperature
    return by_head, temperature


def head_shares(
    scores: Float[Tensor, "batch 3 width"],
    weights: Mapping[str, HeadWeights],
    has_audio: Bool[Tensor, " batch"],
    has_text: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch 3"]:
    """Return how much each head counted for a document: its part of the weighted scores' absolute values.

    Rows sum to 1; the arguments are those of `weigh_heads`. Thresholds and priors do not count: they are the
    same for all documents.
    """
    by_head, _ = _by_document(scores, weights, has_audio, has_text)
    weighted = scores.abs().mean(2) * by_head
    total = weighted.sum(1, keepdim=True)
    # All scores may be exactly 0, with weights of 0 on the heads that are left.
    return torch.where(total > 0, weighted / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / len(HEADS))


def describe_heads(weights: Mapping[str, HeadWeights], has_classes: bool) -> str:
    """Return one sentence for the model card: weights, temperature, and on how much they rest."""
    parts = []
    for name, of_these in weights.items():
        if not of_these.labels:
            parts.append(f"{name}: not fitted, all heads count alike and probabilities are not calibrated")
            continue
        shares = ", ".join(
            f"{head} {value:.2f}" for head, value in zip(HEADS, of_these.values(), strict=True)
        )
        rough = ""
        if has_classes and of_these.cases < FEW_CASES:
            rough = f"; only {of_these.cases} of the rarest class, so take probabilities as rough"
        parts.append(
            f"{name}: {shares}, temperature {of_these.temperature:.2f}, from {of_these.labels} labelled "
            f"documents{rough}"
        )
    return "; ".join(parts) or "not fitted: all heads count alike, and probabilities are not calibrated"
