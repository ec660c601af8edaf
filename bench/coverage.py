"""Do the intervals and tests keep their levels? A simulation with known truth, by number of groups.

Documents of a group share a disturbance, and labels belong to documents or to whole groups. Two linear
classifiers of equal merit (each sees its own, equally good features) are cross-validated 5 x 5 as `evaluate`
does. Their true AUC is that of the same fitted classifiers on many fresh documents; the true difference
of the two methods is 0. The table shows how often the 95 % intervals contain the truth, how often percentile
intervals of the same resamples do, and how often each test of the difference rejects at 5 %.

    python -m bench.coverage [--datasets 200] [--resamples 200] [--processes 2]
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import special, stats

from bench.measure import Record
from hilbert_ray.config import FoldsConfig
from hilbert_ray.folds import Folds, FoldsError, make_folds
from hilbert_ray.metrics import (
    Predictions,
    compare_predictions,
    defined_mean,
    evaluate_predictions,
    headline,
    ratio,
    resample_groups,
)

GROUPS = (10, 20, 40, 80)
DIM = 5
COLUMNS = {  # and the width of each in the table
    "within": 8, "pooled": 8, "percentile": 12, "width": 8, "given": 8, "bootstrap": 12, "corrected t": 12,
}  # fmt: skip
FORMATS = {name: ".2f" if name in ("width", "given") else ".3f" for name in COLUMNS}
FRESH = 6000  # documents to measure the truth on: enough for its error to be far below an interval's width


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """A kind of data set.

    prior: class frequencies. distance: of the class means. shared_labels: how far groups share labels, from 0
    to 1. disturbance: standard deviation of what the documents of a group share.
    """

    name: str
    prior: tuple[float, ...]
    distance: float
    shared_labels: float
    group_size: int = 4
    disturbance: float = 0.6


COHORTS = (
    Cohort(name="2 classes, labels of documents", prior=(0.6, 0.4), distance=1.2, shared_labels=0.5),
    Cohort(name="3 classes, the rarest 10 %", prior=(0.7, 0.2, 0.1), distance=1.5, shared_labels=0.5),
    Cohort(name="2 classes, labels of groups", prior=(0.6, 0.4), distance=1.2, shared_labels=1.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Results on one simulated data set; intervals are (low, high), NaN if undefined."""

    truth: float
    truth_pooled: float
    within: tuple[float, float]
    pooled: tuple[float, float]
    percentile: tuple[float, float]
    p_bootstrap: float
    p_corrected_t: float


