"""metrics.json: all metrics of all tasks and variants, comparisons, embeddings and counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hilbert_ray import metrics
from hilbert_ray.config import MODALITIES, VARIANTS
from hilbert_ray.evaluation.cross_validation import gather
from hilbert_ray.features import Dataset
from hilbert_ray.run import FoldResult


def score(dataset: Dataset, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Return metrics.json: all metrics of all tasks and variants, comparisons, and embeddings."""
    tasks = dataset.config.tasks
    names = list(dict.fromkeys(["hilbert", *(result.variant for result in results)]))
    predictions = {
        task: {
            n: gather(dataset.features, settings, task, [r for r in results if r.variant == n]) for n in names
        }
        for task, settings in tasks.items()
    }
    values: dict[str, Any] = {"tasks": {}, "comparisons": {}, "permutation": {}}
    for task, by_variant in predictions.items():
        values["tasks"][task] = {name: metrics.evaluate_predictions(p) for name, p in by_variant.items()}
        compared = {
            n: metrics.compare_predictions(by_variant["hilbert"], p)
            for n, p in by_variant.items()
            if n != "hilbert"
        }
        for key in ("p_bootstrap", "p_corrected_t"):
            adjusted = metrics.holm([np.nan if c[key] is None else c[key] for c in compared.values()])
            for comparison, p in zip(compared.values(), adjusted, strict=True):
                comparison[f"{key}_holm"] = p if np.isfinite(p) else None
        values["comparisons"][task] = compared
        values["permutation"][task] = metrics.permutation_null(by_variant["hilbert"])
    values["embedding"] = _score_embeddings(dataset, [r for r in results if r.variant == "hilbert"])
    values["data"] = describe(dataset)
    return values


def _score_embeddings(dataset: Dataset, results: Sequence[FoldResult]) -> dict[str, Any]:
    """Return retrieval and geometry of HILBERT's out-of-fold embeddings."""
    features = dataset.features
    if features.audio is None or features.text is None:
        return {}
    document = np.concatenate([r.test for r in results])
    both = (features.audio.lengths[document] > 0) & (features.text.lengths[document] > 0)
    audio, text, joint = (
        np.concatenate([r.embeddings[name] for r in results])[both] for name in ("audio", "text", "joint")
    )
    fold, repeat = (
        np.concatenate([np.full(len(r.test), getattr(r, name)) for r in results])[both]
        for name in ("fold", "repeat")
    )
    return metrics.evaluate_embeddings(audio, text, joint, fold, repeat, features.groups[document[both]])


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return counts of documents, groups, modalities and labels for the report."""
    features = dataset.features
    lengths = {m: part.lengths for m in MODALITIES if (part := getattr(features, m)) is not None}
    labels: dict[str, Any] = {}
    for name, task in dataset.config.tasks.items():
        y = features.targets[name]
        if task.kind == "regression":
            labels[name] = {"labelled": int(np.isfinite(y).sum())}
        elif task.kind == "multilabel":
            held = {c: int((y[:, k] == 1).sum()) for k, c in enumerate(task.classes)}
            labels[name] = {"labelled": int(np.isfinite(y).any(1).sum()), "classes": held}
        else:
            held = {c: int((y == k).sum()) for k, c in enumerate(task.classes)}
            labels[name] = {"labelled": int((y >= 0).sum()), "classes": held}
    return {
        "documents": len(features),
        "groups": len(np.unique(features.groups)),
        "segments": {m: int(n.sum()) for m, n in lengths.items()},
        "with": {m: int((n > 0).sum()) for m, n in lengths.items()},
        "quarantined": dict(dataset.quarantined),
        "labels": labels,
    }


def summarise(values: Mapping[str, Any]) -> str:
    """Return metrics.json's headline as a table for a terminal."""
    lines = []
    for task, by_variant in values["tasks"].items():
        lines.append(f"{task}: headline over folds (within), with 95 % interval by groups")
        for name, scores in by_variant.items():
            found = scores.get("auc") or scores.get("concordance") or {}
            low, high = found.get("within_low"), found.get("within_high")
            interval = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "no interval"
            shown = found.get("within")
            lines.append(
                f"  {VARIANTS.get(name, name):<36} {'n/a' if shown is None else f'{shown:.3f}'}   {interval}"
            )
    return "\n".join(lines)
