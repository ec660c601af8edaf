"""Each class on its own: scores, curves, confusion, calibration and the use of decisions at a threshold."""

from collections.abc import Mapping, Sequence

import numpy as np

from hilbert_ray.config import BASELINE, HILBERT
from hilbert_ray.metrics import Predictions, decision_curves, problems
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.cautions import low_recalls, recall_caution
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    confusion,
    facts,
    figure,
    figures,
    fold,
    heading,
    interval,
    join,
    missing,
    note,
    number,
    paragraph,
    quoted,
    section,
    table,
    warned,
)
from hilbert_ray.reporting.plot_data import (
    GRID,
    LEAST_DOCUMENTS,
    CalibrationBins,
    ClassCurve,
    calibration_bins,
    confusion_counts,
    precision_curves,
    roc_curves,
)
from hilbert_ray.reporting.plots import ForestRow
from hilbert_ray.reporting.scores import CHANCE, forest_table, pooled, within
from hilbert_ray.run import RunResults, Score

TICKS = range(0, 101, 5)
"""Indices of `GRID` that tables of curves list: every 0.05."""
TABLE_THRESHOLDS = range(4, 99, 10)
"""Indices of decision thresholds that tables list: 0.05, 0.15, ..., 0.95."""
MOST_CURVES = 12
"""Classes drawn in one picture; more lines cannot be told apart. The tables hold all."""
LONGEST_NAME = 16
"""Characters of a class name in a legend next to its score."""
RANKING = (
    "Positives", "Groups with one", "AUC within folds", "AUC pooled", "PR-AUC pooled", "PR-AUC of chance"
)  # fmt: skip
DECIDING = ("Recall", "F1")
LABEL_DECIDING = ("Balanced accuracy", "F1")
"""A label's own recall is in its row of the confusion counts."""


def classes_section(run: RunResults) -> Html:
    """Return the per-class results of HILBERT, one part per task."""
    return section(
        "classes",
        "Classes, curves and calibration",
        paragraph(
            "All results here are HILBERT\u2019s, out of fold: each document was predicted by networks that "
            "were not trained on its group."
        ),
        *(_task(run, task) for task in run.tasks),
    )


def _task(run: RunResults, task: str) -> Html:
    kind = run.tasks[task].kind
    title = heading(3, f"{quoted(task)} ({kind})")
    predictions = run.predictions.get((task, HILBERT))
    # A run may be passed on without predictions.parquet, which has document ids. Only curves need it: the
    # tables come from metrics.json.
    absent = missing("The run has no predictions.parquet with this task, so there are no curves.")
    if kind == "regression":
        return join([title, absent if predictions is None else _numbers(run, task, predictions)])
    caution = recall_caution(run, task)
    remarks = [] if caution is None else [note(caution, kind="warning")]
    parts = [title, *remarks, _per_class(run, task)]
    if predictions is None:
        return join([*parts, absent])
    roc, precision = _curves(run, task, predictions)
    # In sight: what is separated and whether probabilities hold. Folded: how, and whether acting pays off.
    more = fold(
        f"Decisions, precision and usefulness of {quoted(task)}",
        _confusion(task, predictions),
        figures(precision, _decision_curves(run, task, predictions), _class_forest(run, task)),
        is_open=len(run.tasks) == 1,
    )
    both = figures(_reliability(task, predictions), roc)
    return join([*parts, _calibration_facts(run, task), both, more])


def _per_class(run: RunResults, task: str) -> Html:
    """Return one table of classes, or two where what is ranked is not the classes.

    A binary task ranks its positive class only, an ordinal task ranks cut-points between classes.
    """
    scores = run.scores(task)[HILBERT]
    ranked = scores["auc"].classes
    low = low_recalls(run, task)
    names = {name: warned(name) if name in low else name for name in run.tasks[task].classes}
    ranked_name = {"binary": "The positive class", "ordinal": "Cut-points"}.get(run.tasks[task].kind)
    if ranked_name is None:
        rows = [
            [names.get(name, name), *_ranking_cells(scores, name), *_deciding_cells(scores, name)]
            for name in ranked
        ]
        deciding = LABEL_DECIDING if run.tasks[task].kind == "multilabel" else DECIDING
        return table(f"Classes of {task} with 95 % intervals", ["Class", *RANKING, *deciding], rows)
    ranking = [[name, *_ranking_cells(scores, name)] for name in ranked]
    # Recall and F1 are of decisions, which are for classes and not for cut-points.
    deciding_rows = [
        [names.get(name, name), *_deciding_cells(scores, name)]
        for name in scores["balanced_accuracy"].classes
    ]
    return join(
        [
            table(f"{ranked_name} of {task} with 95 % intervals", [ranked_name, *RANKING], ranking),
            table(f"Classes of {task} with 95 % intervals", ["Class", *DECIDING], deciding_rows),
        ]
    )


