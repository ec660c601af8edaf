"""HILBERT for one seed: streams of segments, fusion, the joint embedding, experts and single-modality heads.

Axes: B documents, S audio segments, U text segments, D model width, H hops, K outputs of a task.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, Modality, ModelConfig
from hilbert_ray.features import BLOCK_ROWS, Batch, Features, MappedRows, Ragged
from hilbert_ray.model.dropout import Dropout
from hilbert_ray.model.fusion import CrossModalFusion, SelfAttentivePool, time_embedding
from hilbert_ray.model.moe import Experts, OrdinalThresholds


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What the network returns for B documents.

    audio, text, joint: embeddings a, t and j, float [B, D].
    logits: for each task float [B, K], the experts' plus those of the single-modality heads; audio_logits,
    text_logits: of those heads alone (empty without them).
    audio_present, text_present: bool [B], False where the modality is absent or was dropped in training.
    audio_attention [B, H, S], text_attention [B, H, U]: weights of the pools that make a and t, summing to 1
    over valid segments.
    router_logits: float [B, tasks, experts], None without experts.
    scale: s, the contrastive scale.
    """

    audio: Float[Tensor, "batch dim"]
    text: Float[Tensor, "batch dim"]
    joint: Float[Tensor, "batch dim"]
    logits: Mapping[str, Tensor]
    audio_logits: Mapping[str, Tensor]
    text_logits: Mapping[str, Tensor]
    audio_present: Bool[Tensor, " batch"]
    text_present: Bool[Tensor, " batch"]
    audio_attention: Float[Tensor, "batch hops audio_segments"]
    text_attention: Float[Tensor, "batch hops text_segments"]
    router_logits: Tensor | None
    scale: Float[Tensor, ""]


class Standardise(nn.Module):
    """Zero mean and unit variance by statistics of the training part; constant columns become 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, values: np.ndarray | MappedRows, rows: np.ndarray) -> None:
        """Take the statistics of some rows of `values`, float32 [n, dim]; never all of them are copied."""
        blocks = np.array_split(rows, math.ceil(len(rows) / BLOCK_ROWS))
        mean = sum(values[block].sum(0, dtype=np.float64) for block in blocks) / len(rows)
        variance = sum(np.square(values[block] - mean).sum(0) for block in blocks) / len(rows)
        std = np.sqrt(variance)
        known = std > 1e-6 * np.maximum(np.abs(mean), 1e-6)
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.where(known, 1 / np.where(known, std, 1.0), 0.0)))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` standardised, same shape."""
        return (values - self.mean) * self.scale


