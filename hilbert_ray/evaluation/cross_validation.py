"""Variants on folds as Ray tasks; everything fitted sees the training groups of its fold only.

A worker imports this module before its first fold. Baselines need scikit-learn, which is slow to load, so
`variants.BASELINES` only names them and `run_fold` loads one when it runs it.
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

from hilbert_ray.cluster import given_device
from hilbert_ray.config import HILBERT, MODALITIES, TaskConfig, to_dict
from hilbert_ray.evaluation.variants import BASELINES, Variant
from hilbert_ray.evaluation.withholding import withhold
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold
from hilbert_ray.metrics import Predictions
from hilbert_ray.run import FoldResult, RunDir, TaskPredictions, read_fold_result, write_fold_result
from hilbert_ray.storage import DamagedError, Workspace
from hilbert_ray.training import fit
from hilbert_ray.version import __version__

log = logging.getLogger(__name__)
SEED_STEP = 1000
"""Between the seeds of repeats: more than `fit.seeds` networks, so that no two repeats share a network's
seed and the repeats' spread includes that of training."""


def run_folds(
    features_ref: Any,  # noqa: ANN401 - a reference to the features in Ray's object store
    variants_on_folds: Sequence[tuple[Variant, Fold]],
    run: Workspace,
    fingerprint: str,
) -> tuple[list[FoldResult], list[FoldResult]]:
    """Run variants on folds as Ray tasks over shared features; results in RUN/folds are read instead.

    Args:
        features_ref: reference to the features in Ray's object store.
        variants_on_folds: what to run.
        run: the run's folder; each result is written there as soon as it is ready.
        fingerprint: of the data; results of other data are not reused.

    Returns:
        All results, sorted by variant, labels, repeat and fold; and those that were computed now.
    """
    folder = run.path / RunDir.FOLD_RESULTS
    folder.mkdir(exist_ok=True)
    pending: dict[Any, tuple[Variant, Fold, Path]] = {}
    reused: list[FoldResult] = []
    computed: list[FoldResult] = []
    for variant, fold in variants_on_folds:
        path = folder / f"{_fold_key(fingerprint, variant, fold)}.npz"
        if path.exists():
            try:
                reused.append(read_fold_result(path, variant.name, fold, variant.labels))
                continue
            except DamagedError as error:
                log.warning("%s: it is run again now", error)
        resources = variant.config.folds
        # All at once: Ray queues what the cluster has no room for, and runs it as places become free.
        task = run_fold_remotely.options(num_cpus=resources.cpus, num_gpus=resources.gpus)
        pending[task.remote(features_ref, variant, fold)] = variant, fold, path
    count = len(pending)
    log.info("%d folds are already done, %d to do", len(reused), count)
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        variant, fold, path = pending.pop(ready[0])
        result: FoldResult = ray.get(ready[0])
        # Written and saved one by one: a kill loses only the folds that are running.
        write_fold_result(path, result)
        run.save()
        computed.append(result)
        log.info(
            "%d/%d %s, repeat %d, fold %d: %.1f s",
            len(computed), count, variant.title, fold.repeat, fold.fold, result.seconds,
        )  # fmt: skip
    # Tasks end in any order, which must not reach metrics.json or the Parquet files.
    results = sorted(
        [*reused, *computed],
        key=lambda result: (result.variant, result.labels, result.repeat, result.fold),
    )
    return results, computed


