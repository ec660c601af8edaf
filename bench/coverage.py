"""Do the intervals and tests keep their levels? A simulation with known truth, by number of groups.

Documents of a group share a disturbance, and labels belong to documents or to whole groups. Two linear
classifiers of equal merit (each sees its own, equally good features) are cross-validated 5 x 5 as `evaluate`
does. Their true AUC is that of the fitted classifiers on fresh documents: what training adds by chance is
part of the truth. The true difference of the two methods is 0: what training adds to it is chance, as a test
of methods must see it. In the last cohort nothing is trained: both score with the best direction, and differ
only by a little noise of their own, as two variants of one network do.

The table shows how often the 95 % intervals contain the truth, their median width, and how often the tests
of the difference reject at 5 %: those of today, and beside them ("boot") the cluster bootstrap of all scores,
which AUC had before.

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
    Partition,
    Predictions,
    bootstrap_error,
    bootstrap_interval,
    compare_predictions,
    defined_mean,
    evaluate_predictions,
    headline,
    paired_t,
    problems,
    ratio,
    resample_groups,
)

GROUPS = (10, 20, 40, 80)
DIM = 5
COLUMNS = {  # and the width of each in the table
    "within": 8, "boot": 8, "pooled": 9, "boot pooled": 13, "width": 8, "boot width": 12, "given": 8,
    "test": 8, "boot test": 11, "corrected t": 13,
}  # fmt: skip
FORMATS = {name: ".2f" if "width" in name or name == "given" else ".3f" for name in COLUMNS}
FRESH = 3000  # documents to measure the truth of three classes on: its error is far below an interval's width


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """A kind of data set.

    prior: class frequencies. distance: of the class means. shared_labels: how far groups share labels, from 0
    to 1. disturbance: standard deviation of what the documents of a group share. noise: None for classifiers
    that are trained; else both score with the best direction plus noise of this standard deviation.
    """

    name: str
    prior: tuple[float, ...]
    distance: float
    shared_labels: float
    group_size: int = 4
    disturbance: float = 0.6
    noise: float | None = None


COHORTS = (
    Cohort(name="2 classes, labels of documents", prior=(0.6, 0.4), distance=1.2, shared_labels=0.5),
    Cohort(name="3 classes, the rarest 10 %", prior=(0.7, 0.2, 0.1), distance=1.5, shared_labels=0.5),
    Cohort(name="2 classes, labels of groups", prior=(0.6, 0.4), distance=1.2, shared_labels=1.0),
    Cohort(
        name="2 classes, nearly the same scores", prior=(0.7, 0.3), distance=1.2, shared_labels=0.5, noise=0.3
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Results on one simulated data set; intervals are (low, high), NaN if undefined."""

    truth: float
    truth_pooled: float
    within: tuple[float, float]
    pooled: tuple[float, float]
    boot_within: tuple[float, float]
    boot_pooled: tuple[float, float]
    p: float
    p_boot: float
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
    classes = len(cohort.prior)
    if cohort.noise is not None:
        spread = np.sqrt(1 + cohort.disturbance**2 + cohort.noise**2)
        return (float(special.ndtr(cohort.distance / spread)),) * 2
    if classes == 2:
        # Scores of fresh documents are normal, so that an AUC is Phi of a difference of means over its
        # spread.
        low, high = cohort.distance * np.eye(2, DIM)
        both = np.stack([n[:, 1] - n[:, 0] for n in networks]).reshape(repeats, -1, DIM + 1)
        weights, bias = both[..., :-1], both[..., -1]
        variance = (1 + cohort.disturbance**2) * (weights**2).sum(-1)
        above, below = weights @ high + bias, weights @ low + bias
        pairs = above[:, :, None] - below[:, None], np.sqrt(variance[:, :, None] + variance[:, None])
        # A classifier that saw one class alone gives every document one score: an AUC of 1/2.
        aucs = special.ndtr(np.divide(*pairs, out=np.zeros_like(pairs[0]), where=pairs[1] > 0))
        return float(np.diagonal(aucs, axis1=1, axis2=2).mean()), float(aucs.mean())
    y, features = draw(cohort, np.arange(FRESH), generator)
    probabilities = np.stack([special.softmax(features[0] @ n[:-1] + n[-1], axis=1) for n in networks])
    by_repeat = probabilities.reshape(repeats, -1, FRESH, len(cohort.prior))
    choice = generator.integers(0, by_repeat.shape[1], FRESH)
    pooled = [macro_auc(scores[choice, np.arange(FRESH)], y) for scores in by_repeat]
    return float(np.mean([macro_auc(scores, y) for scores in probabilities])), float(np.mean(pooled))


