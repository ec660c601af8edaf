"""metrics.json: all metrics of all tasks and variants, comparisons, embeddings and counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hilbert_ray import metrics
from hilbert_ray.config import HILBERT
from hilbert_ray.evaluation.cross_validation import gather
from hilbert_ray.features import Dataset, is_labelled
from hilbert_ray.run import FoldResult


def score(dataset: Dataset, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Return scores, comparisons and counts as the plain values of metrics.json, see `Evaluation`."""
    tasks = dataset.config.tasks
    # Readers of the file, and its tables, begin with HILBERT.
    names = list(dict.fromkeys([HILBERT, *(result.variant for result in results)]))
    by_variant = {name: [result for result in results if result.variant == name] for name in names}
    values: dict[str, Any] = {"tasks": {}, "comparisons": {}, "permutation": {}}
    for task, settings in tasks.items():
        predictions = {
            name: gather(dataset.features, settings, task, of_variant)
            for name, of_variant in by_variant.items()
        }
        values["tasks"][task] = {name: metrics.evaluate_predictions(p) for name, p in predictions.items()}
        values["comparisons"][task] = _compare(predictions)
        # Of HILBERT only: the others are judged by their comparison with it.
        values["permutation"][task] = metrics.permutation_null(predictions[HILBERT])
    values["fusion"] = {task: _mean_heads(task, by_variant[HILBERT]) for task in tasks}
    values["layers"] = _describe_layers(by_variant[HILBERT])
    values["embedding"] = _score_embeddings(dataset, by_variant[HILBERT])
    values["data"] = describe(dataset)
    values["labels"] = count_labelled(dataset)
    return values


def _compare(predictions: Mapping[str, metrics.Predictions]) -> dict[str, dict[str, Any]]:
    """Return HILBERT against every other variant, with p-values also adjusted for their number."""
    comparisons = {
        name: metrics.compare_predictions(predictions[HILBERT], other)
        for name, other in predictions.items()
        if name != HILBERT
    }
    adjust_p_values(comparisons)
    return comparisons


def adjust_p_values(comparisons: Mapping[str, dict[str, Any]]) -> None:
    """Add p-values adjusted by Holm's method over the comparisons, under the names with `_holm`."""
    for key in ("p_paired_t", "p_corrected_t"):
        # JSON has null where a test is not defined, `holm` NaN.
        p_values = [np.nan if values[key] is None else values[key] for values in comparisons.values()]
        for values, p in zip(comparisons.values(), metrics.holm(p_values), strict=True):
            values[f"{key}_holm"] = p if np.isfinite(p) else None


def _mean_heads(task: str, results: Sequence[FoldResult]) -> dict[str, dict[str, float]]:
    """Return how much each head counts for a task, means over folds, by what a document has."""
    by_modalities: dict[str, list[Mapping[str, float]]] = {}
    for result in results:
        for modalities, weights in result.heads.get(task, {}).items():
            by_modalities.setdefault(modalities, []).append(weights)
    return {
        modalities: {name: float(np.mean([weights[name] for weights in of_folds])) for name in of_folds[0]}
        for modalities, of_folds in by_modalities.items()
    }


def _describe_layers(results: Sequence[FoldResult]) -> dict[str, dict[str, list[float]]]:
    """Return the weight of each layer of a modality's encoder: mean and deviation over folds."""
    layers: dict[str, dict[str, list[float]]] = {}
    for modality in dict.fromkeys(modality for result in results for modality in result.layers):
        weights = np.array([result.layers[modality] for result in results if modality in result.layers])
        layers[modality] = {"weight": weights.mean(0).tolist(), "deviation": weights.std(0).tolist()}
    return layers


def _score_embeddings(dataset: Dataset, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Return retrieval and geometry of HILBERT's out-of-fold embeddings; nothing without both modalities."""
    features = dataset.features
    if features.audio is None or features.text is None:
        return {}
    document = np.concatenate([result.test for result in results])
    # An absent modality is embedded as zeros, which retrieval must not rank.
    has_both = (features.audio.lengths[document] > 0) & (features.text.lengths[document] > 0)
    audio, text, joint = (
        np.concatenate([result.embeddings[name] for result in results])[has_both]
        for name in ("audio", "text", "joint")
    )
    fold, repeat = (
        np.concatenate([np.full(len(result.test), getattr(result, name)) for result in results])[has_both]
        for name in ("fold", "repeat")
    )
    groups = features.groups[document[has_both]]
    return metrics.evaluate_embeddings(audio, text, joint, fold, repeat, groups)


def count_labelled(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return how many documents are labelled for each task, and how many are not."""
    labelled = {task: int(is_labelled(dataset.features.targets[task]).sum()) for task in dataset.config.tasks}
    total = len(dataset.features)
    return {task: {"labelled": count, "unlabelled": total - count} for task, count in labelled.items()}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return counts of documents, groups, modalities and labels."""
    features = dataset.features
    lengths = {modality: ragged.lengths for modality, ragged in features.by_modality.items()}
    labels: dict[str, Any] = {}
    for name, task in dataset.config.tasks.items():
        y = features.targets[name]
        # Unlabelled is NaN for numbers and labels, -1 for classes.
        if task.kind == "regression":
            labels[name] = {"labelled": int(np.isfinite(y).sum())}
        elif task.kind == "multilabel":
            counts = {label: int((y[:, k] == 1).sum()) for k, label in enumerate(task.classes)}
            labels[name] = {"labelled": int(np.isfinite(y).any(1).sum()), "classes": counts}
        else:
            counts = {label: int((y == k).sum()) for k, label in enumerate(task.classes)}
            labels[name] = {"labelled": int((y >= 0).sum()), "classes": counts}
    return {
        "documents": len(features),
        "groups": len(np.unique(features.groups)),
        "segments": {m: int(n.sum()) for m, n in lengths.items()},
        "with": {m: int((n > 0).sum()) for m, n in lengths.items()},
        "quarantined": dict(dataset.quarantined),
        "pending": dict(dataset.pending),
        "absent": dict(dataset.absent),
        "left_out": dataset.left_out,
        "labels": labels,
        "recognizers": dataset.recognizers,
    }