class Stream(nn.Module):
    """One modality up to its document embedding, which never sees the other modality.

    Frozen features are standardised, projected, normalised and given a time embedding; the pool of this
    stream (before fusion) and the wide path (mean and standard deviation of the features) make the embedding.
    """

    def __init__(self, feature_dim: int, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.segment_dropout = config.segment_dropout
        self.scale = Standardise(feature_dim)
        self.project = nn.Linear(feature_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.absent = nn.Parameter(torch.randn(dim) * 0.02)
        self.pool = SelfAttentivePool(dim, config.hops)
        self.wide_scale = Standardise(2 * feature_dim)
        self.wide = nn.Linear(2 * feature_dim, dim, bias=False) if config.wide else None
        self.wide_dropout = Dropout(config.wide_dropout)
        self.embedding_norm = nn.LayerNorm(dim)

    def segments(
        self, values: Tensor, mask: Tensor, position: Tensor, present: Tensor
    ) -> tuple[Float[Tensor, "batch segments dim"], Bool[Tensor, "batch segments"]]:
        """Return the projected segments and their mask; an absent modality becomes one learned token."""
        hidden = self.norm(self.project(self.scale(values)))
        hidden = hidden + time_embedding(position, hidden.shape[-1]).to(hidden.dtype)
        if self.training and self.segment_dropout > 0:
            mask = _drop_segments(mask, self.segment_dropout)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        token = first & ~present[:, None]
        hidden = torch.where(token[..., None], self.absent.to(hidden.dtype), hidden)
        return hidden, (mask & present[:, None]) | token

    def wide_path(self, wide: Tensor, present: Tensor) -> Tensor | float:
        """Return the wide path's share of the embedding, float [B, D]; zeros where the modality is absent."""
        if self.wide is None:
            return 0.0
        return self.wide(self.wide_dropout(self.wide_scale(wide))) * present[:, None]  # type: ignore[no-any-return]


def _drop_segments(mask: Tensor, share: float) -> Tensor:
    """Hide a random share of the valid segments, never all of a document's."""
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= share)
    return torch.where(kept.any(1, keepdim=True), kept, mask)


class Network(nn.Module):
    """HILBERT for one seed: streams, fusion, joint embedding, experts and single-modality heads."""

    def __init__(self, config: Config, dims: Mapping[Modality, int]) -> None:
        """Make the network with torch's current random state.

        Args:
            config: settings; `config.tasks` must name every task.
            dims: width of the features of each modality; one that is missing is absent from every document.
        """
        super().__init__()
        model, tasks = config.model, config.tasks
        dim = model.dim
        self.tasks, self.dims, self.modality_dropout = tasks, dict(dims), model.modality_dropout
        self.audio = Stream(dims.get("audio", 1), model)
        self.text = Stream(dims.get("text", 1), model)
        self.fusion = CrossModalFusion(dim, model.layers, model.heads, model.dropout)
        self.audio_pool = SelfAttentivePool(dim, model.hops)
        self.text_pool = SelfAttentivePool(dim, model.hops)
        self.join = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.GELU(), Dropout(model.dropout), nn.Linear(dim, dim)
        )
        self.joint_norm = nn.LayerNorm(dim)
        widths = {name: losses.num_outputs(task) for name, task in tasks.items()}
        self.head_dropout = Dropout(model.dropout)
        self.experts = Experts(3 * dim, widths, config.moe, model.dropout)
        self.audio_heads = self._heads(widths, model)
        self.text_heads = self._heads(widths, model)
        self.thresholds = nn.ModuleList(
            OrdinalThresholds(len(task.classes)) if task.kind == "ordinal" else nn.Identity()
            for task in tasks.values()
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for i, task in enumerate(tasks.values()):
            self.register_buffer(f"labels_{i}", torch.zeros(losses.statistics_shape(task)))

    @staticmethod
    def _heads(widths: Mapping[str, int], model: ModelConfig) -> nn.ModuleList | None:
        return (
            nn.ModuleList(nn.Linear(model.dim, w) for w in widths.values()) if model.unimodal_heads else None
        )

    @property
    def labels(self) -> dict[str, Tensor]:
        """Each task's `losses.label_statistics` of the training part."""
        return {task: getattr(self, f"labels_{i}") for i, task in enumerate(self.tasks)}

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The contrastive scale s = exp(logit_scale), at most 100."""
        return self.logit_scale.exp().clamp(max=100.0)

    def fit_statistics(self, features: Features, indices: np.ndarray) -> None:
        """Take feature and label statistics from the documents at `indices`, the training part."""
        for modality in MODALITIES:
            part: Ragged | None = getattr(features, modality)
            if part is None:
                continue
            stream: Stream = getattr(self, modality)
            present = indices[part.lengths[indices] > 0]
            if len(present):
                stream.scale.fit(part.values, part.rows(present))
                stream.wide_scale.fit(part.wide, present)
        for name, task in self.tasks.items():
            targets = torch.from_numpy(features.targets[name][indices])
            self.labels[name].copy_(losses.label_statistics(task, targets))

    def forward(self, batch: Batch) -> Output:
        """Return embeddings and logits; in training, segments and modalities are dropped."""
        inputs = {modality: self._inputs(batch, modality) for modality in MODALITIES}
        present = {modality: mask.any(1) for modality, (_, mask, _, _) in inputs.items()}
        if self.training and self.modality_dropout > 0:
            self._drop_modalities(present)

        hidden, masks, embedding, attention, wides = {}, {}, {}, {}, {}
        for modality, (values, mask, position, wide) in inputs.items():
            stream: Stream = getattr(self, modality)
            hidden[modality], masks[modality] = stream.segments(values, mask, position, present[modality])
            pooled, attention[modality] = stream.pool(hidden[modality], masks[modality])
            wides[modality] = stream.wide_path(wide, present[modality])
            embedding[modality] = stream.embedding_norm(pooled + wides[modality])
        fused = self.fusion(hidden["audio"], hidden["text"], masks["audio"], masks["text"])
        pooled_audio, _ = self.audio_pool(fused.audio, masks["audio"])
        pooled_text, _ = self.text_pool(fused.text, masks["text"])
        joined = self.join(torch.cat([pooled_audio, pooled_text], 1))
        joint = self.joint_norm(joined + wides["audio"] + wides["text"])

        features = torch.cat([embedding["audio"], embedding["text"], joint], 1)
        scores, router_logits = self.experts(self.head_dropout(features))
        unimodal = {m: self._unimodal(m, embedding[m]) for m in MODALITIES}
        for m in MODALITIES:
            for task, score in unimodal[m].items():
                scores[task] = scores[task] + score * present[m][:, None]
        return Output(
            audio=embedding["audio"], text=embedding["text"], joint=joint,
            logits=self._finish(scores), audio_logits=self._finish(unimodal["audio"]),
            text_logits=self._finish(unimodal["text"]),
            audio_present=present["audio"], text_present=present["text"],
            audio_attention=attention["audio"], text_attention=attention["text"], router_logits=router_logits,
            scale=self.scale,
        )  # fmt: skip

    def _inputs(self, batch: Batch, modality: Modality) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return values, mask, position and wide of one modality in the precision of the weights.

        Nothing is present where the modality has no encoder.
        """
        values, mask, position, wide = (
            getattr(batch, f"{modality}{part}") for part in ("", "_mask", "_position", "_wide")
        )
        like = self.logit_scale
        if values is not None:
            return values.to(like.dtype), mask, position.to(like.dtype), wide.to(like.dtype)
        B, dim = len(batch), self.dims.get(modality, 1)
        nothing = torch.zeros(B, 1, dtype=torch.bool, device=like.device)
        return like.new_zeros(B, 1, dim), nothing, like.new_zeros(B, 1), like.new_zeros(B, 2 * dim)

    def _unimodal(self, modality: Modality, embedding: Tensor) -> dict[str, Tensor]:
        heads = getattr(self, f"{modality}_heads")
        if heads is None:
            return {}
        dropped = self.head_dropout(embedding)
        return {task: head(dropped) for task, head in zip(self.tasks, heads, strict=True)}

    def _finish(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn ordinal scores into cumulative logits; other tasks' scores are their logits."""
        named = dict(zip(self.tasks, self.thresholds, strict=True))
        return {name: named[name](score) for name, score in scores.items()}

    def _drop_modalities(self, present: dict[Modality, Tensor]) -> None:
        """Drop either modality of a random share of the documents that have both."""
        draw = torch.rand(len(present["audio"]), device=present["audio"].device)
        both = present["audio"] & present["text"]
        share = self.modality_dropout
        present["audio"] = present["audio"] & ~(both & (draw < share / 2))
        present["text"] = present["text"] & ~(both & (draw >= share / 2) & (draw < share))
