"""Do the intervals and tests hold what they say? A simulation with known truth, by number of groups.

Documents of a group share a disturbance, and labels belong to documents or to whole groups. Two linear
classifiers of equal merit (each sees its own, equally good features) are cross-validated 5 x 5 as `evaluate`
does. Their true AUC is that of the very networks that were fitted, on many fresh documents; the true
difference of the two methods is 0. Counted: how often the 95 % intervals hold the truth, beside percentile
intervals of the same resamples, and how often each test of the difference rejects at 5 %.

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
FRESH = 6000  # documents on which the truth is measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """A kind of data set: class shares, distance of class means, and how far groups share labels (0 to 1)."""

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
    """What one simulated data set gave; intervals are (low, high), NaN where none was given."""

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
    found = []
    for k in range(scores.shape[1]):
        positive = y == k
        above = stats.rankdata(scores[:, k])[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
        found.append(above / (positive.sum() * (~positive).sum()))
    return float(np.mean(found))


def cross_validate(
    x: np.ndarray, y: np.ndarray, folds: Folds, classes: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return out-of-fold probabilities [repeats, N, classes] and each network's parameters [DIM + 1, K]."""
    probabilities = np.zeros((folds.repeats, len(y), classes))
    networks = []
    for part in folds:
        weights, bias = discriminant(x[part.train], y[part.train], classes)
        probabilities[part.repeat, part.test] = special.softmax(x[part.test] @ weights + bias, axis=1)
        networks.append(np.vstack([weights, bias]))
    return probabilities, networks


def truths(
    networks: list[np.ndarray], cohort: Cohort, repeats: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the mean AUC of the networks, and the AUC if a random one of a repeat scores each document."""
    y, features = draw(cohort, np.arange(FRESH), generator)
    scored = np.stack([special.softmax(features[0] @ n[:-1] + n[-1], axis=1) for n in networks])
    by_repeat = scored.reshape(repeats, -1, FRESH, len(cohort.prior))
    lot = generator.integers(0, by_repeat.shape[1], FRESH)
    pooled = [macro_auc(scores[lot, np.arange(FRESH)], y) for scores in by_repeat]
    return float(np.mean([macro_auc(scores, y) for scores in scored])), float(np.mean(pooled))


def percentile_interval(predictions: Predictions, resamples: int, seed: int) -> tuple[float, float]:
    """Return the plain percentile interval of the AUC within folds, the baseline."""
    metric, segments = headline(predictions), predictions.test_sets()
    assert metric.pairs is not None
    counts = resample_groups(int(predictions.group.max()) + 1, resamples, np.random.default_rng(seed))
    concordant, pairs = metric.pairs(segments, counts[predictions.group])
    drawn = defined_mean(ratio(concordant.sum(1), pairs.sum(1)))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def simulate(cohort: Cohort, groups: int, resamples: int, seed: int) -> Outcome:
    """Draw one data set, cross-validate both classifiers, and return what was concluded and what is true."""
    generator = np.random.default_rng([seed, groups])
    classes = len(cohort.prior)
    while True:  # cohorts that cross-validation refuses are no part of the question
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
    score = evaluate_predictions(systems[0], resamples, seed, only=("auc",))["auc"]
    compared = compare_predictions(systems[0], systems[1], resamples, seed)

    def number(value: float | None) -> float:
        return np.nan if value is None else value

    return Outcome(
        truth=truth,
        truth_pooled=truth_pooled,
        within=(number(score["within_low"]), number(score["within_high"])),
        pooled=(number(score["low"]), number(score["high"])),
        percentile=percentile_interval(systems[0], resamples, seed),
        p_bootstrap=number(compared["p_bootstrap"]),
        p_corrected_t=number(compared["p_corrected_t"]),
    )


def concluded(outcomes: list[Outcome]) -> dict[str, float]:
    """Return the columns of one line of the table, see `COLUMNS`."""

    def coverage(name: str, truth: str) -> float:
        ends = np.array([getattr(outcome, name) for outcome in outcomes])
        true = np.array([getattr(outcome, truth) for outcome in outcomes])
        given = np.isfinite(ends).all(1)
        return float(((ends[:, 0] <= true) & (true <= ends[:, 1]))[given].mean())

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
    """Print the table of all cohorts and numbers of groups."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=200, help="data sets for each line")
    parser.add_argument("--resamples", type=int, default=200, help="bootstrap resamples")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes")
    settings = parser.parse_args()
    error = 1.96 * np.sqrt(0.95 * 0.05 / settings.datasets)
    print(f"{settings.datasets} data sets a line; a share near 0.95 or 0.05 is known to +-{error:.3f}")
    began = time.perf_counter()
    record = Record("coverage")
    with ProcessPoolExecutor(settings.processes) as pool:
        for cohort in COHORTS:
            print(f"\n{cohort.name}")
            print(f"{'':8}{'coverage of 95 %':>28}{'':16}{'rejected at 5 %':>24}")
            print(f"{'groups':<8}" + "".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
            rows = {}
            for groups in GROUPS:
                one = partial(simulate, cohort, groups, settings.resamples)
                found = concluded(list(pool.map(one, range(settings.datasets), chunksize=4)))
                cells = (f"{found[name]:{width}{FORMATS[name]}}" for name, width in COLUMNS.items())
                print(f"{groups:<8}" + "".join(cells), flush=True)
                rows[f"{groups} groups"] = found
            record.keep(
                cohort.name, rows, datasets=settings.datasets, resamples=settings.resamples, formats=FORMATS
            )
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
