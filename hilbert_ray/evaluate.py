"""Cross-validation: `fit` over group-disjoint folds as Ray tasks, beside baselines on the same folds.

Out-of-fold predictions are kept, and all scores are computed from them. Each finished fold is written to
RUN/folds, so that a run that was killed goes on with the folds that are missing.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from hilbert_ray import metrics
from hilbert_ray.batch import Features
from hilbert_ray.cluster import connect, removed_at_the_end
from hilbert_ray.config import MODALITIES, Config
from hilbert_ray.cross_validation import FoldResult, Variant, gather, run_fold_remotely, run_folds
from hilbert_ray.dataset import Dataset, open_dataset, save_run
from hilbert_ray.folders import APART, Folder, folder
from hilbert_ray.folds import Folds, choose_strata, load, make_folds, save
from hilbert_ray.presets import BASELINE, VARIANTS, ablations
from hilbert_ray.shortcuts import LENGTH, SHORTCUTS_FROM, shared_sentences, shortcuts, transcripts
from hilbert_ray.store import Store

log = logging.getLogger(__name__)


def variants(config: Config, features: Features, compare: bool, subsets: bool = False) -> list[Variant]:
    """Return what to cross-validate: HILBERT, its parts, the baseline to beat; with `compare` all."""
    both = features.audio is not None and features.text is not None
    chosen = [Variant(name="hilbert", config=config, subsets=subsets and both)]
    if both:
        chosen += [
            Variant(name="audio_only", config=config, modality="audio"),
            Variant(name="text_only", config=config, modality="text"),
        ]
    chosen.append(Variant(name=BASELINE, config=config, method="logistic"))
    if compare:
        if both:
            chosen.append(Variant(name="late_fusion", config=config, method="late_fusion"))
        chosen += [Variant(name=name, config=changed) for name, changed in ablations(config).items()]
    return chosen


def evaluate(
    store: str,
    out: str,
    config: Config,
    *,
    audio: str | None = None,
    text: str | None = None,
    compare: bool = False,
    subsets: bool = False,
) -> dict[str, Any]:
    """Cross-validate a store's documents and write the run's folder.

    RUN gets config.json, folds.parquet, predictions.parquet (out of fold), embeddings.parquet and
    attention.parquet (out of fold, first repeat), and metrics.json, which is returned. Each finished fold is
    in folds/: run again, whether after a kill or with more to compare, only those that are missing are run.

    Args:
        store: feature store.
        out: folder of the run, path or URI.
        config: settings.
        audio: which audio encoder, see `open_dataset`.
        text: which text encoder.
        compare: add all named baselines and ablations.
        subsets: score the network of both modalities on audio alone and on text alone too.

    Raises:
        ConfigError: for settings that do not fit the store.
        FoldsError: when groups or classes make the folds impossible.
    """
    dataset = open_dataset(store, config, audio, text)
    with removed_at_the_end(dataset.features.mapped), folder(out, apart=APART) as run:
        return _evaluate(store, run, dataset, compare, subsets)


def _evaluate(store: str, run: Folder, dataset: Dataset, compare: bool, subsets: bool) -> dict[str, Any]:
    features, config = dataset.features, dataset.config
    save_run(run, dataset)
    strata = choose_strata(config.tasks, features.targets, features.groups, config.folds)
    if config.folds.file:
        folds = load(config.folds.file, features.doc_ids, features.groups)
    else:
        seed, names = config.fit.seed, strata.names
        folds = make_folds(features.doc_ids, features.groups, strata.members, config.folds, seed, names)
    save(folds, str(run.path / "folds.parquet"))
    connect()
    began = time.perf_counter()
    shared = ray.put(features)
    chosen = variants(config, features, compare, subsets)
    wanted = [(variant, part) for variant in chosen for part in folds]
    results, fresh = run_folds(shared, wanted, run, dataset.fingerprint)
    seconds = time.perf_counter() - began
    values = score(dataset, [part for result in results for part in result.split()])
    values["shortcuts"] = _check_shortcuts(store, dataset, folds)
    values["folds"] = folds.describe(strata.members, strata.names)
    values["run"] = {
        "seconds": seconds,
        "fold_seconds": sum(result.seconds for result in fresh),
        "fits": len(fresh),
        "reused": len(results) - len(fresh),
    }
    _save_predictions(run.path, dataset, [part for result in results for part in result.split()])
    (run.path / "metrics.json").write_text(json.dumps(values, indent=1))
    return values


def _check_shortcuts(store: str, dataset: Dataset, folds: Folds) -> dict[str, Any]:
    """Return how well each shortcut alone predicts each task, and which sentences groups share.

    A shortcut is scored by logistic regression on the folds of the first repeat, see `shortcuts`.
    """
    features, config = dataset.features, dataset.config
    wanted = set(features.doc_ids.tolist())
    spoken = {d.doc_id: d for d in Store.open(store).documents(words=True) if d.doc_id in wanted}
    texts = transcripts([spoken[doc_id] for doc_id in features.doc_ids.tolist()])
    values: dict[str, Any] = {}
    for name, seen in shortcuts(texts, features, config.segment.roles).items():
        variant = Variant(name=name, config=config, method="logistic")
        shared = ray.put(seen)
        tasks = [run_fold_remotely.remote(shared, variant, part) for part in folds if part.repeat == 0]
        results = ray.get(tasks)
        values[name] = {}
        for task, settings in config.tasks.items():
            scores = metrics.evaluate_predictions(gather(features, settings, task, results))
            found = scores.get("auc") or scores["concordance"]
            values[name][task] = {key: found[key] for key in ("within", "within_low", "within_high")}
            low = found["within_low"]
            if low is not None and low > SHORTCUTS_FROM:
                log.warning(
                    "%s alone predicts %s (AUC %.2f, at least %.2f): scores may rest on this shortcut%s",
                    name, task, found["within"], low, _unless(name, config.segment.roles),
                )  # fmt: skip
    values["shared_sentences"] = shared_sentences(texts, features.groups.tolist(), config.segment.roles)
    return values


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


def _save_predictions(run: Path, dataset: Dataset, results: Sequence[FoldResult]) -> None:
    """Write predictions.parquet, and of the first repeat embeddings.parquet and attention.parquet."""
    features = dataset.features
    tables = []
    for result in results:
        for task, probabilities in result.probabilities.items():
            rows = len(result.test)
            targets = features.targets[task][result.test].astype(np.float64)
            tables.append(
                pa.table(
                    {
                        "task": pa.repeat(task, rows),
                        "variant": pa.repeat(result.variant, rows),
                        "repeat": pa.repeat(result.repeat, rows),
                        "fold": pa.repeat(result.fold, rows),
                        "doc_id": features.doc_ids[result.test].tolist(),
                        "group": [dataset.documents[i].group for i in result.test],
                        "target": pa.array(
                            [np.atleast_1d(y).tolist() for y in targets], pa.list_(pa.float64())
                        ),
                        "decision": pa.array(
                            [np.atleast_1d(d).astype(np.float64).tolist() for d in result.decisions[task]],
                            pa.list_(pa.float64()),
                        ),
                        "probability": pa.array(
                            [np.atleast_1d(p).astype(np.float64).tolist() for p in probabilities],
                            pa.list_(pa.float64()),
                        ),
                    }
                )
            )
    pq.write_table(pa.concat_tables(tables), run / "predictions.parquet")
    first = [r for r in results if r.variant == "hilbert" and r.repeat == 0]
    ids = [doc_id for r in first for doc_id in features.doc_ids[r.test].tolist()]
    fold = [r.fold for r in first for _ in r.test]
    columns = {
        name: [row.tolist() for r in first for row in r.embeddings[name]]
        for name in ("audio", "text", "joint")
    }
    pq.write_table(pa.table({"doc_id": ids, "fold": fold, **columns}), run / "embeddings.parquet")
    timeline: dict[str, list[Any]] = {}
    for modality in MODALITIES:
        part = getattr(features, modality)
        if part is not None:
            spans = [slice(part.offsets[i], part.offsets[i + 1]) for r in first for i in r.test]
            timeline[f"{modality}_weight"] = [w.tolist() for r in first for w in r.attention[modality]]
            timeline[f"{modality}_start"] = [part.start[span].tolist() for span in spans]
            timeline[f"{modality}_end"] = [part.end[span].tolist() for span in spans]
    pq.write_table(pa.table({"doc_id": ids, "fold": fold, **timeline}), run / "attention.parquet")


def _unless(shortcut: str, roles: Sequence[str]) -> str:
    """Return what else a shortcut may be: where all speakers are embedded, labels are about one of them."""
    if roles or shortcut == LENGTH:
        return ""
    return (
        "; if the labels are about this speaker, it is none: then embed with segment.roles set to that role"
    )


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