def _ranking_cells(scores: Mapping[str, Score], name: str) -> list[Cell]:
    auc, precision = scores["auc"].classes[name], scores["pr_auc"].classes[name]
    return [
        auc.positives,
        auc.groups,
        within(auc),
        pooled(auc),
        pooled(precision),
        number(precision.prevalence),
    ]


def _deciding_cells(scores: Mapping[str, Score], name: str) -> list[Cell]:
    return [pooled(scores[metric].classes.get(name)) for metric in ("balanced_accuracy", "macro_f1")]


def _class_forest(run: RunResults, task: str) -> Html:
    # Within folds: networks of different folds have different scales, which pooling would mix.
    by_class = run.scores(task)[HILBERT]["auc"].classes
    rows = [
        ForestRow(name=name, value=s.within, low=s.within_low, high=s.within_high, is_marked=True)
        for name, s in by_class.items()
    ]
    picture = plots.forest(f"AUC of each class of {task} within folds", rows, "AUC within folds", CHANCE)
    caption = "AUC of each class within folds with 95 % intervals. Dashed: chance."
    return figure(picture, caption, forest_table("AUC within folds", rows, "Class"))


def _curves(run: RunResults, task: str, predictions: Predictions) -> list[Html]:
    """Return ROC and precision-recall curves, each class named with its pooled score."""
    scores = run.scores(task)[HILBERT]
    roc, precision = roc_curves(predictions), precision_curves(predictions)
    rates = ("false positive rate", "true positive rate")
    return [
        _curve_figure(task, "ROC", roc, scores["auc"], "AUC", rates),
        _curve_figure(
            task,
            "Precision-recall",
            precision,
            scores["pr_auc"],
            "average precision",
            ("recall", "precision"),
        ),
    ]


def _curve_figure(
    task: str,
    name: str,
    curves: Sequence[ClassCurve],
    score: Score,
    score_name: str,
    axes: tuple[str, str],
) -> Html:
    """Return one picture of curves, one per class; `axes` are what x and y are called."""
    if not curves:
        return missing(f"{name}: no class has a positive and a negative in any repeat.")
    # The pooled score, since a curve over all folds pools them too.
    drawn = curves[:MOST_CURVES]
    labels = [_with_score(curve.name, score.classes[curve.name].pooled) for curve in drawn]
    alternative = f"{name} curves of {task}, one curve per class"
    picture = plots.curves(
        alternative,
        drawn,
        labels,
        *axes,
        is_diagonal=name == "ROC",
        title=f"pooled {score_name} of each class",
    )
    caption = (
        f"{name} curves, each class against the rest, over all folds of a repeat, then averaged over "
        f"repeats. Next to each name: pooled {score_name}."
    )
    if len(curves) > MOST_CURVES:
        caption += f" The first {MOST_CURVES} of {len(curves)} classes; the table has all."
    return figure(picture, caption, _curve_table(f"{name} curves of {task}", axes, curves))


def _with_score(name: str, value: float | None) -> str:
    # Cut before the score is appended, so that the score is always readable.
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
    return name if value is None else f"{name} {value:.2f}"


def _curve_table(caption: str, axes: tuple[str, str], curves: Sequence[ClassCurve]) -> Html:
    rows: list[list[Cell]] = [
        [f"{GRID[i]:.2f}", *(number(float(curve.values[i])) for curve in curves)] for i in TICKS
    ]
    return table(f"{caption}: {axes[1]} by {axes[0]}", [axes[0], *(curve.name for curve in curves)], rows)


def _confusion(task: str, predictions: Predictions) -> Html:
    """Return confusion counts over all repeats; for multilabel one row per label."""
    repeats = len(np.unique(predictions.repeat))
    scope = (
        f"over {repeats} repeats (each document counts {repeats} times)"
        if repeats > 1
        else "of all documents"
    )
    # Labels do not exclude each other, so no matrix of label against label exists: each has its own 2 x 2
    # counts.
    if predictions.kind == "multilabel":
        return _label_confusion(task, predictions, scope)
    decisions, names = predictions.decisions, predictions.classes
    # Only regression has no decisions, and no confusion either.
    assert decisions is not None
    counts = confusion_counts(predictions.targets, decisions, len(names))
    return confusion(f"Confusion of {task}: counts {scope}, with shares of the row", names, counts.tolist())


def _label_confusion(task: str, predictions: Predictions, scope: str) -> Html:
    decisions = predictions.decisions
    assert decisions is not None
    rows: list[list[Cell]] = []
    for k, name in enumerate(predictions.classes):
        # Unknown labels are -1, which `confusion_counts` leaves out.
        known = np.isfinite(predictions.targets[:, k])
        truth = np.where(known, predictions.targets[:, k], -1).astype(np.int64)
        (true_no, false_yes), (false_no, true_yes) = confusion_counts(truth, decisions[:, k], 2).tolist()
        # A label that is set in no document has no sensitivity, and one set in all has no specificity: a
        # dash, not 0.
        percents = [
            number(100 * right / count if count else None, 1)
            for right, count in ((true_yes, true_yes + false_no), (true_no, true_no + false_yes))
        ]
        rows.append([name, true_yes, false_no, false_yes, true_no, *percents])
    head = [
        "Label", "True positives", "False negatives", "False positives", "True negatives",
        "Sensitivity, %", "Specificity, %",
    ]  # fmt: skip
    return table(f"Confusion of each label of {task}: counts {scope}", head, rows)


