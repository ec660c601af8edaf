"""The trained model that a user holds: networks of all seeds, their predictions, and the published folder.

Axes: N documents, M networks, D model width, K outputs of a task.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, ConfigError, Modality, from_dict, to_dict
from hilbert_ray.errors import HilbertError
from hilbert_ray.features import Batch, Features, collate, eval_batches
from hilbert_ray.model.heads import HeadWeights, describe_heads, head_shares, weigh_heads
from hilbert_ray.model.network import ModalityOutput, Network, Output
from hilbert_ray.storage import TensorFolderError, read_tensor_folder, write_tensor_folder
from hilbert_ray.version import __version__

T = TypeVar("T")
WIDEST = 10_000_000
"""Most numbers in a feature: far more than any encoder gives, and few enough to reckon with."""
SCHEMA = 2
"""Of a published folder; a version of this package reads its own schema only."""
REPAIR = "rerun `hilbert-ray train`, which publishes the model again, or restore the folder from a copy"


class ModelError(HilbertError, ValueError):
    """A published folder that cannot be loaded, or features that do not fit the model."""


class Embeddings(NamedTuple):
    """The document embeddings a, t and j of N documents, float32 [N, M D] for M networks of width D.

    The networks' L2-normalised embeddings side by side, divided by sqrt(M), so that a dot product is the mean
    of the networks' cosines. A row of an absent modality is 0.
    """

    audio: np.ndarray
    text: np.ndarray
    joint: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model says of N documents, in their order, as NumPy.

    embeddings: a, t and j.
    evidence and probabilities: for each task float32 [N, K], as `losses.probabilities` has them; decisions:
    int64 [N] (float32 for regression, int64 [N, K] for multilabel).
    attention: for each modality and document float32 [segments], a mean over hops and networks, summing to 1;
    empty where the modality is absent.
    """

    embeddings: Embeddings
    evidence: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]
    shares: Mapping[str, np.ndarray]
    attention: Mapping[Modality, Sequence[np.ndarray]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a published folder's config.json holds, apart from the encoders' descriptions.

    dims: width of each modality's features. networks: how many the weights are of. heads: by task and by what
    a document has, see `HeadWeights`. layers: how many layers the features of a modality hold side by side,
    where more than one.
    """

    schema: int
    version: str
    config: Config
    dims: Mapping[Modality, int]
    networks: int
    heads: Mapping[str, Mapping[str, HeadWeights]]
    layers: Mapping[Modality, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for modality, count in self.layers.items():
            if count < 1 or self.dims.get(modality, 0) % count:
                raise ConfigError(
                    f"`layers` gives {modality!r} {count}, which does not divide its width "
                    f"{self.dims.get(modality)}"
                )
        if self.networks < 1:
            raise ConfigError(f"`networks` is {self.networks}; it must be 1 or more")
        for modality, dim in self.dims.items():
            if modality not in MODALITIES or not 1 <= dim <= WIDEST:
                raise ConfigError(
                    f"`dims` gives {modality!r} width {dim}; it must give audio or text 1 to {WIDEST}"
                )


class Hilbert(nn.Module):
    """The trained model: the networks of all seeds, and how much each head counts for each task."""

    def __init__(
        self,
        networks: Sequence[Network],
        config: Config,
        heads: Mapping[str, Mapping[str, HeadWeights]],
        encoders: Mapping[str, Any],
    ) -> None:
        """Join networks that were trained on the same documents.

        Args:
            networks: one for each seed.
            config: the resolved settings they were trained with.
            heads: weights of the heads and temperature, by task and by what a document has; all count alike
                where there are none.
            encoders: description of each modality's encoder, as the store holds it; `predict` accepts no
                features of another. That of text may have `recognizers`, see `Dataset.recognizers`, and each
                `pending`: how many training documents were not embedded yet and counted as lacking it.
        """
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.config, self.heads, self.encoders = config, dict(heads), dict(encoders)

    @property
    def dims(self) -> dict[Modality, int]:
        """Width of the features that each modality's encoder must give."""
        return self._members()[0].dims  # the same for all: they read the same features

    @property
    def layer_weights(self) -> dict[Modality, list[float]]:
        """The weight of each layer of a modality's encoder, means over networks; none where it has one."""
        by_modality: dict[Modality, list[float]] = {}
        for modality in MODALITIES:
            layers = [network.streams[modality].layers for network in self._members()]
            weights = [each.weights for each in layers if each.weights is not None]
            if weights:
                full = torch.zeros(layers[0].count)
                full[layers[0].chosen] = torch.stack(weights).mean(0).detach().float().cpu()
                by_modality[modality] = full.tolist()
        return by_modality

    @property
    def labels(self) -> dict[str, Tensor]:
        """Each task's `losses.label_statistics` of the training part."""
        return self._members()[0].labels  # the same for all: the seeds share one training part

    def _members(self) -> list[Network]:
        """Return the networks with their type, which an nn.ModuleList does not keep."""
        return [network for network in self.networks if isinstance(network, Network)]

    def forward(self, batch: Batch) -> Output:
        """Return the networks' mean logits and attention, and their embeddings as `Embeddings` describes."""
        outputs: list[Output] = [network(batch) for network in self._members()]
        audio = _ensemble([output.audio for output in outputs])
        text = _ensemble([output.text for output in outputs])
        return replace(
            outputs[0],
            audio=audio,
            text=text,
            joint=_side_by_side([output.joint for output in outputs]),
            logits=_mean_by_task([output.logits for output in outputs]),
            scores=_mean_by_task([output.scores for output in outputs]),
        )

    def embed(self, features: Features) -> Embeddings:
        """Return the audio, text and joint embedding of every document of `features`, in its order.

        `open_dataset(store, config).features` reads them from a store. Rows of an absent modality are 0.

        Raises:
            ModelError: as `predict`.
        """
        return self.predict(features).embeddings

    @torch.no_grad()
    def predict(self, features: Features) -> Prediction:
        """Embed and classify every document of `features`; dropout is off.

        Raises:
            ModelError: when a modality's features have another width than those the model was trained on.
        """
        visited, outputs = self._outputs(features)
        in_order = _restorer(visited)
        has_audio = in_order([output.audio.present for output in outputs])
        has_text = in_order([output.text.present for output in outputs])
        evidence, probabilities, decisions, shares = {}, {}, {}, {}
        # Probabilities hold for the training part's class frequencies; `losses.decide` says what decides.
        for name, task in self.config.tasks.items():
            statistics = self.labels[name].cpu()
            logits = in_order([output.logits[name] for output in outputs])
            scores = in_order([output.scores[name] for output in outputs])
            logits = logits - losses.learned_prior(task, statistics)
            weighted = weigh_heads(logits, scores, self.heads.get(name, {}), has_audio, has_text)
            evidence[name] = weighted.numpy()
            shares[name] = head_shares(scores, self.heads.get(name, {}), has_audio, has_text).numpy()
            probabilities[name] = losses.probabilities(task, weighted, statistics).numpy()
            decisions[name] = losses.decide(task, weighted, statistics).numpy()
        return Prediction(
            embeddings=Embeddings(
                audio=in_order([output.audio.embedding for output in outputs]).numpy(),
                text=in_order([output.text.embedding for output in outputs]).numpy(),
                joint=in_order([output.joint for output in outputs]).numpy(),
            ),
            evidence=evidence,
            probabilities=probabilities,
            decisions=decisions,
            shares=shares,
            attention={m: _attention(m, features, visited, outputs) for m in MODALITIES},
        )

    @torch.no_grad()
    def score_heads(self, features: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return each task's logits, float32 [N, K], and scores by head, float32 [N, 3, W], see `Output`.

        Before any weights of heads: what those are fitted on.
        """
        visited, outputs = self._outputs(features)
        in_order = _restorer(visited)
        logits = {task: in_order([output.logits[task] for output in outputs]) for task in self.config.tasks}
        scores = {task: in_order([output.scores[task] for output in outputs]) for task in self.config.tasks}
        return logits, scores

    def _outputs(self, features: Features) -> tuple[list[np.ndarray], list[Output]]:
        """Return which documents each batch has, longest first, and what comes of it, on the CPU.

        Dropout is off.
        """
        self._check_widths(features)
        self.eval()
        device = self._members()[0].logit_scale.device
        visited = list(eval_batches(len(features), features.lengths))
        # Back on the CPU batch by batch: a device has no room for what comes of many thousands of documents.
        return visited, [_on_cpu(self(collate(features, indices).to(device))) for indices in visited]

    def _check_widths(self, features: Features) -> None:
        """Refuse features of another encoder, as far as their width tells."""
        for modality, ragged in features.by_modality.items():
            dim = self.dims.get(modality)
            if dim is not None and ragged.dim != dim:
                raise ModelError(
                    f"the {modality} features have width {ragged.dim}, but the model was trained on width "
                    f"{dim}: embed with its encoder "
                    f"({self.encoders.get(modality, {}).get('name', 'unknown')})"
                )

    # Publishing

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json, model.safetensors and README.md (the model card), all or nothing.

        config.json holds the settings (with each task's label map: class k is `classes[k]`), what the weights
        do not say, and the version that wrote it.

        Returns:
            The folder.
        """
        published = Published(
            schema=SCHEMA, version=__version__, config=self.config, dims=self.dims,
            networks=len(self.networks), heads=self.heads, layers=self._members()[0].layers,
        )  # fmt: skip
        values = {**to_dict(published), "encoders": self.encoders}
        # Descriptions of encoders are free-form and travel outside of the typed record.
        files = {"config.json": json.dumps(values, indent=1), "README.md": self._card()}
        write_tensor_folder(Path(folder), self.state_dict(), files)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust_remote_code: bool = False) -> "Hilbert":
        """Load a published folder. Nothing in it is executed: weights are safetensors, the rest is JSON.

        Args:
            folder: local folder.
            trust_remote_code: allow settings with which `predict` runs Python code published with an
                encoder's weights; a folder alone cannot turn that on.

        Raises:
            ModelError: when a file is absent or outside the folder, of a schema that this version cannot
                read, or when weights and settings do not fit each other.
            DamagedError: when a file is not what was written.
        """
        path = Path(folder)
        published, encoders, tensors = _read_published(path)
        risky = [m for m in MODALITIES if published.config.encoder(m).options.trust_remote_code]
        if risky and not trust_remote_code:
            raise ModelError(
                f"model folder {path} needs {' and '.join(risky)} encoders that run Python code published "
                "with their weights; if you trust that code, load with trust_remote_code=True"
            )
        with torch.device("meta"):  # shapes alone: no memory, and no random number is drawn
            networks = [
                Network(published.config, published.dims, published.layers) for _ in range(published.networks)
            ]
        model = cls(networks, published.config, published.heads, encoders)
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        mistyped = [
            name for name, tensor in tensors.items() if tensor.dtype != dtypes.get(name, tensor.dtype)
        ]
        try:
            # Assigned and not copied: the model's own tensors are on the meta device. torch then checks names
            # and shapes, but takes any dtype.
            model.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ModelError(f"model.safetensors of {path} does not fit its config.json: {error}") from error
        if mistyped:
            raise ModelError(
                f"model.safetensors of {path} does not fit its config.json: {mistyped[0]} is "
                f"{tensors[mistyped[0]].dtype}, but must be {dtypes[mistyped[0]]}; publish the model again"
            )
        return model.eval()

    def _card(self) -> str:
        tasks = "\n".join(
            f"- `{name}`: {task.kind}"
            + "".join(f"\n  - {number}: {label}" for number, label in enumerate(task.classes))
            for name, task in self.config.tasks.items()
        )
        probabilities = "\n".join(
            f"- `{name}`: {describe_heads(self.heads.get(name, {}), task.kind != 'regression')}"
            for name, task in self.config.tasks.items()
        )
        encoders = "\n".join(
            f"- {m}: `{d.get('name')}`, fingerprint `{d.get('fingerprint')}`"
            + (
                f"; training documents that were not embedded yet and counted as lacking it: {d['pending']}"
                if d.get("pending")
                else ""
            )
            for m, d in self.encoders.items()
        )
        layers = "\n".join(
            f"- {m}: " + ", ".join(f"layer {k} {weight:.2f}" for k, weight in enumerate(weights) if weight)
            for m, weights in self.layer_weights.items()
        )
        if layers:
            encoders += f"\n\nFeatures hold every layer, and the networks weigh them; the mean:\n\n{layers}"
        if recognizers := self.encoders.get("text", {}).get("recognizers"):
            listed = "\n".join(
                f"- `{one['name']}`, fingerprint `{one['fingerprint']}`: {one['documents']} documents"
                for one in recognizers
            )
            encoders += (
                "\n\nThese recognisers wrote transcripts of the training documents; use the same ones for "
                f"`predict`:\n\n{listed}"
            )
        return CARD.format(
            tasks=tasks,
            probabilities=probabilities,
            encoders=encoders,
            networks=len(self.networks),
            version=__version__,
        )


def _read_published(path: Path) -> tuple[Published, dict[str, Any], dict[str, Tensor]]:
    """Return a published folder's settings, descriptions of encoders and tensors.

    Raises:
        ModelError: when a file is absent, or when the two files disagree.
        DamagedError: when a file is not what was written.
    """
    try:
        values, tensors = read_tensor_folder(path, "config.json", SCHEMA, REPAIR)
    except TensorFolderError as error:
        raise ModelError(f"model folder {error}") from error
    encoders = values.pop("encoders", None)
    try:
        published = from_dict(Published, values)
    except (ConfigError, TypeError) as error:
        raise ModelError(f"config.json of model folder {path} is invalid: {error}") from error
    if not isinstance(encoders, dict):
        raise ModelError(
            f"config.json of model folder {path} has `encoders` {encoders!r}; it must map each modality to a "
            "description: publish the model again"
        )
    # Counted before any network is made: a damaged number would take all memory.
    count = len({name.split(".")[1] for name in tensors if name.startswith("networks.")})
    if count != published.networks:
        raise ModelError(
            f"config.json of model folder {path} names {published.networks} networks, but model.safetensors "
            f"holds {count}: publish the model again"
        )
    return published, encoders, tensors


def _restorer(visited: Sequence[np.ndarray]) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return what joins tensors of batches in the order of the features; batches go from long to short."""
    back = np.argsort(np.concatenate(visited))
    return lambda by_batch: torch.cat(list(by_batch))[back]


def _on_cpu(value: T) -> T:
    """Return a tensor, or a record or mapping of tensors, with every tensor on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {name: _on_cpu(inner) for name, inner in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _on_cpu(getattr(value, f.name)) for f in fields(value)})
    return value


