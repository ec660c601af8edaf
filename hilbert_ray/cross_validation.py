"""Variants on folds: what is trained and predicted in one Ray task, and what is kept of it.

Everything fitted (scaler, network, temperature) sees the training groups of its fold only; `run_fold` is
handed nothing else. A worker imports this module before its first fold, so what is slow to load and not
always needed (scikit-learn, scipy's distributions) is imported where it is used.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray
import torch

from hilbert_ray import __version__
from hilbert_ray.batch import Features
from hilbert_ray.config import MODALITIES, Config, Modality, TaskConfig, to_dict
from hilbert_ray.fit import fit
from hilbert_ray.folders import Folder
from hilbert_ray.folds import Fold

if TYPE_CHECKING:
    from hilbert_ray.metrics import Predictions

log = logging.getLogger(__name__)

Method = Literal["network", "late_fusion", "logistic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Something to cross-validate: a network with some settings on some modalities, or a baseline.

    With `subsets` the network, trained on both modalities, also predicts from each alone.
    """

    name: str
    config: Config
    method: Method = "network"
    modality: Modality | None = None
    subsets: bool = False


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


def run_folds(
    shared: Any,  # noqa: ANN401 - a reference to the features in Ray's store
    wanted: Sequence[tuple[Variant, Fold]],
    run: Folder,
    data: str,
) -> tuple[list[FoldResult], list[FoldResult]]:
    """Run variants on folds as Ray tasks over shared features; what RUN/folds holds already is read from it.

    Returns:
        All results in order, and those that were computed now.
    """
    (run.path / "folds").mkdir(exist_ok=True)
    pending: dict[Any, tuple[Variant, Fold, Path]] = {}
    results: list[FoldResult] = []
    fresh: list[FoldResult] = []
    for variant, part in wanted:
        need = variant.config.folds
        task = run_fold_remotely.options(num_cpus=need.cpus, num_gpus=need.gpus)
        path = run.path / "folds" / f"{_fold_key(data, variant, part)}.npz"
        if path.exists():
            results.append(load_result(path, variant, part))
        else:
            pending[task.remote(shared, variant, part)] = variant, part, path
    total = len(pending)
    if results:
        log.info("%d folds are done already, %d are left", len(results), total)
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        variant, part, path = pending.pop(done[0])
        result: FoldResult = ray.get(done[0])
        save_result(path, result)
        run.save()
        fresh.append(result)
        log.info(
            "%d/%d %s, repeat %d, fold %d: %.1f s",
            len(fresh), total, variant.name, part.repeat, part.fold, result.seconds,
        )  # fmt: skip
    return sorted([*results, *fresh], key=lambda r: (r.variant, r.repeat, r.fold)), fresh


def _fold_key(data: str, variant: Variant, part: Fold) -> str:
    """Return a hash of all that a fold's result depends on."""
    settings = to_dict(variant.config)
    settings["folds"] = {name: settings["folds"][name] for name in ("inner", "stratify")}
    for name in ("train", "tune", "embed"):
        del settings[name]
    facts = [
        __version__, data, settings, variant.name, variant.method, variant.modality, variant.subsets,
        part.repeat, part.fold, part.train.tolist(), part.test.tolist(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def save_result(path: Path, result: FoldResult) -> None:
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


def load_result(path: Path, variant: Variant, part: Fold) -> FoldResult:
    """Read back what `save_result` wrote of a variant on a fold."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}

    return FoldResult(
        variant=variant.name, repeat=part.repeat, fold=part.fold, test=part.test, trained_on=part.train,
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


def _run_fold(features: Features, variant: Variant, part: Fold) -> FoldResult:
    torch.set_num_threads(1)
    return run_fold(features, variant, part)


run_fold_remotely = ray.remote(num_cpus=1)(_run_fold)


def run_fold(features: Features, variant: Variant, part: Fold) -> FoldResult:
    """Fit one variant on a fold's training documents and predict its test documents; needs no Ray."""
    train, test = part.train, part.test
    began = time.perf_counter()
    config = replace(
        variant.config, fit=replace(variant.config.fit, seed=variant.config.fit.seed + 1000 * part.repeat)
    )
    embeddings: Mapping[str, np.ndarray] = {}
    attention: Mapping[str, Sequence[np.ndarray]] = {}
    temperature: Mapping[str, float] = {}
    subsets: dict[str, Answers] = {}
    probabilities: Mapping[str, np.ndarray]
    decisions: Mapping[str, np.ndarray]
    if variant.method == "logistic":
        from hilbert_ray.baselines import logistic

        probabilities, decisions = logistic(features, config.tasks, train, test)
    elif variant.method == "late_fusion":
        from hilbert_ray.baselines import late_fusion

        probabilities, decisions = late_fusion(features, config, train, test)
    else:
        seen = features if variant.modality is None else features.only(variant.modality)
        fitted = fit(config, seen, train, device="cuda" if config.folds.gpus else "cpu")
        model, tested = fitted.model(), seen.take(test)
        prediction = model.predict(tested)
        for modality in MODALITIES if variant.subsets else ():
            alone = model.predict(tested.only(modality))
            subsets[modality] = Answers(probabilities=alone.probabilities, decisions=alone.decisions)
        probabilities, decisions = prediction.probabilities, prediction.decisions
        temperature = fitted.temperature
        if variant.name == "hilbert":
            embeddings = {name: getattr(prediction, name) for name in ("audio", "text", "joint")}
            attention = {"audio": prediction.audio_attention, "text": prediction.text_attention}
    return FoldResult(
        variant=variant.name, repeat=part.repeat, fold=part.fold, test=test, probabilities=probabilities,
        decisions=decisions, temperature=temperature, embeddings=embeddings, attention=attention,
        trained_on=train, seconds=time.perf_counter() - began, subsets=subsets,
    )  # fmt: skip


def gather(
    features: Features, settings: TaskConfig, task: str, results: Sequence[FoldResult]
) -> "Predictions":
    """Return one variant's predictions of one task over all folds, by repeat and document."""
    from hilbert_ray.metrics import Predictions

    document = np.concatenate([r.test for r in results])
    repeat = np.concatenate([np.full(len(r.test), r.repeat) for r in results])
    fold = np.concatenate([np.full(len(r.test), r.fold) for r in results])
    order = np.lexsort([document, repeat])
    decisions = np.concatenate([r.decisions[task] for r in results])[order]
    return Predictions(
        kind=settings.kind,
        classes=settings.classes,
        probabilities=np.concatenate([r.probabilities[task] for r in results])[order],
        decisions=None if settings.kind == "regression" else decisions,
        targets=features.targets[task][document[order]],
        fold=fold[order],
        repeat=repeat[order],
        group=features.groups[document[order]],
        document=document[order],
    )
