"""The assembled network: three document embeddings and the logits of each task.

`Network` is what one seed trains; `Hilbert` holds the networks of all seeds with their temperature, and is
what `from_pretrained` gives a user. Both read a `Batch` and return an `Output`.

Axes: B documents, S audio segments, U text segments, D model width, H hops, K outputs of a task.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hilbert_ray import __version__, losses
from hilbert_ray.batch import Batch, Features, Ragged, collate, eval_batches
from hilbert_ray.checkpoint import write_folder
from hilbert_ray.config import MODALITIES, Config, Modality, ModelConfig, from_dict, to_dict
from hilbert_ray.fusion import CrossModalFusion, SelfAttentivePool, time_embedding
from hilbert_ray.moe import Experts, OrdinalThresholds

SCHEMA = 1


class ModelError(ValueError):
    """A published folder that cannot be loaded, or features that do not fit the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What the network returns for B documents.

    audio, text, joint: embeddings, float [B, D]. logits: for each task float [B, K], the experts' plus those
    of the single-modality heads; audio_logits, text_logits: of those heads alone (empty without them).
    audio_present,
    text_present: bool [B], False where the modality is absent or was dropped in training. audio_attention [B,
    H, S] and text_attention [B, H, U]: weights of the pools that make a and t, summing to 1 over valid
    segments.
    router_logits: float [B, tasks, experts], None without experts. scale: the contrastive scale s.
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

    def fit(self, values: np.ndarray) -> None:
        """Take the statistics of `values`, float32 [rows, dim]."""
        mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
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
        self.wide_dropout = nn.Dropout(config.wide_dropout)
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
            nn.Linear(2 * dim, dim), nn.GELU(), nn.Dropout(model.dropout), nn.Linear(dim, dim)
        )
        self.joint_norm = nn.LayerNorm(dim)
        widths = {name: losses.num_outputs(task) for name, task in tasks.items()}
        self.head_dropout = nn.Dropout(model.dropout)
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

    def fit_statistics(self, features: Features, indices: np.ndarray) -> None:
        """Take feature and label statistics from the documents at `indices`, the training part."""
        for modality in MODALITIES:
            part: Ragged | None = getattr(features, modality)
            if part is None:
                continue
            stream: Stream = getattr(self, modality)
            present = indices[part.lengths[indices] > 0]
            if len(present):
                stream.scale.fit(part.values[part.rows(present)])
                stream.wide_scale.fit(part.wide[present])
        for name, task in self.tasks.items():
            targets = torch.from_numpy(features.targets[name][indices])
            self.labels[name].copy_(losses.label_statistics(task, targets))

    def forward(self, batch: Batch) -> Output:
        """Return embeddings and logits; in training, segments and modalities are dropped."""
        device = self.logit_scale.device
        inputs, present = {}, {}
        for modality in MODALITIES:
            values, mask, position, wide = (
                getattr(batch, modality), getattr(batch, f"{modality}_mask"),
                getattr(batch, f"{modality}_position"), getattr(batch, f"{modality}_wide"),
            )  # fmt: skip
            if values is None:  # no encoder: absent from every document
                dim = self.dims.get(modality, 1)
                values = torch.zeros(len(batch), 1, dim, device=device)
                mask = torch.zeros(len(batch), 1, dtype=torch.bool, device=device)
                position, wide = (
                    torch.zeros(len(batch), 1, device=device),
                    torch.zeros(len(batch), 2 * dim, device=device),
                )
            inputs[modality] = (values, mask, position, wide)
            present[modality] = mask.any(1)
        if self.training and self.modality_dropout > 0:
            self._drop_modalities(present)

        hidden, masks, embedding, attention, wides = {}, {}, {}, {}, {}
        for modality in MODALITIES:
            stream: Stream = getattr(self, modality)
            values, mask, position, wide = inputs[modality]
            hidden[modality], masks[modality] = stream.segments(values, mask, position, present[modality])
            pooled, attention[modality] = stream.pool(hidden[modality], masks[modality])
            wides[modality] = stream.wide_path(wide, present[modality])
            embedding[modality] = stream.embedding_norm(pooled + wides[modality])
        fused = self.fusion(hidden["audio"], hidden["text"], masks["audio"], masks["text"])
        pools = [
            self.audio_pool(fused.audio, masks["audio"])[0],
            self.text_pool(fused.text, masks["text"])[0],
        ]
        joint = self.joint_norm(self.join(torch.cat(pools, 1)) + wides["audio"] + wides["text"])

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
            scale=self.logit_scale.exp().clamp(max=100.0),
        )  # fmt: skip

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model says of N documents, in their order, as NumPy.

    audio, text, joint: float32 [N, M D] for M networks: the L2-normalised embeddings side by side divided by
    sqrt(M), so that a dot product is the mean of the networks' cosines; a row of an absent modality is 0.
    logits and probabilities: for each task float32 [N, K]; decisions: int64 [N] (float32 for regression,
    int64 [N, K] for multilabel). audio_attention, text_attention: for each document float32 [segments], a
    mean over hops and networks, summing to 1; empty where the modality is absent.
    """

    audio: np.ndarray
    text: np.ndarray
    joint: np.ndarray
    logits: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]
    audio_attention: Sequence[np.ndarray]
    text_attention: Sequence[np.ndarray]


class Hilbert(nn.Module):
    """The trained model: the networks of all seeds, and a temperature for each task."""

    def __init__(
        self,
        networks: Sequence[Network],
        config: Config,
        temperature: Mapping[str, float],
        encoders: Mapping[str, Any],
    ) -> None:
        """Join networks that were trained on the same documents.

        Args:
            networks: one for each seed.
            config: the resolved settings they were trained with.
            temperature: divides the logits of each task; 1 where none was fitted.
            encoders: description of the encoder of each modality, as the store holds it; `predict` refuses
                others.
        """
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.config, self.temperature, self.encoders = config, dict(temperature), dict(encoders)

    @property
    def dims(self) -> dict[Modality, int]:
        """Width of the features that each modality's encoder must give."""
        return self._members()[0].dims

    @property
    def labels(self) -> dict[str, Tensor]:
        """Each task's `losses.label_statistics` of the training part."""
        return self._members()[0].labels

    def _members(self) -> list[Network]:
        return [network for network in self.networks if isinstance(network, Network)]

    def forward(self, batch: Batch) -> Output:
        """Return the networks' mean logits and their embeddings side by side, as `Prediction` describes."""
        outputs: list[Output] = [network(batch) for network in self._members()]
        first = outputs[0]

        def side_by_side(name: str) -> Tensor:
            parts = [F.normalize(getattr(output, name), dim=1) for output in outputs]
            return torch.cat(parts, 1) / math.sqrt(len(parts))

        def mean(name: str) -> dict[str, Tensor]:
            return {
                task: torch.stack([getattr(o, name)[task] for o in outputs]).mean(0)
                for task in getattr(first, name)
            }

        return replace(
            first,
            audio=side_by_side("audio") * first.audio_present[:, None],
            text=side_by_side("text") * first.text_present[:, None],
            joint=side_by_side("joint"),
            logits=mean("logits"), audio_logits=mean("audio_logits"), text_logits=mean("text_logits"),
            audio_attention=torch.stack([o.audio_attention for o in outputs]).mean(0),
            text_attention=torch.stack([o.text_attention for o in outputs]).mean(0),
        )  # fmt: skip

    @torch.no_grad()
    def predict(self, features: Features) -> Prediction:
        """Embed and classify every document of `features`; dropout is off.

        Raises:
            ModelError: when a modality's features have another width than those the model was trained on.
        """
        for modality, dim in self.dims.items():
            part = getattr(features, modality)
            if part is not None and part.dim != dim:
                raise ModelError(
                    f"the {modality} features have width {part.dim}, but the model was trained on width "
                    f"{dim}: embed with its encoder "
                    f"({self.encoders.get(modality, {}).get('name', 'unknown')})"
                )
        device = self._members()[0].logit_scale.device
        self.eval()
        order, parts = [], []
        attention: dict[Modality, dict[int, np.ndarray]] = {"audio": {}, "text": {}}
        for indices in eval_batches(len(features), features.lengths):
            output: Output = self(collate(features, indices).to(device))
            order.append(indices)
            parts.append(output)
            for modality, weights in attention.items():
                held: Ragged | None = getattr(features, modality)
                shown = getattr(output, f"{modality}_attention").mean(1).cpu().numpy()
                lengths = np.zeros(len(features), np.int64) if held is None else held.lengths
                weights.update({int(i): row[: lengths[i]] for i, row in zip(indices, shown, strict=True)})
        back = np.argsort(np.concatenate(order))

        def joined(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors)).cpu()[back]

        logits = {task: joined([part.logits[task] for part in parts]) for task in self.config.tasks}
        probabilities, decisions = {}, {}
        for name, task in self.config.tasks.items():
            statistics, temperature = self.labels[name].cpu(), self.temperature.get(name, 1.0)
            probabilities[name] = losses.probabilities(task, logits[name], statistics, temperature).numpy()
            decisions[name] = losses.decide(task, logits[name], statistics).numpy()
        return Prediction(
            audio=joined([part.audio for part in parts]).numpy(),
            text=joined([part.text for part in parts]).numpy(),
            joint=joined([part.joint for part in parts]).numpy(),
            logits={name: value.numpy() for name, value in logits.items()},
            probabilities=probabilities,
            decisions=decisions,
            audio_attention=[attention["audio"][i] for i in range(len(features))],
            text_attention=[attention["text"][i] for i in range(len(features))],
        )

    # Publishing

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and README.md (the model card), all or nothing."""
        values = {
            "schema": SCHEMA,
            "version": __version__,
            "config": to_dict(self.config),
            "dims": self.dims,
            "networks": len(self.networks),
            "temperature": self.temperature,
            "encoders": self.encoders,
        }
        files = {"config.json": json.dumps(values, indent=1), "README.md": self._card()}
        write_folder(Path(folder), self.state_dict(), files)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Hilbert":
        """Load a published folder. Nothing in it is executed: weights are safetensors, the rest is JSON.

        Raises:
            ModelError: when a file is absent or damaged, or of a schema that this version cannot read.
        """
        folder = Path(folder)
        try:
            values = json.loads((folder / "config.json").read_text())
            tensors = load_file(folder / "model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"model folder {folder} cannot be read: {error}; it must hold config.json and "
                "model.safetensors as `hilbert-ray train` publishes them"
            ) from error
        if values.get("schema") != SCHEMA:
            raise ModelError(
                f"model folder {folder} has schema {values.get('schema')!r}; this version reads schema "
                f"{SCHEMA}: use hilbert-ray {values.get('version')}, which wrote it"
            )
        config = from_dict(Config, values["config"])
        networks = [Network(config, values["dims"]) for _ in range(values["networks"])]
        model = cls(networks, config, values["temperature"], values["encoders"])
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ModelError(
                f"model.safetensors of {folder} does not fit its config.json: {error}"
            ) from error
        return model.eval()

    def _card(self) -> str:
        tasks = "\n".join(
            f"- `{name}`: {task.kind}" + (f" ({', '.join(task.classes)})" if task.classes else "")
            for name, task in self.config.tasks.items()
        )
        encoders = "\n".join(
            f"- {m}: `{d.get('name')}`, fingerprint `{d.get('fingerprint')}`"
            for m, d in self.encoders.items()
        )
        return CARD.format(tasks=tasks, encoders=encoders, networks=len(self.networks), version=__version__)


CARD = """# A HILBERT model

Document embeddings and predictions from long recordings with transcripts, trained with hilbert_ray {version}.
The mean of {networks} networks; probabilities are calibrated by one temperature a task, fitted out of fold.

## Tasks

{tasks}

## Encoders

The features must come from these encoders; `hilbert-ray predict` refuses others.

{encoders}

## Use

    hilbert-ray predict --model THIS_FOLDER --manifest manifest.jsonl --out predictions.parquet

## Limits

Predictions hold for recordings like those of the training manifest: same setting, language and way of
recording. How well they do on speakers never heard in training stands in the run's report, as cross-validated
scores with intervals. Do not use them as the only ground for a decision about a person.
"""
