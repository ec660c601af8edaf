"""How good are the predictions where HILBERT should help? Measured on generated documents with known truth.

- idle: `heard` depends on audio alone, `read` (nearly trivial) on text alone, `both` on both. For each task
  the AUC of HILBERT, with its heads weighted and with all counting alike, of networks of one modality, and of
  the rivals.
- labels: 60 documents have a label and 1,000 have none; both modalities share a small part that the label
  depends on. The AUC of the whole objective and of the task loss alone.
- contrast: the same with other widths and noise in turn (`SETTINGS`), and with other forms of the objective:
  the AUC of each less that of the task loss alone, and retrieval of a document's text by its audio.
- calibration: cohorts of 100 to 1,000 documents with prevalences of 0.05 to 0.5 and audio that says nothing
  to much. Out of fold: log loss above that of the base rate, mean probability less prevalence, slope and AUC.

Each seed draws new documents. The table shows medians and ranges over seeds.

    python -m bench.quality [--parts idle labels contrast calibration] [--seeds 5] [--cohorts 20]
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bench.measure import Record
from hilbert_ray.config import HILBERT, Config, FitConfig, FoldsConfig, TaskConfig, without
from hilbert_ray.evaluation import Variant, run_fold
from hilbert_ray.features import Features, Ragged, mean_std
from hilbert_ray.folds import Fold, make_folds
from hilbert_ray.metrics import retrieval_ranks
from hilbert_ray.model import Hilbert
from hilbert_ray.training import fit

YES_NO = ("no", "yes")
TRAIN = 1060
"""Documents to train on with few labels: 60 labelled, the others not."""
Result = dict[str, float]


def ragged(latent: np.ndarray, dim: int, gain: float, noise: float, rng: np.random.Generator) -> Ragged:
    """Return 3 to 8 segments for each document: a linear image of its latent vector, plus noise."""
    lengths = rng.integers(3, 9, len(latent))
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    image = gain * rng.normal(size=(latent.shape[1], dim)) / np.sqrt(latent.shape[1])
    values = np.repeat(latent @ image, lengths, 0) + noise * rng.normal(size=(offsets[-1], dim))
    values = values.astype(np.float32)
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in lengths]).astype(np.float32)
    wide = np.stack([mean_std(values[a:b]) for a, b in pairwise(offsets)])
    return Ragged(values=values, position=place, start=place, end=place, offsets=offsets, wide=wide)


def auc(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the AUC of the second class."""
    return float(roc_auc_score(truth, probabilities[:, 1]))


# An idle modality and a trivial task


def idle_features(seed: int, train: int = 180, test: int = 600) -> Features:
    """Return documents of which the first `train` are to be trained on, in 40 groups of their own."""
    rng, count = np.random.default_rng([2, seed]), train + test
    audio, text = rng.normal(size=(2, count, 12))
    weights = np.array([1.0, 0.5])
    heard, read = audio[:, :2] @ weights, text[:, :2] @ weights
    noise = rng.normal(size=(3, count))
    targets = {
        "heard": (heard + 0.6 * noise[0] > 0.8).astype(np.int64),
        "read": (read + 0.1 * noise[1] > 0).astype(np.int64),
        "both": (heard + read + 0.6 * noise[2] > 0.9).astype(np.int64),
    }
    return Features(
        doc_ids=np.array([f"d{i:04d}" for i in range(count)]),
        groups=np.concatenate([np.arange(train) % 40, 100 + np.arange(test)]),
        audio=ragged(audio, 78, 0.5, 1.0, rng),
        text=ragged(text, 256, 0.6, 1.0, rng),
        targets=targets,
    )


