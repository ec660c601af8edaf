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
from hilbert_ray.features import BLOCK_ROWS, Batch, Features, MappedRows, ModalityBatch
from hilbert_ray.model.dropout import Dropout
from hilbert_ray.model.fusion import CrossModalFusion, SelfAttentivePool, time_embedding
from hilbert_ray.model.moe import Experts, OrdinalThresholds

MAX_SCALE = 100.0
"""Upper bound of the contrastive scale: above it the contrastive loss becomes unstable (Radford et al. 2021,
section 2.5)."""
FIRST_SCALE = 1 / 0.07
"""Contrastive scale of a new network: CLIP's temperature of 0.07 (Radford et al. 2021, section 2.5)."""
ABSENT_DEVIATION = 0.02
"""Standard deviation of a new network's token of an absent modality: small next to layer-normed segments."""
LAYER_RATE = 10.0
"""How much faster the logits of layers move than other weights: an epoch of AdamW moves each by about its
number of steps times the learning rate, too little to leave equal weights in a few hundred steps."""
CONSTANT_BELOW = 1e-6
"""A feature whose deviation is below this fraction of its mean is constant: what varies is float32 rounding,
and dividing by it would turn noise into a feature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalityOutput:
    """What the network makes of one modality of B documents, without the other modality.

    embedding: float [B, D], a or t.
    logits: for each task float [B, K], of the single-modality head; empty without these heads.
    present: bool [B], False where the modality is absent or was dropped in training.
    attention: float [B, H, segments], weights of the pool that makes the embedding, summing to 1 over valid
        segments.
    """

    embedding: Float[Tensor, "batch dim"]
    logits: Mapping[str, Tensor]
    present: Bool[Tensor, " batch"]
    attention: Float[Tensor, "batch hops segments"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What the network returns for B documents.

    audio, text: what each modality gives alone.
    joint: float [B, D], the joint embedding j.
    logits: for each task float [B, K], from the experts' scores plus those of the single-modality heads.
    scores: for each task float [B, 3, W], what the experts, the audio head and the text head add to the
        logits, 0 where a head is missing or its modality absent. W is K, or 1 for an ordinal task.
    router_logits: float [B, tasks, experts], None without experts.
    scale: s, the contrastive scale.
    """

    audio: ModalityOutput
    text: ModalityOutput
    joint: Float[Tensor, "batch dim"]
    logits: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]
    router_logits: Tensor | None
    scale: Float[Tensor, ""]

    @property
    def by_modality(self) -> dict[Modality, ModalityOutput]:
        """What each modality gives alone, audio first."""
        return {"audio": self.audio, "text": self.text}


class Standardise(nn.Module):
    """Zero mean and unit variance by statistics of the training part; constant features become 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, values: np.ndarray | MappedRows, rows: np.ndarray) -> None:
        """Take the statistics of the `rows` of `values`, float32 [n, dim], at least one."""
        # In blocks: the features may be mapped from disk, and larger than memory.
        blocks = np.array_split(rows, math.ceil(len(rows) / BLOCK_ROWS))
        # float64, and deviations from the mean in a second pass: sums over millions of float32 segments lose
        # digits, and E[x^2] - E[x]^2 cancels for features with a large offset.
        mean = sum(values[block].sum(0, dtype=np.float64) for block in blocks) / len(rows)
        variance = sum(np.square(values[block] - mean).sum(0) for block in blocks) / len(rows)
        std = np.sqrt(variance)
        varies = std > CONSTANT_BELOW * np.maximum(np.abs(mean), 1e-6)
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` standardised, same shape."""
        return (values - self.mean) * self.scale


class Layers(nn.Module):
    """The mean of an encoder's layers with weights that are learned: the weighted sum of SUPERB.

    Yang et al. 2021, "SUPERB: Speech processing universal performance benchmark", section 3. Layers are
    standardised before, or one of large numbers would outweigh the others. A single layer passes unchanged.
    """

    def __init__(self, count: int, chosen: slice) -> None:
        super().__init__()
        self.count, self.chosen = count, chosen
        size = len(range(count)[chosen])
        self.logits = nn.Parameter(torch.zeros(size)) if size > 1 else None

    @property
    def weights(self) -> Float[Tensor, " layers"] | None:
        """The weight of each chosen layer, which sum to 1; None for a single one."""
        return None if self.logits is None else (LAYER_RATE * self.logits).softmax(0)

    def forward(self, values: Tensor) -> Tensor:
        """Return the weighted mean of layers: [..., layers * dim] -> [..., dim]."""
        if self.count == 1:
            return values
        # Widths in full: a rank may have no document, and then no width can be inferred.
        width = values.shape[-1] // self.count
        by_layer = values.reshape(*values.shape[:-1], self.count, width)[..., self.chosen, :]
        weights = self.weights
        return by_layer[..., 0, :] if weights is None else torch.einsum("...ld,l->...d", by_layer, weights)


