"""Out-of-fold predictions and the metrics that each kind of task has.

`Predictions` is what `evaluate` keeps of all folds and repeats: a row is one document in one repeat,
predicted by a network that did not see its group. `metrics` states each metric once, as a function of
partition and weights; `evaluation` calls it with weights of 1 for the score and with resampled counts for its
interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from hilbert_ray.config import TaskKind
from hilbert_ray.metrics import calibration, decisions, ranking
from hilbert_ray.metrics.intervals import IntervalScale
from hilbert_ray.metrics.partition import Partition, defined_mean, ratio

ROUNDING = 16 * float(np.finfo(np.float64).eps)
"""Relative difference of two sums of probabilities that rounding can explain, a unit for each addition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Out-of-fold predictions of one task; a row is one document in one repeat.

    probabilities: float [rows, K], rows summing to 1 except for multilabel (each label on its own); a binary
        task may give [rows], the probability of its second class; regression gives the predicted numbers,
        [rows].
    decisions: int [rows], multilabel [rows, K] of 0 and 1; None for regression.
    targets: int [rows] with -1 for unlabelled; multilabel float [rows, K], regression float [rows], both with
        NaN.
    fold, repeat, group, document: int [rows]; `document` says which rows are the same document.
    """

    kind: TaskKind
    classes: tuple[str, ...]
    probabilities: np.ndarray
    decisions: np.ndarray | None
    targets: np.ndarray
    fold: np.ndarray
    repeat: np.ndarray
    group: np.ndarray
    document: np.ndarray

    def __post_init__(self) -> None:
        rows, width = len(self.targets), len(self.classes)
        if self.kind == "binary" and self.probabilities.ndim == 1:
            both = np.stack([1 - self.probabilities, self.probabilities], 1)
            object.__setattr__(self, "probabilities", both)
        for name in ("fold", "repeat", "group", "document"):
            shape = getattr(self, name).shape
            if shape != (rows,):
                raise ValueError(
                    f"predictions: {name} has shape {shape}, targets have {rows} rows; give one value per row"
                )
        shapes = {"probabilities": (rows,) if self.kind == "regression" else (rows, width)}
        if self.kind != "regression":
            shapes["decisions"] = (rows, width) if self.kind == "multilabel" else (rows,)
        for name, shape in shapes.items():
            actual = np.shape(getattr(self, name))
            if actual != shape:
                raise ValueError(
                    f"predictions: {name} of a {self.kind} task have shape {actual}; it must be {shape}"
                )
        # NaN sorts last: without this check a diverged network would silently get the ranks of a confident
        # one.
        bad = ~np.isfinite(self.probabilities.reshape(rows, -1)).all(1)
        if bad.any():
            raise ValueError(
                f"predictions: {int(bad.sum())} of {rows} rows hold NaN or infinity, the first is row "
                f"{int(bad.argmax())} (repeat {self.repeat[bad.argmax()]}, fold {self.fold[bad.argmax()]}); "
                "every prediction must be finite: check whether training diverged"
            )
        for name in ("decisions", "targets") if self.kind != "regression" else ():
            top = np.nanmax(getattr(self, name), initial=0)
            if top > (1 if self.kind == "multilabel" else width - 1):
                raise ValueError(
                    f"predictions: {name} of a {self.kind} task go up to {top:g}, but its classes are "
                    f"{', '.join(self.classes)}; number classes from 0 (multilabel: 0 and 1)"
                )
        # Numbered from 0, so that groups and documents index arrays; a subset of rows is numbered again.
        object.__setattr__(self, "group", np.unique(self.group, return_inverse=True)[1])
        object.__setattr__(self, "document", np.unique(self.document, return_inverse=True)[1])

    @property
    def labelled(self) -> Bool[np.ndarray, " rows"]:
        """Which rows have a target (for multilabel: of at least one label)."""
        if self.kind == "multilabel":
            return np.asarray(np.isfinite(self.targets).any(1))
        return np.asarray(np.isfinite(self.targets) if self.kind == "regression" else self.targets >= 0)

    def __getitem__(self, rows: np.ndarray) -> "Predictions":
        """Return some rows (an index or a mask), such as one subgroup's."""
        return Predictions(
            kind=self.kind,
            classes=self.classes,
            probabilities=self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            targets=self.targets[rows],
            fold=self.fold[rows],
            repeat=self.repeat[rows],
            group=self.group[rows],
            document=self.document[rows],
        )

    def test_sets(self) -> Partition:
        """Return one set per test set (repeat and fold)."""
        return _partition(np.stack([self.repeat, self.fold], 1))

    def repeats(self) -> Partition:
        """Return one set per repeat."""
        return _partition(self.repeat[:, None])