def bootstrap(
    first: Predictions, second: Predictions, resamples: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return what AUC had before: intervals `within` and pooled of the first, and the p-value of both.

    The cluster bootstrap that other scores still have, from counts between groups: with a resample's number
    of draws of each group, w, the counts of its pairs are w' C w.
    """
    metric, groups = headline(first), int(first.group.max()) + 1
    needed = [
        np.bincount(first.group[problem.rows[side]], minlength=groups) > 0
        for problem in problems(first)
        for side in (problem.positive, ~problem.positive)
    ]
    needed = [has for has in needed if has.any()]
    draws = resample_groups(groups, resamples, np.random.default_rng(seed), np.array(needed))
    documents = len(np.unique(first.document))

    def shares(predictions: Predictions, partition: Partition) -> tuple[np.ndarray, np.ndarray]:
        counts = headline(predictions).group_pairs
        assert counts is not None
        of_all = counts(partition, predictions.group, groups)
        drawn = [((matrix @ draws) * draws).sum(1) for matrix in of_all]
        return ratio(*(matrix.sum((1, 2)) for matrix in of_all)), ratio(*drawn)

    def interval(partition: Partition) -> tuple[float, float]:
        values, drawn = shares(first, partition)
        ends = bootstrap_interval(values, drawn, metric.support, groups, documents, "share")
        return ends.low, ends.high

    ours, theirs = (shares(predictions, first.test_sets()) for predictions in (first, second))
    error = bootstrap_error(ours[0] - theirs[0], ours[1] - theirs[1], metric.support, groups)
    p = paired_t(float(defined_mean(ours[0] - theirs[0])), error).p
    return interval(first.test_sets()), interval(first.repeats()), p


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
        if cohort.noise is None:
            probabilities, fitted = cross_validate(x, y, folds, classes)
            networks.append(fitted)
        else:
            noise = cohort.noise * generator.normal(size=(folds.repeats, len(y)))
            above = special.expit((features[0][:, 1] - features[0][:, 0]) / np.sqrt(2) + noise)
            probabilities = np.stack([1 - above, above], -1)
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
    truth, truth_pooled = truths(networks[0] if networks else [], cohort, folds.repeats, generator)
    auc = evaluate_predictions(systems[0], only=("auc",))["auc"]
    comparison = compare_predictions(systems[0], systems[1])
    boot_within, boot_pooled, p_boot = bootstrap(systems[0], systems[1], resamples, seed)

    def number(value: float | None) -> float:
        return np.nan if value is None else value

    return Outcome(
        truth=truth,
        truth_pooled=truth_pooled,
        within=(number(auc["within_low"]), number(auc["within_high"])),
        pooled=(number(auc["low"]), number(auc["high"])),
        boot_within=boot_within,
        boot_pooled=boot_pooled,
        p=number(comparison["p_paired_t"]),
        p_boot=p_boot,
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

    def width(name: str) -> float:
        return float(np.nanmedian([np.diff(getattr(outcome, name)) for outcome in outcomes]))

    return {
        "within": coverage("within", "truth"),
        "boot": coverage("boot_within", "truth"),
        "pooled": coverage("pooled", "truth_pooled"),
        "boot pooled": coverage("boot_pooled", "truth_pooled"),
        "width": width("within"),
        "boot width": width("boot_within"),
        "given": float(np.isfinite([outcome.within for outcome in outcomes]).all(1).mean()),
        "test": rejected("p"),
        "boot test": rejected("p_boot"),
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
            print(f"{'':8}{'coverage of 95 %':>38}{'':28}{'rejected at 5 %':>32}")
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
