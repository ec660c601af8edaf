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
from hilbert_ray.errors import HilbertError
from hilbert_ray.evaluation import Variant, gather, run_fold
from hilbert_ray.features import Features
from hilbert_ray.folds import Fold
from hilbert_ray.run import FoldResult
from hilbert_ray.training import NotFiniteError
from hilbert_ray.tuning.space import Settings, apply
from hilbert_ray.tuning.trials import MODES, WORST, SearchPlan, Trial, run_trials

START_TIMEOUT = timedelta(minutes=5)
"""Within which all workers of a trial must have joined its process group."""
UNDEFINED_HEADLINE = 0.5
"""Of a trial whose inner test sets define no score, such as those with one class only: that of chance."""


class SearchError(HilbertError, RuntimeError):
    """A search without a result."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What one search found: the settings to use, what they change (empty: nothing), and all trials."""

    config: Config
    best: Settings
    beaten: bool
    trials: Sequence[Trial]


def run_search(
    plan: SearchPlan,
    config: Config,
    features_ref: Any,  # noqa: ANN401 - an object reference
    folds: Sequence[Fold],
) -> SearchOutcome:
    """Search on inner folds.

    Args:
        plan: what to do.
        config: the defaults.
        features_ref: reference to the features in Ray's object store.
        folds: the inner folds, the same for all trials.

    Raises:
        SearchError: when the defaults, which all trials are compared with, could not be scored.
    """
    # In a list, since Ray resolves a bare reference; each trial must be able to pass it on to its ranks.
    trials = run_trials(
        plan, run_trial, features_refs=[features_ref], config=config, folds=folds, first=dict(plan.first)
    )
    best = choose_trial(trials, plan.settings.objectives)
    if best is None:
        reason = trials[0].get("error", "no trial finished") if trials else "no trial finished"
        raise SearchError(
            f"search {plan.name}: the defaults have no score ({reason}), so no trial can be compared with "
            f"them; see {plan.journal} and the log above, fix the cause, and rerun with --resume"
        )
    # The defaults may lie outside the space; empty changes keep them exactly.
    changes = {} if best["is_default"] else best["settings"]
    return SearchOutcome(config=apply(config, changes), best=changes, beaten=bool(changes), trials=trials)


def choose_trial(trials: Sequence[Trial], objectives: Sequence[str]) -> Trial | None:
    """Return the trial to use: the best one if it beats the defaults, else the defaults.

    The best is the one with the highest score; with Brier as second objective, the one with the lowest Brier
    score of those within one standard error of the highest score. It beats the defaults when it is better by
    more than one standard error (of theirs, over inner folds) in one objective, and worse by more in none:
    the best of many trials is partly lucky.

    Args:
        trials: of equal ones, the first is chosen.
        objectives: `score`, and perhaps `brier`.

    Returns:
        None when the defaults are not among the trials that saw all inner folds.
    """
    default = next((trial for trial in trials if trial["is_default"] and trial["folds"]), None)
    if default is None:
        return None
    # Means over fewer folds are not comparable; the defaults always see all of them.
    finished = [trial for trial in trials if len(trial["folds"]) == len(default["folds"])]
    best = max(finished, key=lambda trial: float(trial["score"]))
    if "brier" in objectives:
        near = [t for t in finished if t["score"] >= best["score"] - _standard_error(best["folds"])]
        best = min(near, key=lambda trial: float(trial["brier"]))
    of_folds = {"score": default["folds"], "brier": default["briers"]}
    gains = []
    for name in objectives:
        gain = best[name] - default[name] if MODES[name] == "max" else default[name] - best[name]
        gains.append((gain, _standard_error(of_folds[name])))
    # A rule of thumb: inner folds share training documents, so that the error is too small. Outer folds test
    # it.
    beats = any(gain > error for gain, error in gains) and all(gain >= -error for gain, error in gains)
    return best if beats else default