def run_idle(seed: int) -> Result:
    """Return the AUC of each task and way."""
    features = idle_features(seed)
    config = Config(tasks={name: TaskConfig(kind="binary", classes=YES_NO) for name in features.targets})
    train = np.flatnonzero(features.groups < 100)
    fold = Fold(repeat=0, fold=0, train=train, test=np.flatnonzero(features.groups >= 100))
    fitted = fit(config, features, train)
    alike = Hilbert(fitted.networks, config, {}, {}).eval()
    tested = features.take(fold.test)
    ways: dict[str, Mapping[str, np.ndarray]] = {
        "HILBERT": fitted.model().predict(tested).probabilities,
        "heads alike": alike.predict(tested).probabilities,
    }
    for variant in (
        Variant(name="audio only", config=config, modality="audio"),
        Variant(name="text only", config=config, modality="text"),
        Variant(name="linear", config=config, method="logistic"),
        Variant(name="late fusion", config=config, method="late_fusion"),
    ):
        ways[variant.name] = run_fold(features, variant, fold).probabilities
    truth = {task: values[fold.test] for task, values in features.targets.items()}
    return {f"{task}: {way}": auc(p[task], truth[task]) for task in truth for way, p in ways.items()}


# Few labels, many recordings

OBJECTIVES: Mapping[str, Callable[[Config], Config]] = {
    "task loss alone": lambda c: without(
        c, "contrastive", "cka", "balance", "load_balance", "router_z", "redundancy"
    ),
    "whole objective": lambda c: c,
}
FORMS: Mapping[str, Callable[[Config], Config]] = {
    f"{contrast}{label}": partial(
        lambda c, contrast, terms: without(replace(c, loss=replace(c.loss, contrast=contrast)), *terms),
        contrast=contrast,
        terms=terms,
    )
    for contrast in ("reciprocal", "direct", "both")
    for label, terms in {"": (), ", no CKA": ("cka",), ", no balance": ("balance",)}.items()
}
# Widths of audio and text, and how noisy audio is: real encoders differ in both.
SETTINGS = ((1024, 64, 1.5), (64, 1024, 1.5), (256, 256, 1.0), (1024, 64, 3.0), (128, 64, 0.5))


def few_labels(seed: int, dims: tuple[int, int], audio_noise: float) -> tuple[Features, np.ndarray]:
    """Return 60 labelled and 1,000 unlabelled documents, then 600 to test; and the truth of all."""
    rng, labelled, count = np.random.default_rng([3, seed]), 60, TRAIN + 600
    shared = rng.normal(size=(count, 4))
    audio, text = (np.concatenate([shared, rng.normal(size=(count, 12))], 1) for _ in range(2))
    noise = rng.normal(size=count)
    y = (shared @ np.array([1.0, 1.0, -1.0, 0.5]) + 0.5 * noise > 0).astype(np.int64)
    known = y.copy()
    known[labelled:] = -1
    features = Features(
        doc_ids=np.array([f"d{i:04d}" for i in range(count)]), groups=np.arange(count),
        audio=ragged(audio, dims[0], 0.35, audio_noise, rng), text=ragged(text, dims[1], 0.6, 1.0, rng),
        targets={"y": known},
    )  # fmt: skip
    return features, y


def fit_few_labels(features: Features, change: Callable[[Config], Config]) -> Hilbert:
    """Return the model of default settings but for `change`, one seed and no inner folds."""
    task = TaskConfig(kind="binary", classes=YES_NO)
    config = Config(tasks={"y": task}, fit=FitConfig(seeds=1), folds=FoldsConfig(inner=0))
    return fit(change(config), features, np.arange(TRAIN)).model()


def run_labels(seed: int) -> Result:
    """Return the test AUC of each objective."""
    features, y = few_labels(seed, (1024, 64), 1.5)
    test = np.arange(TRAIN, len(y))
    tested, result = features.take(test), {}
    for name, change in OBJECTIVES.items():
        model = fit_few_labels(features, change)
        result[name] = auc(model.predict(tested).probabilities["y"], y[test])
        result[f"{name}, audio alone"] = auc(model.predict(tested.only("audio")).probabilities["y"], y[test])
    return result


