"""One search: trials scored on inner folds of some documents, and the rule that chooses among them."""

import math
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import ray
import torch
from ray import tune as ray_tune

from hilbert_ray import metrics
from hilbert_ray.config import Config
from hilbert_ray.evaluation import Variant, gather, run_fold
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold
from hilbert_ray.run import FoldResult
from hilbert_ray.training import NotFiniteError
from hilbert_ray.tuning.space import Settings, apply
from hilbert_ray.tuning.trials import MODES, WORST, SearchPlan, Trial, run_trials

START_TIMEOUT = timedelta(minutes=5)  # in which all workers of a trial must have met


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What one search found: the settings to use, what they change (empty: nothing), and every trial."""

    config: Config
    best: Settings
    beaten: bool
    trials: Sequence[Trial]


def run_search(plan: SearchPlan, config: Config, shared: Any, parts: Sequence[Fold]) -> SearchOutcome:  # noqa: ANN401
    """Search on inner folds.

    Args:
        plan: what to do.
        config: the defaults.
        shared: reference to the features in Ray's store.
        parts: the inner folds, the same for all trials.

    Raises:
        RuntimeError: when the defaults, which all trials are compared with, could not be scored.
    """
    trials = run_trials(plan, run_trial, shared=[shared], config=config, parts=parts, first=dict(plan.first))
    best = choose_trial(trials, plan.settings.objectives)
    if best is None:
        faults = {trial.get("error", "no trial finished") for trial in trials[:1]} or {"no trial finished"}
        raise RuntimeError(
            f"search {plan.name}: the defaults have no score ({', '.join(faults)}), so no trial can be "
            f"compared with them; see {plan.journal}"
        )
    changes = {} if best["is_default"] else best["settings"]
    return SearchOutcome(config=apply(config, changes), best=changes, beaten=bool(changes), trials=trials)


def choose_trial(trials: Sequence[Trial], objectives: Sequence[str]) -> Trial | None:
    """Return the trial to use: the best one if it beats the defaults, else the defaults.

    The best is the one with the highest score; with Brier as second objective, of those within one standard
    error of the highest score the one with the least Brier score. It beats the defaults when it is better by
    more than one standard error (of theirs, over inner folds) in one objective, and in none worse by more.

    Args:
        trials: the first of equal ones is preferred.
        objectives: `score`, and perhaps `brier`.

    Returns:
        None when the defaults are not among the trials that saw all inner folds.
    """
    base = next((trial for trial in trials if trial["is_default"] and trial["folds"]), None)
    if base is None:
        return None
    whole = [trial for trial in trials if len(trial["folds"]) == len(base["folds"])]
    best = max(whole, key=lambda trial: float(trial["score"]))
    if "brier" in objectives:
        near = [t for t in whole if t["score"] >= best["score"] - _error(best["folds"])]
        best = min(near, key=lambda trial: float(trial["brier"]))
    of_folds = {"score": base["folds"], "brier": base["briers"]}
    gains = []
    for name in objectives:
        gain = best[name] - base[name] if MODES[name] == "max" else base[name] - best[name]
        gains.append((gain, _error(of_folds[name])))
    beats = any(gain > error for gain, error in gains) and all(gain >= -error for gain, error in gains)
    return best if beats else base


def _error(values: Sequence[float]) -> float:
    """Return the standard error of a mean over folds."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def run_trial(
    sample: Settings, shared: Sequence[Any], config: Config, parts: Sequence[Fold], first: Settings
) -> None:
    """One trial: the scores of sampled settings, reported after each inner fold.

    The settings `first` stand for the defaults, which all others are compared with: these report once, at
    the end, so that the scheduler, which stops trials when they report, cannot cut them short.
    """
    torch.set_num_threads(max(int(config.tune.cpus_per_trial), 1))
    is_default = dict(sample) == first
    settings = config if is_default else apply(config, sample)
    settings = replace(
        settings,
        folds=replace(settings.folds, inner=0, gpus=config.tune.gpus_per_trial),
        fit=replace(settings.fit, seeds=1),
    )
    features: Features = ray.get(shared[0])
    variant = Variant(name="trial", config=settings)
    scores: list[float] = []
    briers: list[float] = []
    facts = {"began": time.time(), "seconds": 0.0}  # for those who look into Tune's own files
    for part in parts:
        began = time.perf_counter()
        try:
            result = run_part(shared[0], features, variant, part)
        except NotFiniteError as error:
            ray_tune.report({**WORST, **facts, "folds": [], "briers": [], "error": str(error)})
            return
        scores.append(headline(features, settings, [result]))
        briers.append(brier(features, settings, [result]))
        facts["seconds"] += time.perf_counter() - began
        if is_default and len(scores) < len(parts):
            continue
        means = {"score": float(np.mean(scores)), "brier": float(np.mean(briers))}
        ray_tune.report({**means, **facts, "folds": list(scores), "briers": list(briers)})


def run_part(shared: Any, features: Features, variant: Variant, part: Fold) -> FoldResult:  # noqa: ANN401
    """Fit and predict one inner fold, with several workers as one DDP run of this process and Ray tasks."""
    settings = variant.config.tune
    world_size = settings.workers_per_trial
    if world_size == 1:
        return run_fold(features, variant, part)
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    task = run_rank.options(num_cpus=settings.cpus_per_trial, num_gpus=settings.gpus_per_trial)
    others = [task.remote(shared, variant, part, address, rank) for rank in range(1, world_size)]
    result = as_rank(features, variant, part, address, 0)
    ray.get(others)
    return result


def as_rank(features: Features, variant: Variant, part: Fold, address: str, rank: int) -> FoldResult:
    """Be one rank of a trial's process group for one fold; every rank returns the same predictions."""
    settings = variant.config.tune
    torch.distributed.init_process_group(
        "nccl" if settings.gpus_per_trial else "gloo",
        init_method=address,
        rank=rank,
        world_size=settings.workers_per_trial,
        timeout=START_TIMEOUT,
    )
    try:
        return run_fold(features, variant, part)
    finally:
        torch.distributed.destroy_process_group()


def _run_rank(features: Features, variant: Variant, part: Fold, address: str, rank: int) -> None:
    """Be another rank than the first."""
    torch.set_num_threads(max(int(variant.config.tune.cpus_per_trial), 1))
    as_rank(features, variant, part, address, rank)


run_rank = ray.remote(max_retries=0)(_run_rank)  # ranks fail together, and the trial is tried again


def headline(features: Features, config: Config, results: Sequence[FoldResult]) -> float:
    """Return the mean of the tasks' headlines (`within`), over tasks where it is defined."""
    found = [scores.get("auc") or scores["concordance"] for scores in _scores(features, config, results)]
    values = [score["within"] for score in found if score["within"] is not None]
    return float(np.mean(values)) if values else 0.5


def brier(features: Features, config: Config, results: Sequence[FoldResult]) -> float:
    """Return the mean Brier score of the tasks that have classes."""
    found = [scores["brier"]["pooled"] for scores in _scores(features, config, results) if "brier" in scores]
    values = [value for value in found if value is not None]
    return float(np.mean(values)) if values else WORST["brier"]


def _scores(features: Features, config: Config, results: Sequence[FoldResult]) -> list[Mapping[str, Any]]:
    """Return the scores of each task that has labels here."""
    gathered = [gather(features, settings, task, results) for task, settings in config.tasks.items()]
    return [metrics.evaluate_predictions(p, resamples=0) for p in gathered if p.labelled.any()]
