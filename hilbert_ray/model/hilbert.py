"""The trained model that a user holds: networks of all seeds, their predictions, and the published folder.

Axes: N documents, M networks, D model width, K outputs of a task.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilbert_ray import losses
from hilbert_ray.config import MODALITIES, Config, ConfigError, Modality, from_dict, to_dict
from hilbert_ray.errors import HilbertError
from hilbert_ray.features import Batch, Features, Ragged, collate, eval_batches
from hilbert_ray.model.network import Network, Output
from hilbert_ray.storage import TensorFolderError, read_tensor_folder, write_tensor_folder
from hilbert_ray.version import __version__

SCHEMA = 1


class ModelError(HilbertError, ValueError):
    """A published folder that cannot be loaded, or features that do not fit the model."""


class Embeddings(NamedTuple):
    """The document embeddings a, t and j as NumPy float32 [N, M D], see `Prediction`."""

    audio: np.ndarray
    text: np.ndarray
    joint: np.ndarray


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a published folder's config.json holds beside the encoders' descriptions.

    `dims` are the widths of each modality's features, `networks` their number, `temperature` that of each
    task.
    """

    schema: int
    version: str
    config: Config
    dims: Mapping[Modality, int]
    networks: int
    temperature: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.networks < 1:
            raise ConfigError(f"`networks` is {self.networks}; it must be 1 or more")
        for modality, dim in self.dims.items():
            if modality not in MODALITIES or dim < 1:
                raise ConfigError(
                    f"`dims` gives {modality!r} width {dim}; it must give audio or text 1 or more"
                )
        for task, value in self.temperature.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"`temperature` of task {task!r} is {value}; it must be finite and above 0")


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

    def embed(self, features: Features) -> Embeddings:
        """Return the audio, text and joint embedding of every document of `features`, in its order.

        `dataset.open_dataset(store, config).features` reads them from a store. Rows of an absent modality are
        0. Errors are those of `predict`.
        """
        prediction = self.predict(features)
        return Embeddings(prediction.audio, prediction.text, prediction.joint)

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
        """Write config.json, model.safetensors and README.md (the model card), all or nothing.

        config.json holds the settings (with each task's label map: class k is `classes[k]`), what the weights
        do not say, and the version that wrote it.
        """
        about = Published(
            schema=SCHEMA, version=__version__, config=self.config, dims=self.dims,
            networks=len(self.networks), temperature=self.temperature,
        )  # fmt: skip
        values = {**to_dict(about), "encoders": self.encoders}
        files = {"config.json": json.dumps(values, indent=1), "README.md": self._card()}
        write_tensor_folder(Path(folder), self.state_dict(), files)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust_remote_code: bool = False) -> "Hilbert":
        """Load a published folder. Nothing in it is executed: weights are safetensors, the rest is JSON.

        Args:
            folder: local folder.
            trust_remote_code: allow settings by which `predict` would run code that an encoder's authors
                publish beside its weights; a folder alone cannot turn that on.

        Raises:
            ModelError: when a file is absent, damaged or outside the folder, of a schema that this version
                cannot read, or when weights and settings do not fit each other.
        """
        path = Path(folder)
        try:
            values, tensors = read_tensor_folder(path, "config.json", SCHEMA)
        except TensorFolderError as error:
            raise ModelError(f"model folder {error}, as `hilbert-ray train` publishes them") from error
        encoders = values.pop("encoders", None)
        try:
            about = from_dict(Published, values)
        except (ConfigError, TypeError) as error:
            raise ModelError(f"config.json of model folder {path} is damaged: {error}") from error
        if not isinstance(encoders, dict):
            raise ModelError(
                f"config.json of model folder {path} has `encoders` {encoders!r}; it must map them"
            )
        held = len({name.split(".")[1] for name in tensors if name.startswith("networks.")})
        if held != about.networks:
            raise ModelError(
                f"config.json of model folder {path} tells of {about.networks} networks, but "
                f"model.safetensors holds {held}: publish the model again"
            )
        asks = [m for m in MODALITIES if getattr(about.config, f"{m}_encoder").trust_remote_code]
        if asks and not trust_remote_code:
            raise ModelError(
                f"model folder {path} asks for {' and '.join(asks)} encoders that run code published beside "
                "their weights; if you trust it, load with trust_remote_code=True"
            )
        with torch.device("meta"):  # shapes alone: no memory, and no random number is drawn
            networks = [Network(about.config, about.dims) for _ in range(held)]
        model = cls(networks, about.config, about.temperature, encoders)
        dtypes = {name: x.dtype for name, x in model.state_dict().items()}
        strange = [name for name, x in tensors.items() if x.dtype != dtypes.get(name, x.dtype)]
        try:
            model.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise ModelError(f"model.safetensors of {path} does not fit its config.json: {error}") from error
        if strange:
            raise ModelError(
                f"model.safetensors of {path} does not fit its config.json: {strange[0]} is of "
                f"{tensors[strange[0]].dtype}, and must be of {dtypes[strange[0]]}"
            )
        return model.eval()

    def _card(self) -> str:
        tasks = "\n".join(
            f"- `{name}`: {task.kind}"
            + "".join(f"\n  - {number}: {label}" for number, label in enumerate(task.classes))
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

## Tasks and their labels

{tasks}

## Encoders

The features must come from these encoders; `hilbert-ray predict` refuses others.

{encoders}

## Use

    hilbert-ray predict --model THIS_FOLDER --manifest manifest.jsonl --out predictions.parquet

or, on features that are embedded already, in Python:

    from hilbert_ray.config import Config
    from hilbert_ray.model.hilbert import Hilbert
    from hilbert_ray.features import open_dataset

    features = open_dataset("STORE", Config()).features
    audio, text, joint = Hilbert.from_pretrained("THIS_FOLDER").embed(features)

## Limits

Predictions hold for recordings like those of the training manifest: same setting, language and way of
recording. How well they do on speakers never heard in training stands in the run's report, as cross-validated
scores with intervals. Do not use them as the only ground for a decision about a person.
"""