def _standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean over folds."""
    # A single fold has no spread; with 0, any gain counts.
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def run_trial(
    sample: Settings, features_refs: Sequence[Any], config: Config, folds: Sequence[Fold], first: Settings
) -> None:
    """Run one trial: the scores of sampled settings, reported after each inner fold.

    The settings `first` represent the defaults, which all others are compared with: they report once, at the
    end, since the scheduler stops trials only when they report, and must not stop this one.
    """
    torch.set_num_threads(max(int(config.tune.cpus_per_trial), 1))
    is_default = dict(sample) == first
    settings = config if is_default else apply(config, sample)
    # One network: an ensemble costs more than it reveals about a setting. So do the weights of heads and the
    # temperature, unless probabilities are judged: then those that `evaluate` would give, as a setting must
    # not be chosen for an overconfidence that calibration takes away.
    inner = settings.folds.inner if "brier" in config.tune.objectives else 0
    settings = replace(
        settings,
        folds=replace(settings.folds, inner=inner, gpus=config.tune.gpus_per_trial),
        fit=replace(settings.fit, seeds=1),
    )
    features: Features = ray.get(features_refs[0])
    variant = Variant(name="trial", config=settings)
    scores: list[float] = []
    briers: list[float] = []
    facts = {"began": time.time(), "seconds": 0.0}  # only for readers of Tune's own files
    for fold in folds:
        began = time.perf_counter()
        try:
            result = run_trial_fold(features_refs[0], features, variant, fold)
        except NotFiniteError as error:
            # A result and not a failure: Tune would run a failed trial again, with the same outcome.
            ray_tune.report({**WORST, **facts, "folds": [], "briers": [], "error": str(error)})
            return
        scores.append(headline(features, settings, [result]))
        briers.append(brier(features, settings, [result]))
        facts["seconds"] += time.perf_counter() - began
        if is_default and len(scores) < len(folds):
            continue
        # A running mean: the scheduler compares trials after the same number of inner folds.
        means = {"score": float(np.mean(scores)), "brier": float(np.mean(briers))}
        ray_tune.report({**means, **facts, "folds": list(scores), "briers": list(briers)})


def run_trial_fold(
    features_ref: Any,  # noqa: ANN401 - an object reference
    features: Features,
    variant: Variant,
    fold: Fold,
) -> FoldResult:
    """Fit and predict one inner fold; with several workers as one DDP run of this process and Ray tasks."""
    settings = variant.config.tune
    world_size = settings.workers_per_trial
    if world_size == 1:
        return run_fold(features, variant, fold)
    # A free port; it could be taken before the group forms, then the trial fails and Tune repeats it.
    with socket.socket() as probe:
        probe.bind(("", 0))
        address = f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"
    task = run_rank.options(num_cpus=settings.cpus_per_trial, num_gpus=settings.gpus_per_trial)
    # Before this process joins, which blocks until all ranks have joined.
    other_ranks = [task.remote(features_ref, variant, fold, address, rank) for rank in range(1, world_size)]
    result = run_fold_as_rank(features, variant, fold, address, 0)
    # Only to raise when one failed: its predictions are those of rank 0.
    ray.get(other_ranks)
    return result


def run_fold_as_rank(features: Features, variant: Variant, fold: Fold, address: str, rank: int) -> FoldResult:
    """Run one fold as a rank of a trial's process group; every rank returns the same predictions."""
    settings = variant.config.tune
    # With a group, `fit` trains as DDP and all ranks hold the same weights after each step.
    torch.distributed.init_process_group(
        "nccl" if settings.gpus_per_trial else "gloo",
        init_method=address,
        rank=rank,
        world_size=settings.workers_per_trial,
        timeout=START_TIMEOUT,
    )
    try:
        return run_fold(features, variant, fold)
    finally:
        torch.distributed.destroy_process_group()


def _run_rank(features: Features, variant: Variant, fold: Fold, address: str, rank: int) -> None:
    """Run a rank other than the first, whose predictions are the ones used."""
    torch.set_num_threads(max(int(variant.config.tune.cpus_per_trial), 1))
    run_fold_as_rank(features, variant, fold, address, rank)


# No retries: ranks fail together, and Tune repeats the whole trial.
run_rank = ray.remote(max_retries=0)(_run_rank)


def headline(features: Features, config: Config, results: Sequence[FoldResult]) -> float:
    """Return the mean of the tasks' headlines (`within`), over tasks where it is defined."""
    by_task = [scores.get("auc") or scores["concordance"] for scores in _scores(features, config, results)]
    values = [score["within"] for score in by_task if score["within"] is not None]
    return float(np.mean(values)) if values else UNDEFINED_HEADLINE


def brier(features: Features, config: Config, results: Sequence[FoldResult]) -> float:
    """Return the mean Brier score of the tasks that have classes."""
    by_task = [s["brier"]["pooled"] for s in _scores(features, config, results) if "brier" in s]
    values = [value for value in by_task if value is not None]
    return float(np.mean(values)) if values else WORST["brier"]


def _scores(features: Features, config: Config, results: Sequence[FoldResult]) -> list[Mapping[str, Any]]:
    """Return the scores of each task that has labels here; a search needs no intervals."""
    gathered = [gather(features, settings, task, results) for task, settings in config.tasks.items()]
    return [metrics.evaluate_predictions(p, resamples=0) for p in gathered if p.labelled.any()]