def draw(
    cohort: Cohort, group: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels [N] and two equally good sets of features [N, DIM] for documents of these groups."""
    classes, size = len(cohort.prior), int(group.max()) + 1
    of_groups = generator.choice(classes, size, p=cohort.prior)[group]
    of_documents = generator.choice(classes, len(group), p=cohort.prior)
    labels = np.where(generator.random(len(group)) < cohort.shared_labels, of_groups, of_documents)
    means = cohort.distance * np.eye(classes, DIM)[labels]
    disturbances = [cohort.disturbance * generator.normal(size=(size, DIM))[group] for _ in range(2)]
    return labels, [means + disturbance + generator.normal(size=means.shape) for disturbance in disturbances]


def discriminant(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [DIM, classes] and biases of linear discriminant analysis with a shrunk covariance."""
    present = [x[y == k].mean(0) if (y == k).any() else x.mean(0) for k in range(classes)]
    means = np.stack(present)
    centred = x - means[y]
    covariance = centred.T @ centred / max(len(x) - classes, 1) + 0.3 * np.eye(DIM)
    weights = np.linalg.solve(covariance, means.T)
    prior = (np.bincount(y, minlength=classes) + 0.5) / len(y)
    return weights, np.log(prior) - 0.5 * (means * weights.T).sum(1)


def macro_auc(scores: np.ndarray, y: np.ndarray) -> float:
    """Return the macro one-vs-rest AUC of many untied scores [N, classes]."""
    aucs = []
    for k in range(scores.shape[1]):
        positive = y == k
        above = stats.rankdata(scores[:, k])[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
        aucs.append(above / (positive.sum() * (~positive).sum()))
    return float(np.mean(aucs))


def cross_validate(
    x: np.ndarray, y: np.ndarray, folds: Folds, classes: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return out-of-fold probabilities [repeats, N, classes] and each network's parameters [DIM + 1, K]."""
    probabilities = np.zeros((folds.repeats, len(y), classes))
    networks = []
    for fold in folds:
        weights, bias = discriminant(x[fold.train], y[fold.train], classes)
        probabilities[fold.repeat, fold.test] = special.softmax(x[fold.test] @ weights + bias, axis=1)
        networks.append(np.vstack([weights, bias]))
    return probabilities, networks


def truths(
    networks: list[np.ndarray], cohort: Cohort, repeats: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the mean AUC of the networks, and the AUC if a random one of a repeat scores each document."""
    y, features = draw(cohort, np.arange(FRESH), generator)
    probabilities = np.stack([special.softmax(features[0] @ n[:-1] + n[-1], axis=1) for n in networks])
    by_repeat = probabilities.reshape(repeats, -1, FRESH, len(cohort.prior))
    choice = generator.integers(0, by_repeat.shape[1], FRESH)
    pooled = [macro_auc(scores[choice, np.arange(FRESH)], y) for scores in by_repeat]
    return float(np.mean([macro_auc(scores, y) for scores in probabilities])), float(np.mean(pooled))


def percentile_interval(predictions: Predictions, resamples: int, seed: int) -> tuple[float, float]:
    """Return the plain percentile interval of the AUC within folds, the baseline."""
    metric, test_sets = headline(predictions), predictions.test_sets()
    assert metric.pairs is not None
    counts = resample_groups(int(predictions.group.max()) + 1, resamples, np.random.default_rng(seed))
    concordant, pairs = metric.pairs(test_sets, counts[predictions.group])
    aucs = defined_mean(ratio(concordant.sum(1), pairs.sum(1)))
    low, high = np.nanquantile(aucs, [0.025, 0.975])
    return float(low), float(high)


def simulate(cohort: Cohort, groups: int, resamples: int, seed: int) -> Outcome:
    """Draw one data set, cross-validate both classifiers, and return their intervals, tests and true AUC."""
    generator = np.random.default_rng([seed, groups])
    classes = len(cohort.prior)
    while True:  # draw again if cross-validation refuses the cohort: such data are not in question
        half = cohort.group_size // 2
        group = np.repeat(np.arange(groups), generator.integers(half, 3 * half + 1, groups))
        y, features = draw(cohort, group, generator)
        try:
            ids = [str(i) for i in range(len(y))]
            folds = make_folds(ids, group, y[:, None] == np.arange(classes), FoldsConfig(), seed)
            break
        except FoldsError:
            continue
    systems = []
    networks: list[list[np.ndarray]] = []
    for x in features:
        probabilities, fitted = cross_validate(x, y, folds, classes)
        networks.append(fitted)
        rows = probabilities.reshape(-1, classes)
        systems.append(
            Predictions(
                kind="binary" if classes == 2 else "multiclass",
                classes=tuple("abc"[:classes]),
                probabilities=rows,
                decisions=rows.argmax(1),
                targets=np.tile(y, folds.repeats),
                fold=folds.assignment.reshape(-1),
                repeat=np.repeat(np.arange(folds.repeats), len(y)),
                group=np.tile(group, folds.repeats),
                document=np.tile(np.arange(len(y)), folds.repeats),
            )
        )
    truth, truth_pooled = truths(networks[0], cohort, folds.repeats, generator)
    auc = evaluate_predictions(systems[0], resamples, seed, only=("auc",))["auc"]
    comparison = compare_predictions(systems[0], systems[1], resamples, seed)

    def number(value: float | None) -> float:
        return np.nan if value is None else value

    return Outcome(
        truth=truth,
        truth_pooled=truth_pooled,
        within=(number(auc["within_low"]), number(auc["within_high"])),
        pooled=(number(auc["low"]), number(auc["high"])),
        percentile=percentile_interval(systems[0], resamples, seed),
        p_bootstrap=number(comparison["p_bootstrap"]),
        p_corrected_t=number(comparison["p_corrected_t"]),
    )


def concluded(outcomes: list[Outcome]) -> dict[str, float]:
    """Return the columns of one row of the table, see `COLUMNS`."""

    def coverage(name: str, truth: str) -> float:
        ends = np.array([getattr(outcome, name) for outcome in outcomes])
        true = np.array([getattr(outcome, truth) for outcome in outcomes])
        is_defined = np.isfinite(ends).all(1)
        return float(((ends[:, 0] <= true) & (true <= ends[:, 1]))[is_defined].mean())

    def rejected(name: str) -> float:
        p = np.array([getattr(outcome, name) for outcome in outcomes])
        return float((p[np.isfinite(p)] < 0.05).mean())

    ends = np.array([outcome.within for outcome in outcomes])
    return {
        "within": coverage("within", "truth"),
        "pooled": coverage("pooled", "truth_pooled"),
        "percentile": coverage("percentile", "truth"),
        "width": float(np.nanmedian(ends[:, 1] - ends[:, 0])),
        "given": float(np.isfinite(ends).all(1).mean()),
        "bootstrap": rejected("p_bootstrap"),
        "corrected t": rejected("p_corrected_t"),
    }


def main() -> None:
    """Print one table per cohort, with one row per number of groups."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=200, help="data sets per row")
    parser.add_argument("--resamples", type=int, default=200, help="bootstrap resamples per data set")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="worker processes")
    settings = parser.parse_args()
    error = 1.96 * np.sqrt(0.95 * 0.05 / settings.datasets)
    print(f"{settings.datasets} data sets per row; a rate near 0.95 or 0.05 is known to +-{error:.3f}")
    began = time.perf_counter()
    record = Record("coverage")
    with ProcessPoolExecutor(settings.processes) as pool:
        for cohort in COHORTS:
            print(f"\n{cohort.name}")
            print(f"{'':8}{'coverage of 95 %':>28}{'':16}{'rejected at 5 %':>24}")
            print(f"{'groups':<8}" + "".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
            rows = {}
            for groups in GROUPS:
                simulate_one = partial(simulate, cohort, groups, settings.resamples)
                columns = concluded(list(pool.map(simulate_one, range(settings.datasets), chunksize=4)))
                cells = (f"{columns[name]:{width}{FORMATS[name]}}" for name, width in COLUMNS.items())
                print(f"{groups:<8}" + "".join(cells), flush=True)
                rows[f"{groups} groups"] = columns
            record.keep(
                cohort.name, rows, datasets=settings.datasets, resamples=settings.resamples, formats=FORMATS
            )
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
