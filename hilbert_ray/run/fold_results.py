"""RUN/folds: what was predicted on one fold, one file per fold and variant, so that a rerun resumes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hilbert_ray.config import MODALITIES
from hilbert_ray.folds import Fold


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Probabilities and decisions for each task, in the order of the tested documents."""

    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldResult:
    """Out-of-fold predictions of one variant on one fold, for the documents at `test`.

    subsets: the same network's answers from one modality alone, where the variant asks for them.
    """

    variant: str
    repeat: int
    fold: int
    test: np.ndarray
    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]
    temperature: Mapping[str, float]
    embeddings: Mapping[str, np.ndarray]
    attention: Mapping[str, Sequence[np.ndarray]]
    trained_on: np.ndarray
    seconds: float
    subsets: Mapping[str, Answers] = field(default_factory=dict)

    def split(self) -> list["FoldResult"]:
        """Return the result followed by one for each subset, named `<variant>_<modality>`."""
        apart = [
            replace(
                self, variant=f"{self.variant}_{modality}", probabilities=answers.probabilities,
                decisions=answers.decisions, embeddings={}, attention={}, seconds=0.0, subsets={},
            )
            for modality, answers in self.subsets.items()
        ]  # fmt: skip
        return [replace(self, subsets={}), *apart]


def write_fold_result(path: Path, result: FoldResult) -> None:
    """Write the numbers of a fold's result as one .npz file, whole or not at all."""
    arrays: dict[str, Any] = {"seconds": result.seconds}
    for name in ("probabilities", "decisions", "temperature", "embeddings"):
        arrays |= {f"{name}/{key}": value for key, value in getattr(result, name).items()}
    for modality, answers in result.subsets.items():
        for name in ("probabilities", "decisions"):
            found = getattr(answers, name).items()
            arrays |= {f"subsets/{modality}/{name}/{key}": value for key, value in found}
    for modality, rows in result.attention.items():
        arrays[f"attention/{modality}"] = np.concatenate(rows)
        arrays[f"lengths/{modality}"] = [len(row) for row in rows]
    fresh = path.with_suffix(".tmp")
    with fresh.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_fold_result(path: Path, variant: str, part: Fold) -> FoldResult:
    """Read back what `save_result` wrote of a variant on a fold."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}

    return FoldResult(
        variant=variant, repeat=part.repeat, fold=part.fold, test=part.test, trained_on=part.train,
        probabilities=under("probabilities/"), decisions=under("decisions/"),
        temperature={task: float(value) for task, value in under("temperature/").items()},
        embeddings=under("embeddings/"),
        attention={
            modality: np.split(weights, arrays[f"lengths/{modality}"].cumsum()[:-1])
            for modality, weights in under("attention/").items()
        },
        seconds=float(arrays["seconds"]),
        subsets={
            modality: Answers(
                probabilities=under(f"subsets/{modality}/probabilities/"),
                decisions=under(f"subsets/{modality}/decisions/"),
            )
            for modality in MODALITIES
            if under(f"subsets/{modality}/")
        },
    )  # fmt: skip