def _side_by_side(embeddings: Sequence[Tensor]) -> Tensor:
    """Return M networks' embeddings [B, D] as one [B, M D], see `Embeddings`."""
    return torch.cat([F.normalize(x, dim=1) for x in embeddings], 1) / math.sqrt(len(embeddings))


def _mean_by_task(logits: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean over networks of each task's logits."""
    # Of logits and not of probabilities: weights of heads and temperature are fitted on the same mean.
    return {task: torch.stack([by_task[task] for by_task in logits]).mean(0) for task in logits[0]}


def _ensemble(outputs: Sequence[ModalityOutput]) -> ModalityOutput:
    """Return what several networks make of one modality as the output of one network, M times as wide."""
    present = outputs[0].present  # without dropout the same for all
    return ModalityOutput(
        # The learned token of an absent modality has an embedding too, which says nothing of the document.
        embedding=_side_by_side([output.embedding for output in outputs]) * present[:, None],
        logits=_mean_by_task([output.logits for output in outputs]),
        present=present,
        attention=torch.stack([output.attention for output in outputs]).mean(0),
    )


def _attention(
    modality: Modality, features: Features, visited: Sequence[np.ndarray], outputs: Sequence[Output]
) -> list[np.ndarray]:
    """Return each document's attention over its own segments, a mean over hops; see `Prediction`.

    Args:
        modality: which of the two.
        features: of all documents.
        visited: the documents of each batch.
        outputs: of each batch.
    """
    ragged = features.by_modality.get(modality)
    lengths = np.zeros(len(features), np.int64) if ragged is None else ragged.lengths
    by_document: dict[int, np.ndarray] = {}
    for indices, output in zip(visited, outputs, strict=True):
        weights = output.by_modality[modality].attention.mean(1).numpy()
        # Cut to the document's own segments: the rest is padding, and the token of an absent modality.
        by_document |= {int(i): row[: lengths[i]] for i, row in zip(indices, weights, strict=True)}
    return [by_document[i] for i in range(len(features))]


CARD = """# A HILBERT model

Document embeddings and predictions from long recordings with transcripts, trained with hilbert_ray {version}.
The mean of {networks} networks.

## Tasks and their labels

{tasks}

## How heads and probabilities are made

The logits of the experts, the audio head and the text head are weighted for each task, the temperature
scales evidence, never the classes' frequencies, and offsets make classes as probable as they are frequent.
Where they were fitted, it was on held-out documents of inner folds, by what a document has.

{probabilities}

## Encoders

The features must come from these encoders; `hilbert-ray predict` refuses others.

{encoders}

## Use

    hilbert-ray predict --model THIS_FOLDER --manifest manifest.jsonl --out predictions.parquet

or, on the features of a store, in Python:

    import hilbert_ray as hr
    from hilbert_ray.features import open_dataset

    features = open_dataset("STORE", hr.Config()).features
    audio, text, joint = hr.Hilbert.from_pretrained("THIS_FOLDER").embed(features)

## Limits

Predictions are valid for recordings like those of the training manifest: same setting, language and recording
conditions. The run's report shows how well they do on speakers never heard in training, as cross-validated
scores with intervals. Do not use them as the only basis for a decision about a person.
"""