def _partition(keys: np.ndarray) -> Partition:
    unique, index = np.unique(keys, axis=0, return_inverse=True)
    return Partition(index=index.reshape(-1).astype(np.int64), count=len(unique))


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One yes-or-no question of a task: a class against the rest, a label, or an ordinal cut-point.

    rows: which rows have an answer; score, positive: predicted probability and truth of those rows.
    """

    name: str
    rows: Int[np.ndarray, " answered"]
    score: Float[np.ndarray, " answered"]
    positive: Bool[np.ndarray, " answered"]


def problems(predictions: Predictions) -> list[Problem]:
    """Return the yes-or-no questions over which macro metrics are averaged; none for regression."""
    p, y = predictions.probabilities, predictions.targets
    rows = np.flatnonzero(predictions.labelled)
    match predictions.kind:
        case "binary":
            columns = [(predictions.classes[1], rows, p[:, 1], y == 1)]
        case "multiclass":
            columns = [(name, rows, p[:, k], y == k) for k, name in enumerate(predictions.classes)]
        case "ordinal":
            # P(y >= k). Class against rest would ignore the order: a middle class is not monotonic in
            # severity.
            above = _tied(np.cumsum(p[:, ::-1], 1, dtype=np.float64)[:, ::-1])
            columns = [
                (f">= {name}", rows, above[:, k], y >= k) for k, name in enumerate(predictions.classes) if k
            ]
        case "multilabel":
            known = np.isfinite(y)
            columns = [
                (name, np.flatnonzero(known[:, k]), p[:, k], y[:, k] > 0.5)
                for k, name in enumerate(predictions.classes)
            ]
        case "regression":
            columns = []
    return [
        Problem(name=name, rows=at, score=score[at], positive=truth[at]) for name, at, score, truth in columns
    ]


def _tied(sums: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    """Return sums in which those of a column that differ by rounding alone are equal."""
    # 0.3 + 0.2 + 0.1 is not 0.6 in floating point, so that two documents of equal P(y >= k) would be ordered
    # by how their classes below and above happened to round. Compared with the next smaller value of the
    # column, as rounding to a grid would part equal values that lie at an edge of it.
    sums = sums.copy()
    for column in sums.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        starts = np.diff(ordered, prepend=-1.0) > ROUNDING * ordered
        column[order] = ordered[starts][np.cumsum(starts) - 1]
    return sums


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One decision of a task: the class, or whether a label of a multilabel task applies (two classes).

    rows: which rows have an answer; probabilities float64 [answered, classes], true and decided int64
        [answered].
    """

    rows: Int[np.ndarray, " answered"]
    probabilities: Float[np.ndarray, "answered classes"]
    true: Int[np.ndarray, " answered"]
    decided: Int[np.ndarray, " answered"]

    def confusion(self, partition: Partition, weights: np.ndarray) -> decisions.Confusion:
        """Return the confusion counts of this choice in each set."""
        return decisions.confusion(self.true, self.decided, self.probabilities.shape[1], partition, weights)


def choices(predictions: Predictions) -> list[Choice]:
    """Return the choices over which metrics of decisions are averaged: one, or one per label."""
    p, y, d = predictions.probabilities.astype(np.float64), predictions.targets, predictions.decisions
    assert d is not None, "only regression has no decisions"
    if predictions.kind == "multilabel":
        known = [np.flatnonzero(np.isfinite(column)) for column in y.T]
        answers = [
            (rows, np.stack([1 - p[rows, k], p[rows, k]], 1), y[rows, k], d[rows, k])
            for k, rows in enumerate(known)
        ]
    else:
        rows = np.flatnonzero(predictions.labelled)
        answers = [(rows, p[rows], y[rows], d[rows])]
    return [
        Choice(rows=rows, probabilities=both, true=true.astype(np.int64), decided=decided.astype(np.int64))
        for rows, both, true, decided in answers
    ]


class MacroPart(Protocol):
    """What a macro metric is a mean over: a problem or a choice."""

    @property
    def rows(self) -> Int[np.ndarray, " answered"]:
        """Which rows of the predictions it is about."""


