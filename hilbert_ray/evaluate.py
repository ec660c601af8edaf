"""Cross-validation: `fit` over group-disjoint folds as Ray tasks, beside baselines on the same folds.

Everything fitted (scaler, network, temperature) sees the training groups of its fold only; `run_fold` is
handed nothing else. Out-of-fold predictions are kept, and all scores are computed from them. Each finished
fold is written to RUN/folds, so that a run that was killed goes on with the folds that are missing.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hilbert_ray import __version__, losses, metrics
from hilbert_ray.batch import Features
from hilbert_ray.cluster import connect, removed_at_the_end
from hilbert_ray.config import MODALITIES, Config, Modality, TaskConfig, to_dict
from hilbert_ray.dataset import Dataset, open_dataset, save_run
from hilbert_ray.fit import fit
from hilbert_ray.folders import APART, Folder, folder
from hilbert_ray.folds import Fold, Folds, choose_strata, load, make_folds, save
from hilbert_ray.model import Prediction
from hilbert_ray.presets import BASELINE, VARIANTS, ablations
from hilbert_ray.shortcuts import LENGTH, SHORTCUTS_FROM, shared_sentences, shortcuts, transcripts
from hilbert_ray.store import Store

log = logging.getLogger(__name__)

Method = Literal["network", "late_fusion", "logistic"]
STRENGTHS = np.logspace(-4, 0, 5)  # from which logistic regression takes its C


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
        probabilities, decisions = logistic(features, config.tasks, train, test)
    elif variant.method == "late_fusion":
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


def logistic(
    features: Features, tasks: Mapping[str, TaskConfig], train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return probabilities and decisions of the baseline to beat: mean and std, linear model.

    Logistic regression on standardised statistics, its strength chosen on inner group folds by log loss; the
    class decision is corrected by the prior, as that of the network is. Ridge regression for numbers; one
    model a label for multilabel.
    """
    parts = [part.wide for part in (features.audio, features.text) if part is not None]
    x = np.concatenate(parts, 1)
    probabilities, decisions = {}, {}
    for name, task in tasks.items():
        y = features.targets[name]
        if task.kind == "regression":
            known = train[np.isfinite(y[train])]
            model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))).fit(x[known], y[known])
            probabilities[name] = decisions[name] = model.predict(x[test]).astype(np.float32)
            continue
        width = 2 if task.kind == "multilabel" else len(task.classes)
        columns = y.T if task.kind == "multilabel" else y[None]
        found, decided = [], []
        for column in columns:
            known = train[column[train] >= 0]
            counts = np.bincount(column[known].astype(np.int64), minlength=width)
            p = _logistic(x, column, features.groups, known, test, width)
            found.append(p)
            decided.append((p / np.maximum(counts, 0.5)).argmax(1))
        is_multilabel = task.kind == "multilabel"
        probabilities[name] = np.stack([p[:, 1] for p in found], 1) if is_multilabel else found[0]
        decisions[name] = np.stack(decided, 1) if is_multilabel else decided[0]
    return probabilities, decisions


def _logistic(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray, width: int
) -> np.ndarray:
    """Return class probabilities float32 [test, width]; classes that training lacks get 0."""
    found = np.zeros((len(test), width), np.float32)
    truth = y[train].astype(np.int64)
    classes = np.unique(truth)
    if len(classes) < 2:
        found[:, classes] = 1.0
        return found
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTHS[2], max_iter=1000))
    folds = _inner_splits(truth, groups[train])
    if folds:
        strengths = {"logisticregression__C": STRENGTHS}
        search = GridSearchCV(model, strengths, scoring=_mean_log_probability, cv=folds)
        model = search.fit(x[train], truth).best_estimator_
    else:
        model.fit(x[train], truth)
    found[:, model.classes_] = model.predict_proba(x[test])
    return found


def _inner_splits(truth: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return up to 3 group folds; those whose training part has one class only can teach nothing."""
    count = min(3, len(np.unique(groups)))
    splits = GroupKFold(count).split(truth, groups=groups) if count > 1 else ()
    return [(train, test) for train, test in splits if len(np.unique(truth[train])) > 1]


def _mean_log_probability(model: Any, x: np.ndarray, y: np.ndarray) -> float:  # noqa: ANN401 - a scikit-learn model
    """Return the mean log probability of the truth; a class that the model never saw has 1e-6."""
    p = model.predict_proba(x)
    column = np.searchsorted(model.classes_, y)
    known = np.isin(y, model.classes_)
    truth = np.where(known, p[np.arange(len(y)), np.where(known, column, 0)], 0)
    return float(np.log(np.maximum(truth, 1e-6)).mean())


def late_fusion(
    features: Features, config: Config, train: np.ndarray, test: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the mean of an audio-only and a text-only network, of whichever a document has."""
    outputs: list[tuple[Prediction, np.ndarray]] = []
    labels: Mapping[str, torch.Tensor] = {}
    for modality in MODALITIES:
        seen = features.only(modality)
        model = fit(config, seen, train).model()
        part = getattr(seen, modality)
        outputs.append((model.predict(seen.take(test)), part.lengths[test] > 0))
        labels = model.labels
    probabilities, decisions = {}, {}
    for name, task in config.tasks.items():

        def mean(values: Sequence[np.ndarray]) -> np.ndarray:
            weights = [present.reshape(-1, *[1] * (values[0].ndim - 1)) for _, present in outputs]
            return np.asarray(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))

        probabilities[name] = mean([prediction.probabilities[name] for prediction, _ in outputs])
        logits = torch.from_numpy(mean([prediction.logits[name] for prediction, _ in outputs]))
        decisions[name] = losses.decide(task, logits, labels[name]).numpy()
    return probabilities, decisions


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


def gather(
    features: Features, settings: TaskConfig, task: str, results: Sequence[FoldResult]
) -> metrics.Predictions:
    """Return one variant's predictions of one task over all folds, by repeat and document."""
    document = np.concatenate([r.test for r in results])
    repeat = np.concatenate([np.full(len(r.test), r.repeat) for r in results])
    fold = np.concatenate([np.full(len(r.test), r.fold) for r in results])
    order = np.lexsort([document, repeat])
    decisions = np.concatenate([r.decisions[task] for r in results])[order]
    return metrics.Predictions(
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