def _fold_key(fingerprint: str, variant: Variant, fold: Fold) -> str:
    """Return a hash of all that a fold's result depends on; results under another key are not reused."""
    settings = to_dict(variant.config)
    # Resources and the number of folds do not change a fold's result; its documents are hashed below.
    settings["folds"] = {name: settings["folds"][name] for name in ("inner", "stratify")}
    for name in ("train", "tune", "embed", "asr", "recognition"):
        del settings[name]
    # The version, since results of another version of the code may differ; the documents and not only the
    # fold's numbers, since a folds file may change under the same name.
    facts = [
        __version__, fingerprint, settings, variant.name, variant.method, variant.modality, variant.subsets,
        variant.labels, fold.repeat, fold.fold, fold.train.tolist(), fold.test.tolist(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def run_fold_on_one_thread(features: Features, variant: Variant, fold: Fold) -> FoldResult:
    """Call `run_fold` on one thread: as many folds run at once as the machine has cores."""
    torch.set_num_threads(1)
    return run_fold(features, variant, fold)


run_fold_remotely = ray.remote(num_cpus=1)(run_fold_on_one_thread)


def run_fold(features: Features, variant: Variant, fold: Fold) -> FoldResult:
    """Fit one variant on a fold's training documents and predict its test documents; needs no Ray."""
    began = time.perf_counter()
    settings = variant.config
    # Before the seed is shifted: every variant and repeat draws from the run's own.
    features = withhold(features, settings.tasks, fold, variant.labels, settings.fit.seed)
    seed = settings.fit.seed + SEED_STEP * fold.repeat
    variant = replace(variant, config=replace(variant.config, fit=replace(variant.config.fit, seed=seed)))
    if variant.method == "network":
        result = _run_network(features, variant, fold)
    else:
        # scikit-learn is loaded here, in the worker, on its first baseline.
        baseline = resolve_name(BASELINES[variant.method])
        probabilities, decisions = baseline(features, variant.config, fold.train, fold.test)
        result = _result(variant, fold, probabilities, decisions)
    return replace(result, labels=variant.labels, seconds=time.perf_counter() - began)


def _run_network(features: Features, variant: Variant, fold: Fold) -> FoldResult:
    """Train the variant's networks on a fold, and predict its test documents."""
    config = variant.config
    seen = features if variant.modality is None else features.only(variant.modality)
    # `fit` gets all documents and the training indices: nothing it fits may depend on the others.
    fitted = fit(config, seen, fold.train, device=given_device())
    model, tested = fitted.model(), seen.take(fold.test)
    prediction = model.predict(tested)
    result = replace(
        _result(variant, fold, prediction.probabilities, prediction.decisions),
        heads=fitted.plain_heads(),
        layers={str(modality): weights for modality, weights in model.layer_weights.items()},
    )
    if variant.subsets:
        # The same weights, with the other modality replaced by its learned token.
        by_modality = {modality: model.predict(tested.only(modality)) for modality in MODALITIES}
        subsets = {
            str(modality): TaskPredictions(probabilities=alone.probabilities, decisions=alone.decisions)
            for modality, alone in by_modality.items()
        }
        result = replace(result, subsets=subsets)
    if variant.name == HILBERT and variant.labels == 1:
        # Only HILBERT's are shown; those of all ablations would fill the run folder.
        attention = {str(modality): weights for modality, weights in prediction.attention.items()}
        result = replace(result, embeddings=prediction.embeddings._asdict(), attention=attention)
    return result


def _result(
    variant: Variant, fold: Fold, probabilities: Mapping[str, np.ndarray], decisions: Mapping[str, np.ndarray]
) -> FoldResult:
    """Return a result that has predictions and nothing else."""
    return FoldResult(
        variant=variant.name, repeat=fold.repeat, fold=fold.fold, test=fold.test, trained_on=fold.train,
        probabilities=probabilities, decisions=decisions, heads={}, embeddings={}, attention={},
        seconds=0.0,
    )  # fmt: skip


def gather(features: Features, settings: TaskConfig, task: str, results: Sequence[FoldResult]) -> Predictions:
    """Return one variant's predictions of one task over all folds, sorted by repeat and document."""
    document = np.concatenate([result.test for result in results])
    repeat = np.concatenate([np.full(len(result.test), result.repeat) for result in results])
    fold = np.concatenate([np.full(len(result.test), result.fold) for result in results])
    # The same order for every variant: comparisons are made row by row.
    order = np.lexsort([document, repeat])
    decisions = np.concatenate([result.decisions[task] for result in results])[order]
    return Predictions(
        kind=settings.kind,
        classes=settings.classes,
        probabilities=np.concatenate([result.probabilities[task] for result in results])[order],
        # Fold results repeat the number as its decision; metrics treat numbers as having none.
        decisions=None if settings.kind == "regression" else decisions,
        targets=features.targets[task][document[order]],
        fold=fold[order],
        repeat=repeat[order],
        group=features.groups[document[order]],
        document=document[order],
    )