def run_contrast(seed: int) -> Result:
    """Return what each form of the objective adds to the AUC of the task loss alone, and its retrieval."""
    *dims, audio_noise = SETTINGS[seed % len(SETTINGS)]
    features, y = few_labels(100 + seed, (dims[0], dims[1]), audio_noise)
    test, result = np.arange(TRAIN, len(y)), {}
    tested = features.take(test)
    alone = fit_few_labels(features, OBJECTIVES["task loss alone"]).predict(tested)
    for name, change in FORMS.items():
        prediction = fit_few_labels(features, change).predict(tested)
        result[f"AUC gained, {name}"] = auc(prediction.probabilities["y"], y[test]) - auc(
            alone.probabilities["y"], y[test]
        )
        embeddings = prediction.embeddings
        ranks = retrieval_ranks(embeddings.audio, embeddings.text)
        result[f"MRR, {name}"] = float((1 / ranks).mean())
    return result


# Calibration


def cohort(number: int) -> tuple[Features, float]:
    """Return one cohort and how much its audio says, as the distance of the class means."""
    rng = np.random.default_rng([4, number])
    count = int(np.geomspace(100, 1000, 5)[number % 5])
    prevalence = (0.05, 0.11, 0.25, 0.5)[number % 4]
    distance = (0.0, 0.6, 1.2, 1.8, 0.3)[number // 4 % 5]
    y = np.zeros(count, np.int64)
    y[rng.permutation(count)[: max(round(prevalence * count), 5)]] = 1
    audio, text = rng.normal(size=(2, count, 8))
    audio[:, 0] += distance * y
    features = Features(
        doc_ids=np.array([f"d{i:04d}" for i in range(count)]), groups=np.arange(count) // 2,
        audio=ragged(audio, 40, 1.0, 1.0, rng), text=ragged(text, 60, 1.0, 1.0, rng), targets={"y": y},
    )  # fmt: skip
    return features, distance


def run_cohort(number: int) -> Result:
    """Return how well out-of-fold probabilities of one cohort hold."""
    features, _ = cohort(number)
    y = features.targets["y"]
    config = Config(
        tasks={"y": TaskConfig(kind="binary", classes=YES_NO)}, folds=FoldsConfig(folds=4, repeats=1)
    )
    p = np.zeros(len(y))
    for fold in make_folds(features.doc_ids, features.groups, y, config.folds, seed=number):
        found = run_fold(features, Variant(name=HILBERT, config=config), fold)
        p[fold.test] = found.probabilities["y"][:, 1]
    prevalence = y.mean()
    loss = -np.where(y == 1, np.log(p), np.log1p(-p)).mean()
    base = -(prevalence * np.log(prevalence) + (1 - prevalence) * np.log1p(-prevalence))
    logit = np.log(p / (1 - p))[:, None]
    slope = LogisticRegression(C=1e6, max_iter=1000).fit(logit, y).coef_[0, 0]
    result = {
        "log loss above the base rate's": loss - base,
        "mean probability less prevalence": p.mean() - prevalence,
        "AUC": roc_auc_score(y, p),
    }
    if result["AUC"] > 0.7:
        result["slope where AUC > 0.7"] = slope
    return {name: float(value) for name, value in result.items()}


RUNS: Mapping[str, Callable[[int], Result]] = {
    "idle": run_idle, "labels": run_labels, "contrast": run_contrast, "calibration": run_cohort,
}  # fmt: skip
TITLES = {
    "idle": "AUC on 600 test documents, 180 trained on: an idle modality and a trivial second task",
    "labels": "AUC on 600 test documents, 60 labelled and 1,000 unlabelled ones trained on",
    "contrast": "Few labels in five settings: what forms of the objective add to the task loss alone",
    "calibration": "Probabilities out of fold, 4 folds, over generated cohorts",
}


def _one_thread() -> None:
    torch.set_num_threads(1)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=[*RUNS], default=[*RUNS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    record = Record("quality")
    with ProcessPoolExecutor(options.processes, initializer=_one_thread) as pool:
        for part in options.parts:
            count = options.cohorts if part == "calibration" else options.seeds
            rows = _rows(pool.map(RUNS[part], range(count)))
            for name, values in rows.items():
                print(f"  mean of {len(values)}: {np.mean(values):.3f} {name}", file=sys.stderr)
            record.table(TITLES[part], "", rows)


def _rows(results: Iterable[Result]) -> dict[str, list[float]]:
    """Return the values of each row over seeds."""
    rows: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.items():
            rows.setdefault(name, []).append(value)
    return rows


if __name__ == "__main__":
    main()