class Stream(nn.Module):
    """One modality up to its document embedding, which never sees the other modality.

    Frozen features are standardised, their layers averaged where there are several, projected, normalised and
    given a time embedding; the pool of this stream (before fusion) and the wide path (mean and standard
    deviation of the features) make the embedding.
    """

    def __init__(self, feature_dim: int, layers: Layers, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.segment_dropout = config.segment_dropout
        self.scale = Standardise(feature_dim)
        self.layers, layer_dim = layers, feature_dim // layers.count
        self.project = nn.Linear(layer_dim, dim)
        self.norm = nn.LayerNorm(dim)
        # Stands for the whole modality where it is absent: the fusion and the pools always have one segment.
        self.absent = nn.Parameter(torch.randn(dim) * ABSENT_DEVIATION)
        self.pool = SelfAttentivePool(dim, config.hops)
        # Registered even without the wide path: buffers are part of the published format.
        self.wide_scale = Standardise(2 * feature_dim)
        self.wide = nn.Linear(2 * layer_dim, dim, bias=False) if config.wide else None
        self.wide_dropout = Dropout(config.wide_dropout)
        self.embedding_norm = nn.LayerNorm(dim)

    def segments(
        self, values: Tensor, mask: Tensor, position: Tensor, present: Tensor
    ) -> tuple[Float[Tensor, "batch segments dim"], Bool[Tensor, "batch segments"]]:
        """Return the projected segments and their mask; an absent modality becomes one learned token.

        Args:
            values: frozen features [B, S, feature_dim].
            mask: bool [B, S], True where a segment is real.
            position: middle of each segment in [0, 1], [B, S].
            present: bool [B]; False also for a modality that has segments but was dropped.
        """
        # Time is added after the norm: features of any scale would otherwise outweigh it.
        hidden = self.norm(self.project(self.layers(self.scale(values))))
        hidden = hidden + time_embedding(position, hidden.shape[-1]).to(hidden.dtype)
        if self.training and self.segment_dropout > 0:
            mask = _drop_segments(mask, self.segment_dropout)
        # The token takes the first place of its row. Selected with `where`, so that what padding or a dropped
        # modality holds there never reaches a gradient.
        first = torch.zeros_like(mask)
        first[:, 0] = True
        token = first & ~present[:, None]
        hidden = torch.where(token[..., None], self.absent.to(hidden.dtype), hidden)
        return hidden, (mask & present[:, None]) | token

    def wide_path(self, wide: Tensor, present: Tensor) -> Tensor | float:
        """Return what the wide path adds to the embedding, float [B, D]; zeros for an absent modality."""
        if self.wide is None:
            return 0.0
        # Means of all layers come first, then deviations: each of the two is averaged over layers.
        statistics = self.layers(self.wide_scale(wide).reshape(len(wide), 2, wide.shape[1] // 2)).flatten(1)
        return self.wide(self.wide_dropout(statistics)) * present[:, None]  # type: ignore[no-any-return]


def _drop_segments(mask: Tensor, probability: float) -> Tensor:
    """Hide each valid segment with this probability; a document that would lose all keeps all."""
    shown = mask & (torch.rand(mask.shape, device=mask.device) >= probability)
    return torch.where(shown.any(1, keepdim=True), shown, mask)


class Network(nn.Module):
    """HILBERT for one seed: streams, fusion, joint embedding, experts and single-modality heads."""

    def __init__(
        self, config: Config, dims: Mapping[Modality, int], layers: Mapping[Modality, int] | None = None
    ) -> None:
        """Make the network with torch's current random state.

        Args:
            config: settings; `config.tasks` must name every task.
            dims: width of the features of each modality; one that is missing is absent from every document.
            layers: how many layers of its encoder a feature holds side by side, where more than one.

        Raises:
            ConfigError: when the settings choose a layer that the features do not have.
        """
        super().__init__()
        # Names of modules and buffers are the keys of model.safetensors, and their order is that in which
        # first weights are drawn: changing either breaks published models or the same seed's numbers.
        model, tasks = config.model, config.tasks
        dim = model.dim
        self.tasks, self.dims, self.modality_dropout = tasks, dict(dims), model.modality_dropout
        self.layers = {modality: count for modality, count in (layers or {}).items() if count > 1}
        count = {modality: self.layers.get(modality, 1) for modality in MODALITIES}
        by_modality = {m: Layers(count[m], model.layers_of(m, count[m])) for m in MODALITIES}
        self.audio = Stream(dims.get("audio", 1), by_modality["audio"], model)
        self.text = Stream(dims.get("text", 1), by_modality["text"], model)
        self.fusion = CrossModalFusion(dim, model.layers, model.heads, model.dropout)
        self.audio_pool = SelfAttentivePool(dim, model.hops)
        self.text_pool = SelfAttentivePool(dim, model.hops)
        self.join = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.GELU(), Dropout(model.dropout), nn.Linear(dim, dim)
        )
        self.joint_norm = nn.LayerNorm(dim)
        # A head gives one score for an ordinal task, and `thresholds` turns it into K - 1 logits.
        widths = {name: losses.num_outputs(task) for name, task in tasks.items()}
        self.head_dropout = Dropout(model.dropout)
        self.experts = Experts(3 * dim, widths, config.moe, model.dropout)
        self.audio_heads = _single_modality_heads(widths, model)
        self.text_heads = _single_modality_heads(widths, model)
        self.thresholds = nn.ModuleList(
            OrdinalThresholds(len(task.classes)) if task.kind == "ordinal" else nn.Identity()
            for task in tasks.values()
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        # Numbered, since task names are free text and names of buffers must not hold dots.
        for i, task in enumerate(tasks.values()):
            self.register_buffer(f"labels_{i}", torch.zeros(losses.statistics_shape(task)))

    @property
    def streams(self) -> dict[Modality, Stream]:
        """The stream of each modality, audio first: the order in which dropout is drawn."""
        return {"audio": self.audio, "text": self.text}

    @property
    def labels(self) -> dict[str, Tensor]:
        """Each task's `losses.label_statistics` of the training part."""
        return {task: getattr(self, f"labels_{i}") for i, task in enumerate(self.tasks)}

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The contrastive scale s = exp(logit_scale), at most `MAX_SCALE`."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Put the logit of the scale back below its bound; to be called after each step."""
        # Beyond the bound `clamp` has no gradient, and a scale that a step carried there would never return.
        # A little below it, since exp(log(100)) in floating point is above 100.
        self.logit_scale.clamp_(max=math.log(MAX_SCALE) - 1e-6)

    def fit_statistics(self, features: Features, indices: np.ndarray) -> None:
        """Take feature and label statistics from the documents at `indices`, the training part.

        Features count by segment, the wide path's by document; documents without the modality do not count.
        """
        for modality, ragged in features.by_modality.items():
            stream = self.streams[modality]
            # Absent documents have zeros as wide features, which would pull the mean.
            present = indices[ragged.lengths[indices] > 0]
            if len(present):
                stream.scale.fit(ragged.values, ragged.rows(present))
                stream.wide_scale.fit(ragged.wide, present)
        for name, task in self.tasks.items():
            targets = torch.from_numpy(features.targets[name][indices])
            self.labels[name].copy_(losses.label_statistics(task, targets))

    def forward(self, batch: Batch) -> Output:
        """Return embeddings and logits; in training, segments and modalities are dropped."""
        inputs = {modality: self._inputs(batch, modality) for modality in MODALITIES}
        # Presence is per document and comes from the data; training then hides one modality of some
        # documents, so that each embedding and the joint one also work alone.
        present = {modality: padded.mask.any(1) for modality, padded in inputs.items()}
        if self.training and self.modality_dropout > 0:
            present = self._drop_modalities(present)

        # Each modality alone. The embedding is pooled before fusion, or the contrastive loss could be met by
        # copying the other modality through the attention.
        hidden, masks, embedding, attention, wide = {}, {}, {}, {}, {}
        for modality, stream in self.streams.items():
            padded, is_present = inputs[modality], present[modality]
            hidden[modality], masks[modality] = stream.segments(
                padded.values, padded.mask, padded.position, is_present
            )
            pooled, attention[modality] = stream.pool(hidden[modality], masks[modality])
            wide[modality] = stream.wide_path(padded.wide, is_present)
            embedding[modality] = stream.embedding_norm(pooled + wide[modality])

        # Both together. The wide paths join again after `join`, as a residual around fusion and pooling.
        fused = self.fusion(hidden["audio"], hidden["text"], masks["audio"], masks["text"])
        pooled_audio, _ = self.audio_pool(fused.audio, masks["audio"])
        pooled_text, _ = self.text_pool(fused.text, masks["text"])
        joined = self.join(torch.cat([pooled_audio, pooled_text], 1))
        joint = self.joint_norm(joined + wide["audio"] + wide["text"])

        # Scores: the experts' see all three embeddings; each single-modality head adds its own, so that the
        # experts learn what neither modality tells alone. An absent modality's head adds nothing.
        document = torch.cat([embedding["audio"], embedding["text"], joint], 1)
        by_expert, router_logits = self.experts(self.head_dropout(document))
        unimodal = {modality: self._unimodal_scores(modality, embedding[modality]) for modality in MODALITIES}
        scores = {task: _by_head(score, task, unimodal, present) for task, score in by_expert.items()}
        logits = self._logits({task: by_head.sum(1) for task, by_head in scores.items()})
        audio, text = (
            ModalityOutput(
                embedding=embedding[modality],
                logits=self._logits(unimodal[modality]),
                present=present[modality],
                attention=attention[modality],
            )
            for modality in MODALITIES
        )
        return Output(
            audio=audio, text=text, joint=joint, logits=logits, scores=scores, router_logits=router_logits,
            scale=self.scale,
        )  # fmt: skip

    def _inputs(self, batch: Batch, modality: Modality) -> ModalityBatch:
        """Return one modality of the batch in the precision of the weights.

        A modality without an encoder is one masked segment of zeros for each document, which
        `Stream.segments` turns into the token of an absent modality.
        """
        # Any parameter would do: it tells the dtype (float64 in tests) and the device of the weights.
        like = self.logit_scale
        padded = batch.by_modality.get(modality)
        if padded is not None:
            return ModalityBatch(
                values=padded.values.to(like.dtype),
                mask=padded.mask,
                position=padded.position.to(like.dtype),
                wide=padded.wide.to(like.dtype),
            )
        B, dim = len(batch), self.dims.get(modality, 1)
        return ModalityBatch(
            values=like.new_zeros(B, 1, dim),
            mask=torch.zeros(B, 1, dtype=torch.bool, device=like.device),
            position=like.new_zeros(B, 1),
            wide=like.new_zeros(B, 2 * dim),
        )

    def _unimodal_scores(self, modality: Modality, embedding: Tensor) -> dict[str, Tensor]:
        """Return the scores of a single-modality head for each task; none without these heads."""
        heads = self.audio_heads if modality == "audio" else self.text_heads
        if heads is None:
            return {}
        dropped = self.head_dropout(embedding)
        return {task: head(dropped) for task, head in zip(self.tasks, heads, strict=True)}

    def _logits(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn ordinal scores into cumulative logits; other tasks' scores are their logits."""
        thresholds = dict(zip(self.tasks, self.thresholds, strict=True))
        return {task: thresholds[task](score) for task, score in scores.items()}

    def _drop_modalities(self, present: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Drop one modality, either alike, of a random share of the documents that have both."""
        audio, text = present["audio"], present["text"]
        # One draw decides both, so that no document loses both modalities.
        draw = torch.rand(len(audio), device=audio.device)
        both, probability = audio & text, self.modality_dropout
        return {
            "audio": audio & ~(both & (draw < probability / 2)),
            "text": text & ~(both & (draw >= probability / 2) & (draw < probability)),
        }


def _by_head(
    by_expert: Tensor,
    task: str,
    unimodal: Mapping[Modality, Mapping[str, Tensor]],
    present: Mapping[Modality, Tensor],
) -> Float[Tensor, "batch 3 width"]:
    """Return a task's scores by head: experts, audio, text."""
    absent = torch.zeros_like(by_expert)
    heads = [
        unimodal[modality][task] * present[modality][:, None] if unimodal[modality] else absent
        for modality in MODALITIES
    ]
    return torch.stack([by_expert, *heads], dim=1)


def _single_modality_heads(widths: Mapping[str, int], model: ModelConfig) -> nn.ModuleList | None:
    """Return a linear head for each task, None where the settings leave them out."""
    if not model.unimodal_heads:
        return None
    return nn.ModuleList(nn.Linear(model.dim, width) for width in widths.values())
