"""The learning curve: scores of a few variants trained on a share of the labels, on the same test documents.

It answers how many labels are enough, and what unlabelled documents are worth: those whose labels are
withheld stay in training, see `withholding`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hilbert_ray import metrics
from hilbert_ray.config import BASELINE, HILBERT, Config, require
from hilbert_ray.evaluation.cross_validation import gather
from hilbert_ray.evaluation.variants import Variant, choose_variants
from hilbert_ray.evaluation.withholding import withhold
from hilbert_ray.features import Features, is_labelled
from hilbert_ray.folds import Fold
from hilbert_ray.run import FoldResult

LEARNERS = (HILBERT, "task_only", BASELINE, "late_fusion")
"""HILBERT; the same network without what it learns from unlabelled documents; and its rivals."""


def check_shares(labels: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of labels in rising order, each once.

    Raises:
        ConfigError: for a share that is not above 0 and at most 1.
    """
    for share in labels:
        require(
            0 < share <= 1,
            f"labels is {share:g}; each value is a share of the labelled training groups, above 0 and at "
            "most 1: for 10 % give 0.1",
        )
    return tuple(sorted(set(labels)))


def choose_learners(
    config: Config, features: Features, labels: Sequence[float], subsets: bool = False
) -> list[Variant]:
    """Return each variant of the curve with each share of labels, the most labels first.

    Those with all labels are the very variants that `choose_variants` returns, whose folds count for both.
    """
    by_name = {
        variant.name: variant for variant in choose_variants(config, features, compare=True, subsets=subsets)
    }
    present = [by_name[name] for name in LEARNERS if name in by_name]
    return [
        variant if share == 1 else replace(variant, labels=share, subsets=False)
        for share in sorted(labels, reverse=True)
        for variant in present
    ]


def count_labels(features: Features, config: Config, fold: Fold, share: float) -> dict[str, int]:
    """Return how many training documents of a fold are labelled for each task, with a share of the labels."""
    left = withhold(features, config.tasks, fold, share, config.fit.seed).targets
    return {task: int(is_labelled(left[task][fold.train]).sum()) for task in config.tasks}


def score_curve(
    features: Features,
    config: Config,
    folds: Iterable[Fold],
    learners: Sequence[Variant],
    results: Sequence[FoldResult],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the headline by task, variant and share of labels, the fewest labels first.

    Args:
        features: of all documents.
        config: settings; `tasks` are scored.
        folds: all that were run.
        learners: from `choose_learners`.
        results: of all folds of the learners; others among them are ignored.

    Returns:
        `learning_curve` of metrics.json. `labels` is the mean number of labelled training documents of a
        fold, `within`, `low` and `high` are the headline with its 95 % interval, `folds` the number of test
        sets where it is defined.
    """
    folds = list(folds)
    shares = sorted({variant.labels for variant in learners})
    names = list(dict.fromkeys(variant.name for variant in learners))
    counts = {share: [count_labels(features, config, fold, share) for fold in folds] for share in shares}
    curve: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task, settings in config.tasks.items():
        curve[task] = {name: [] for name in names}
        for name in names:
            for share in shares:
                of_share = [r for r in results if (r.variant, r.labels) == (name, share)]
                predictions = gather(features, settings, task, of_share)
                metric = metrics.headline(predictions).name
                score = metrics.evaluate_predictions(predictions, only=(metric,))[metric]
                curve[task][name].append({
                    "fraction": share,
                    "labels": float(np.mean([count[task] for count in counts[share]])),
                    "within": score["within"],
                    "low": score["within_low"],
                    "high": score["within_high"],
                    "folds": score["folds"],
                })  # fmt: skip
    return curve