def _calibration_facts(run: RunResults, task: str) -> Html:
    scores = run.scores(task)[HILBERT]
    pairs: list[tuple[str, Cell]] = [
        # Not every kind of task has all three; those it lacks show a dash.
        (label, pooled(scores.get(metric)))
        for metric, label in (
            ("ece", "Expected calibration error (0 is best)"),
            ("brier", "Brier score (0 is best)"),
            ("calibration_slope", "Calibration slope (1 is best, below 1 overconfident)"),
        )
    ]
    return facts(pairs)


def _reliability(task: str, predictions: Predictions) -> Html:
    # Classes alone have few rows per bin; together they show a bias that all share.
    together = calibration_bins(predictions)
    by_class: dict[str, CalibrationBins] = {
        problem.name: calibration_bins(predictions, problem)
        for problem in problems(predictions)
        # A class without a labelled row has no bins.
        if len(problem.rows)
    }
    drawn = dict(list(by_class.items())[:MOST_CURVES])
    picture = plots.reliability(
        f"Calibration of {task}: observed share by predicted probability", together, drawn
    )
    rows: list[list[Cell]] = []
    for name, bins in {"all together": together, **by_class}.items():
        for k in range(len(bins.rows)):
            p, o, low, high = (float(v[k]) for v in (bins.predicted, bins.observed, bins.low, bins.high))
            # A bin within one group has no interval.
            ends = (None, None) if np.isnan(low) else (low, high)
            rows.append(
                [name, number(p), number(o), interval(*ends), int(bins.documents[k]), int(bins.rows[k])]
            )
    head = ["Class", "Mean predicted", "Observed share", "95 % interval", "Documents", "Rows"]
    few = int((~together.is_solid).sum())
    left_out = f" Hollow: bins with fewer, {few} of {len(together.rows)}." if few else ""
    caption = (
        "Calibration in ten bins of predicted probability, each class against the rest, over all repeats. "
        "On the dashed line predicted and observed agree. Vertical lines: 95 % Wilson intervals, wider where "
        "documents of a group are alike. Lines join neighbouring bins of at least "
        f"{LEAST_DOCUMENTS} documents.{left_out} Below: rows in each bin."
    )
    return figure(picture, caption, table(f"Calibration of {task}", head, rows))


def _decision_curves(run: RunResults, task: str, predictions: Predictions) -> Html:
    model = decision_curves(predictions)
    # Net benefit means little alone: the model must beat acting on everyone, acting on no one, and the
    # baseline.
    of_baseline = run.predictions.get((task, BASELINE))
    baseline = decision_curves(of_baseline) if of_baseline is not None else {}
    drawn = dict(list(model.items())[:MOST_CURVES])
    picture = plots.decision_curves(f"Decision curves of {task}: net benefit by threshold", drawn, baseline)
    rows: list[list[Cell]] = []
    for name, curve in model.items():
        for i in TABLE_THRESHOLDS:
            value = baseline[name]["model"][i] if name in baseline else None
            values = [curve["model"][i], value, curve["all"][i]]
            rows.append([name, number(curve["thresholds"][i], 2), *(number(v) for v in values)])
    head = ["Class", "Threshold", "HILBERT", "Mean + std baseline", "Act on everyone"]
    caption = (
        "Decision curves: net benefit of acting on every document whose probability of the class reaches "
        "the threshold. 0 is acting on no one; a model is useful where its line is above both others."
    )
    return figure(picture, caption, table(f"Net benefit, {task}", head, rows))


def _numbers(run: RunResults, task: str, predictions: Predictions) -> Html:
    """Return predicted against true numbers, one point per document."""
    # One point per document, not per repeat: repeats of a document are not independent.
    known = predictions[predictions.labelled]
    documents, index = np.unique(known.document, return_inverse=True)
    repeats = np.bincount(index)
    # Weighted counts are sums over repeats. The truth is the same in all of them, so that its mean is itself.
    true, predicted = (np.bincount(index, v) / repeats for v in (known.targets, known.probabilities))
    alternative = f"Predicted against true {task}, one point per document"
    picture = plots.scatter(alternative, true, predicted, task)
    rows: list[list[Cell]] = [
        [run.doc_ids[i], number(float(t)), number(float(p)), number(float(p - t), signed=True)]
        for i, t, p in zip(documents, true, predicted, strict=True)
    ]
    numbers = table(f"Predictions of {task}", ["Document", "True", "Predicted", "Error"], rows)
    caption = (
        "Predicted against true value, out of fold, averaged over repeats. On the dashed line both are equal."
    )
    return figures(figure(picture, caption, numbers))