P = TypeVar("P", bound=MacroPart)
Values = Callable[[Partition, np.ndarray], np.ndarray]
PairCounts = Callable[[Partition, np.ndarray], tuple[np.ndarray, np.ndarray]]
GroupPairCounts = Callable[[Partition, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric as a function of partition and weights [rows, draws] of all rows.

    values: gives [parts, sets, draws], NaN where not defined; the metric is the mean over parts.
    support: int64 [parts], the groups that carry each part: its intervals can be no better than these allow.
    pairs: for metrics that are a share of pairs, concordant and all pairs, each [parts, sets, draws].
    group_pairs: the same as a function of partition, group of each row and number of groups, each [parts,
        groups, groups], summed over sets.
    parts: names of what is averaged; empty where there is only one value.
    """

    name: str
    scale: IntervalScale
    support: Int[np.ndarray, " parts"]
    values: Values
    parts: tuple[str, ...] = ()
    pairs: PairCounts | None = None
    group_pairs: GroupPairCounts | None = None


def _over(parts: Sequence[P], score: Callable[[P, Partition, np.ndarray], np.ndarray]) -> Values:
    """Join the values [parts, sets, draws] of several parts, each seeing only its own rows."""
    # Each part has its own rows (a label may be unknown for some documents), but weights are of all rows, so
    # that one resample means the same groups for every part.
    return lambda partition, weights: np.concatenate(
        [score(part, partition[part.rows], weights[part.rows]) for part in parts]
    )


def _groups(predictions: Predictions, rows: np.ndarray) -> int:
    return len(np.unique(predictions.group[rows]))


def _rarer_side(predictions: Predictions, rows: np.ndarray, positive: np.ndarray) -> int:
    """Return the number of groups with a positive, or with a negative if that is less."""
    return min(_groups(predictions, rows[positive]), _groups(predictions, rows[~positive]))


def _share_of_pairs(
    name: str,
    parts: tuple[str, ...],
    support: Sequence[int],
    counts: Sequence[PairCounts],
    group_counts: Sequence[GroupPairCounts],
) -> Metric:
    # Numerator and denominator stay apart: `within` divides their sums over test sets, `mean` and `pooled`
    # divide first.
    def pairs(partition: Partition, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        concordant, compared = zip(*(count(partition, weights) for count in counts), strict=True)
        return np.stack(concordant), np.stack(compared)

    def group_pairs(partition: Partition, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
        concordant, compared = zip(*(count(partition, group, groups) for count in group_counts), strict=True)
        return np.stack(concordant), np.stack(compared)

    return Metric(
        name=name,
        scale="share",
        support=np.array(support),
        values=lambda partition, weights: ratio(*pairs(partition, weights)),
        pairs=pairs,
        group_pairs=group_pairs,
        parts=parts,
    )


def headline(predictions: Predictions) -> Metric:
    """Return what systems are compared by: macro one-vs-rest AUC, or the concordance index of numbers."""
    if predictions.kind == "regression":
        rows, p, y = _numbers(predictions)
        support = [_groups(predictions, rows)]
        return _share_of_pairs(
            "concordance",
            (),
            support,
            [lambda s, w: ranking.number_pairs(p, y, s[rows], w[rows])],
            [lambda s, g, n: ranking.number_pairs_by_group(p, y, s[rows], g[rows], n)],
        )

    def counts(problem: Problem) -> PairCounts:
        return lambda s, w: ranking.class_pairs(
            problem.score, problem.positive, s[problem.rows], w[problem.rows]
        )

    def group_counts(problem: Problem) -> GroupPairCounts:
        return lambda s, g, n: ranking.class_pairs_by_group(
            problem.score, problem.positive, s[problem.rows], g[problem.rows], n
        )

    questions = problems(predictions)
    support = [_rarer_side(predictions, problem.rows, problem.positive) for problem in questions]
    names = tuple(problem.name for problem in questions)
    return _share_of_pairs("auc", names, support, [*map(counts, questions)], [*map(group_counts, questions)])


def metrics(predictions: Predictions) -> list[Metric]:
    """Return the metrics of a task, headline first; the calibration slope needs no resamples and is apart."""
    if predictions.kind == "regression":
        return [headline(predictions), *_number_metrics(predictions)]
    auc = headline(predictions)
    questions = problems(predictions)
    # Averaged over the same questions as the headline, and as well supported.
    pr_auc = _metric("pr_auc", _over(questions, _average_precision), auc.support.tolist(), auc.parts)
    decided = _decision_metrics(predictions)
    if predictions.kind == "ordinal":
        # Second, because it is what readers of ordinal scores look for next.
        return [auc, decided.pop("quadratic_kappa"), pr_auc, *decided.values()]
    return [auc, pr_auc, *decided.values()]


def _metric(
    name: str, values: Values, support: Sequence[int], parts: tuple[str, ...], scale: IntervalScale = "share"
) -> Metric:
    return Metric(name=name, scale=scale, support=np.array(support), values=values, parts=parts)


def _average_precision(problem: Problem, partition: Partition, weights: np.ndarray) -> np.ndarray:
    return ranking.average_precision(problem.score, problem.positive, partition, weights)[None]


def _decision_metrics(predictions: Predictions) -> dict[str, Metric]:
    """Return the metrics of decisions and probabilities by name, in the order of the report."""
    decided, is_multilabel = choices(predictions), predictions.kind == "multilabel"
    labels = predictions.classes if is_multilabel else ()
    two_classes = decided[0].probabilities.shape[1] == 2

    # A label of a multilabel task is a choice of its own: its recall is the mean of both classes, its F1 that
    # of "applies". The classes of other tasks are the parts of one choice.
    def recall(choice: Choice, partition: Partition, weights: np.ndarray) -> np.ndarray:
        recalls = decisions.recall(choice.confusion(partition, weights))
        return defined_mean(recalls)[None] if is_multilabel else recalls

    def f1(choice: Choice, partition: Partition, weights: np.ndarray) -> np.ndarray:
        return decisions.f1(choice.confusion(partition, weights))[1 if is_multilabel else 0 :]

    def of_counts(score: Callable[[decisions.Confusion], np.ndarray]) -> Values:
        return _over(decided, lambda choice, p, w: score(choice.confusion(p, w))[None])

    def of_probabilities(
        score: Callable[[np.ndarray, np.ndarray, Partition, np.ndarray], np.ndarray],
    ) -> Values:
        return _over(decided, lambda choice, p, w: score(choice.probabilities, choice.true, p, w)[None])

    # Support is in groups: the fewest that a part rests on says how far its interval can be trusted.
    everyone = [_groups(predictions, choice.rows) for choice in decided]
    rarer = [_rarer_side(predictions, choice.rows, choice.true == 1) for choice in decided]
    by_class = [
        _groups(predictions, decided[0].rows[decided[0].true == k]) for k in range(len(predictions.classes))
    ]
    of_class = rarer if is_multilabel else by_class
    # Halved with two classes, to lie between 0 and 1 as usual; with more it reaches 2.
    brier_scale: IntervalScale = "share" if two_classes else "double_share"
    mcc_support = rarer if two_classes else everyone
    ece = of_probabilities(calibration.expected_calibration_error)
    listed = [
        _metric("balanced_accuracy", _over(decided, recall), of_class, predictions.classes),
        _metric("macro_f1", _over(decided, f1), of_class, predictions.classes),
        _metric("mcc", of_counts(decisions.matthews), mcc_support, labels, "correlation"),
        _metric("ece", ece, everyone, labels),
        _metric("brier", of_probabilities(calibration.brier), everyone, labels, brier_scale),
    ]
    if predictions.kind == "ordinal":
        kappa = of_counts(decisions.quadratic_kappa)
        listed.append(_metric("quadratic_kappa", kappa, everyone, labels, "correlation"))
    return {metric.name: metric for metric in listed}


def _numbers(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labelled rows of a regression task, their predictions and targets in float64."""
    rows = np.flatnonzero(predictions.labelled)
    return (
        rows,
        predictions.probabilities[rows].astype(np.float64),
        predictions.targets[rows].astype(np.float64),
    )


def _number_metrics(predictions: Predictions) -> list[Metric]:
    rows, p, y = _numbers(predictions)
    centred = y - (y.mean() if len(y) else 0.0)  # sums of squares lose digits far from 0
    columns = np.stack([np.ones(len(y)), centred, centred**2, (y - p) ** 2, np.abs(y - p)], 1)

    def r2(partition: Partition, weights: np.ndarray) -> np.ndarray:
        total, linear, square, error, _ = np.moveaxis(partition[rows].sums(columns, weights[rows]), 1, 0)
        # Rounding leaves a tiny spread, of either sign, where all targets of a set are equal: R2 is
        # undefined.
        spread = square - ratio(linear**2, total)
        return np.asarray(1 - ratio(error, np.where(spread > 1e-12 * square, spread, 0.0)))[None]

    def absolute_error(partition: Partition, weights: np.ndarray) -> np.ndarray:
        total, _, _, _, error = np.moveaxis(partition[rows].sums(columns, weights[rows]), 1, 0)
        return ratio(error, total)[None]

    def correlation(partition: Partition, weights: np.ndarray) -> np.ndarray:
        return ranking.spearman(p, y, partition[rows], weights[rows])[None]

    support = np.array([_groups(predictions, rows)])
    return [
        Metric(name="r2", scale="at_most_one", support=support, values=r2),
        Metric(name="mae", scale="positive", support=support, values=absolute_error),
        Metric(name="spearman", scale="correlation", support=support, values=correlation),
    ]
