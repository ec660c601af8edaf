"""Variants on folds as Ray tasks; everything fitted sees the training groups of its fold only.

A worker imports this module before its first fold, so the baselines, whose scikit-learn is slow to load, are
named in a table and loaded where one is run.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import ray
import torch

from hilbert_ray.config import MODALITIES, TaskConfig, to_dict
from hilbert_ray.evaluation.variants import BASELINES, Variant
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold
from hilbert_ray.metrics import Predictions
from hilbert_ray.run import Answers, FoldResult, read_fold_result, write_fold_result
from hilbert_ray.storage import Workspace
from hilbert_ray.training import fit
from hilbert_ray.version import __version__

log = logging.getLogger(__name__)


def run_folds(
    shared: Any,  # noqa: ANN401 - a reference to the features in Ray's store
    wanted: Sequence[tuple[Variant, Fold]],
    run: Workspace,
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
            results.append(read_fold_result(path, variant.name, part))
        else:
            pending[task.remote(shared, variant, part)] = variant, part, path
    total = len(pending)
    if results:
        log.info("%d folds are done already, %d are left", len(results), total)
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        variant, part, path = pending.pop(done[0])
        result: FoldResult = ray.get(done[0])
        write_fold_result(path, result)
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


def run_fold_on_one_thread(features: Features, variant: Variant, part: Fold) -> FoldResult:
    """Do what `run_fold` does on one thread: the folds of a run share the machine's cores."""
    torch.set_num_threads(1)
    return run_fold(features, variant, part)


run_fold_remotely = ray.remote(num_cpus=1)(run_fold_on_one_thread)


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
    if variant.method != "network":
        baseline = resolve_name(BASELINES[variant.method])
        probabilities, decisions = baseline(features, config, train, test)
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


def gather(features: Features, settings: TaskConfig, task: str, results: Sequence[FoldResult]) -> Predictions:
    """Return one variant's predictions of one task over all folds, by repeat and document."""
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
