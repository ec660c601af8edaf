"""RUN/folds: what was predicted on one fold, one file per fold and variant, so that a rerun resumes."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray.config import MODALITIES
from hilbert_ray.folds import Fold
from hilbert_ray.storage import DamagedError, open_output

_CHECKSUM = b"checksum:"
"""After the archive, before the SHA-256 of the archive in hexadecimal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPredictions:
    """Predictions by task, for the tested documents in their order.

    probabilities: float32 [documents, classes] (regression: the number, float32 [documents]). decisions:
    int64 [documents] (multilabel: int64 [documents, labels]; regression: the number).
    """

    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldResult:
    """Out-of-fold predictions of one variant on one fold, for the documents at `test`.

    Arrays are as in `TaskPredictions`. embeddings, attention: only of HILBERT. subsets: the same network's
    predictions from one modality alone, where the variant includes them. layers: the weight of each layer of
    a modality's encoder, where its features hold several. labels: the share of labelled training groups that
    kept their labels. seconds: of fitting and predicting.
    """

    variant: str
    repeat: int
    fold: int
    test: np.ndarray
    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]
    heads: Mapping[str, Mapping[str, Mapping[str, float]]]
    embeddings: Mapping[str, np.ndarray]
    attention: Mapping[str, Sequence[np.ndarray]]
    trained_on: np.ndarray
    seconds: float
    subsets: Mapping[str, TaskPredictions] = field(default_factory=dict)
    layers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    labels: float = 1.0

    def split(self) -> list["FoldResult"]:
        """Return the result itself, then one result per subset, named `<variant>_<modality>`."""
        # As variants of their own, so that scores need no special case. Embeddings and seconds stay with the
        # network that made them, or they would count twice.
        by_subset = [
            replace(
                self, variant=f"{self.variant}_{modality}", probabilities=predictions.probabilities,
                decisions=predictions.decisions, embeddings={}, attention={}, seconds=0.0, subsets={},
            )
            for modality, predictions in self.subsets.items()
        ]  # fmt: skip
        return [replace(self, subsets={}), *by_subset]


def write_fold_result(path: Path, result: FoldResult) -> None:
    """Write the numbers of a fold's result as one .npz file, whole or not at all."""
    arrays: dict[str, Any] = {"seconds": result.seconds}
    for name in ("probabilities", "decisions", "embeddings"):
        # A flat name per array, since .npz has no nesting; task names may contain slashes, prefixes cannot.
        arrays |= {f"{name}/{key}": value for key, value in getattr(result, name).items()}
    for task, by_modalities in result.heads.items():
        for modalities, numbers in by_modalities.items():
            arrays |= {f"heads/{modalities}/{name}/{task}": value for name, value in numbers.items()}
    arrays |= {f"layers/{modality}": weights for modality, weights in result.layers.items()}
    for modality, predictions in result.subsets.items():
        for name in ("probabilities", "decisions"):
            by_task = getattr(predictions, name)
            arrays |= {f"subsets/{modality}/{name}/{task}": value for task, value in by_task.items()}
    for modality, weights in result.attention.items():
        # .npz holds no ragged arrays: all rows in one, and where to cut them again.
        arrays[f"attention/{modality}"] = np.concatenate(weights)
        arrays[f"lengths/{modality}"] = [len(row) for row in weights]
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    data = archive.getvalue()
    # Whole or not at all: a rerun takes every .npz file for a finished fold. Readers of zip archives do not
    # mind what comes after the end.
    with open_output(str(path)) as fresh:
        fresh.write_bytes(data + _CHECKSUM + hashlib.sha256(data).hexdigest().encode())


def read_fold_result(path: Path, variant: str, fold: Fold, labels: float = 1.0) -> FoldResult:
    """Return what `write_fold_result` wrote of a variant on a fold, trained on a share of its labels.

    Raises:
        DamagedError: when the file is not what was written.
    """
    arrays = _read_arrays(path)

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}

    return FoldResult(
        # The file has none of these: its name is a hash of them, so the caller knows them.
        variant=variant, repeat=fold.repeat, fold=fold.fold, test=fold.test, trained_on=fold.train,
        labels=labels, probabilities=under("probabilities/"), decisions=under("decisions/"),
        heads=_heads(under("heads/")),
        layers={modality: weights.tolist() for modality, weights in under("layers/").items()},
        embeddings=under("embeddings/"),
        attention={
            # Without the last boundary, which is the end of the array: it would add an empty row.
            modality: np.split(weights, arrays[f"lengths/{modality}"].cumsum()[:-1])
            for modality, weights in under("attention/").items()
        },
        seconds=float(arrays["seconds"]),
        # Which subsets there are shows in the names: most variants have none.
        subsets={
            modality: TaskPredictions(
                probabilities=under(f"subsets/{modality}/probabilities/"),
                decisions=under(f"subsets/{modality}/decisions/"),
            )
            for modality in MODALITIES
            if under(f"subsets/{modality}/")
        },
    )  # fmt: skip


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    repair = "delete it and rerun the same command, which runs the fold again"
    # Files of older versions end without a checksum; the archive has one of each array.
    data, checksum, recorded = path.read_bytes().rpartition(_CHECKSUM)
    if checksum and hashlib.sha256(data).hexdigest().encode() != recorded:
        raise DamagedError.of(str(path), "its checksum is not what it says at its end", repair)
    try:
        # Pickles run code when read, and a run folder may come from somebody else.
        with np.load(io.BytesIO(data or recorded), allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise DamagedError.of(str(path), f"{type(error).__name__}: {error}", repair) from error


def _heads(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the weights of heads by task, then by what a document has, from single numbers by name."""
    heads: dict[str, dict[str, dict[str, float]]] = {}
    for path, value in arrays.items():
        # Task names are free text and come last.
        modalities, name, task = path.split("/", 2)
        heads.setdefault(task, {}).setdefault(modalities, {})[name] = value.item()
    return heads
