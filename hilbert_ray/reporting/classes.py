"""Each class by itself: scores, curves, confusion, calibration and the use of decisions at a threshold."""

from collections.abc import Mapping

import numpy as np

from hilbert_ray.config import BASELINE
from hilbert_ray.metrics import Predictions, decision_curves, problems, reliability
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    confusion,
    estimate,
    facts,
    figure,
    figures,
    heading,
    join,
    missing,
    number,
    paragraph,
    section,
    table,
)
from hilbert_ray.reporting.plot_data import (
    GRID,
    Curve,
    confusion_counts,
    pooled_reliability,
    precision_curves,
    roc_curves,
)
from hilbert_ray.reporting.plots import Bar, Bins
from hilbert_ray.reporting.scores import bars_table
from hilbert_ray.run import RunResults, Scores

TICKS = range(0, 101, 5)  # of `GRID`, what tables of curves show
MOST_CURVES = 12  # classes drawn in one picture; the tables hold all


def classes(run: RunResults) -> Html:
    """Return the per-class results of HILBERT, a part a task."""
    return section(
        "classes",
        "Classes, curves and calibration",
        paragraph(
            "Everything here is HILBERT's, out of fold: each document was predicted by networks that "
            "never saw its group."
        ),
        *(_task(run, task) for task in run.tasks),
    )


def _task(run: RunResults, task: str) -> Html:
    kind = run.tasks[task].kind
    title = heading(3, f"\u201c{task}\u201d ({kind})")
    predictions = run.predictions.get((task, "hilbert"))
    absent = missing("The run holds no predictions.parquet with this task, so there are no curves.")
    if kind == "regression":
        parts = [absent] if predictions is None else [_numbers(run, task, predictions)]
        return join([title, *parts])
    parts = [_per_class(run, task)]
    if predictions is None:
        return join([title, *parts, absent])
    parts += [
        heading(4, "Separating the classes"),
        figures(_class_forest(run, task)),
        figures(*_curves(run, task, predictions)),
        heading(4, "Decisions"),
        _confusion(task, predictions),
        heading(4, "Calibration and use"),
        _calibration_facts(run, task),
        figures(_reliability(task, predictions), _decisions(run, task, predictions)),
    ]
    return join([title, *parts])


def _per_class(run: RunResults, task: str) -> Html:
    """Return one table of classes; two where the questions (such as cut-points) are not the classes."""
    found = run.scores(task)["hilbert"]
    asked, decided = found["auc"].get("classes", {}), found["balanced_accuracy"].get("classes", {})
    order = {"binary": "The positive class", "ordinal": "Cut-points"}.get(run.tasks[task].kind)
    if order is None:
        rows = [[name, *_asked(found, name), *_decided(found, name)] for name in asked]
        return table(f"Classes of {task} with 95 % intervals", ["Class", *ASKED, *DECIDED], rows)
    return join(
        [
            table(
                f"{order} of {task} with 95 % intervals",
                [order, *ASKED],
                [[n, *_asked(found, n)] for n in asked],
            ),
            table(
                f"Classes of {task} with 95 % intervals",
                ["Class", *DECIDED],
                [[n, *_decided(found, n)] for n in decided],
            ),
        ]
    )


ASKED = ("Positives", "Groups with one", "AUC within folds", "AUC pooled", "PR-AUC", "PR-AUC of chance")
DECIDED = ("Recall", "F1")


def _asked(found: Mapping[str, Scores], name: str) -> list[Cell]:
    auc, precision = found["auc"]["classes"][name], found["pr_auc"]["classes"][name]
    return [
        auc.get("positives"),
        auc.get("groups"),
        estimate(auc["within"], auc.get("within_low"), auc.get("within_high")),
        _estimate(auc),
        _estimate(precision),
        number(precision.get("prevalence")),
    ]


def _decided(found: Mapping[str, Scores], name: str) -> list[Cell]:
    return [_estimate(found[metric]["classes"].get(name)) for metric in ("balanced_accuracy", "macro_f1")]


def _estimate(score: Scores | None) -> Html:
    if score is None:
        return number(None)
    return estimate(score.get("pooled"), score.get("low"), score.get("high"))


def _class_forest(run: RunResults, task: str) -> Html:
    found = run.scores(task)["hilbert"]["auc"]["classes"]
    bars = [
        Bar(name=name, value=s["within"], low=s.get("within_low"), high=s.get("within_high"), is_marked=True)
        for name, s in found.items()
    ]
    picture = plots.forest(f"AUC of each class of {task} within folds", bars, "AUC within folds", 0.5)
    caption = "AUC of each class within folds with 95 % intervals. Dashed: chance."
    return figure(picture, caption, bars_table("AUC within folds", bars, "Class"))


def _curves(run: RunResults, task: str, predictions: Predictions) -> list[Html]:
    """Return ROC and precision-recall curves, each class named with its pooled score."""
    found, made = run.scores(task)["hilbert"], []
    for metric, curves, axes, words in (
        ("auc", roc_curves(predictions), ("false positive rate", "true positive rate"), "ROC"),
        ("pr_auc", precision_curves(predictions), ("recall", "precision"), "Precision-recall"),
    ):
        if not curves:
            made.append(missing(f"{words}: no class has a positive and a negative in any repeat."))
            continue
        shown = curves[:MOST_CURVES]
        values = [found[metric]["classes"][curve.name]["pooled"] for curve in shown]
        names = [
            f"{_short(c.name)} {v:.2f}" if v is not None else _short(c.name)
            for c, v in zip(shown, values, strict=True)
        ]
        label = f"{words} curves of {task}, a curve a class"
        picture = plots.curves(label, shown, names, *axes, metric == "auc")
        score = "AUC" if metric == "auc" else "average precision"
        caption = (
            f"{words} curves, a class against the rest, over all folds of a repeat, then the mean of "
            f"repeats. Beside each name: pooled {score}."
        )
        if len(curves) > MOST_CURVES:
            caption += f" The first {MOST_CURVES} of {len(curves)} classes; the table has all."
        made.append(figure(picture, caption, _curve_table(f"{words} curves of {task}", axes, curves)))
    return made


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}\u2026"


def _curve_table(caption: str, axes: tuple[str, str], curves: list[Curve]) -> Html:
    rows: list[list[Cell]] = [
        [f"{GRID[i]:.2f}", *(number(float(c.values[i])) for c in curves)] for i in TICKS
    ]
    return table(f"{caption}: {axes[1]} by {axes[0]}", [axes[0], *(c.name for c in curves)], rows)


def _confusion(task: str, predictions: Predictions) -> Html:
    """Return confusion counts over all repeats, for multilabel a line a label."""
    repeats = len(np.unique(predictions.repeat))
    often = (
        f"over {repeats} repeats, so that a document counts {repeats} times"
        if repeats > 1
        else "of all documents"
    )
    decisions, names = predictions.decisions, predictions.classes
    assert decisions is not None
    if predictions.kind != "multilabel":
        counts = confusion_counts(predictions.targets, decisions, len(names))
        return confusion(
            f"Confusion of {task}: counts {often}, with shares of the row", names, counts.tolist()
        )
    rows: list[list[Cell]] = []
    for k, name in enumerate(names):
        known = np.isfinite(predictions.targets[:, k])
        truth = np.where(known, predictions.targets[:, k], -1).astype(np.int64)
        (quiet, false), (lost, hit) = confusion_counts(truth, decisions[:, k], 2).tolist()
        shares = [
            number(100 * part / whole if whole else None, 1)
            for part, whole in ((hit, hit + lost), (quiet, quiet + false))
        ]
        rows.append([name, hit, lost, false, quiet, *shares])
    head = [
        "Label",
        "Hits",
        "Missed",
        "False alarms",
        "Rightly quiet",
        "% of positives found",
        "% of negatives kept",
    ]
    return table(f"Confusion of each label of {task}: counts {often}", head, rows)


def _calibration_facts(run: RunResults, task: str) -> Html:
    found = run.scores(task)["hilbert"]
    pairs: list[tuple[str, Cell]] = [
        (said, _estimate(found.get(name)))
        for name, said in (
            ("ece", "Expected calibration error (0 is best)"),
            ("brier", "Brier score (0 is best)"),
            ("calibration_slope", "Calibration slope (1 is best, below 1 too sure)"),
        )
    ]
    return facts(pairs)


def _reliability(task: str, predictions: Predictions) -> Html:
    pooled = pooled_reliability(predictions)
    by_class: dict[str, Bins] = {
        problem.name: reliability(problem.score.astype(np.float64), problem.positive)
        for problem in problems(predictions)
        if len(problem.rows)
    }
    shown = dict(list(by_class.items())[:MOST_CURVES])
    picture = plots.reliability(
        f"Calibration of {task}: observed share by predicted probability", pooled, shown
    )
    rows: list[list[Cell]] = [
        [name, number(p), number(o), int(n)]
        for name, bins in {"all together": pooled, **by_class}.items()
        for p, o, n in zip(bins["predicted"], bins["observed"], bins["count"], strict=True)
    ]
    numbers = table(f"Calibration of {task}", ["Class", "Mean predicted", "Observed share", "Rows"], rows)
    caption = (
        "Calibration in ten bins of predicted probability, each class against the rest, over all repeats. "
        "On the dashed line probabilities mean what they say. Below: rows in each bin."
    )
    return figure(picture, caption, numbers)


def _decisions(run: RunResults, task: str, predictions: Predictions) -> Html:
    model = decision_curves(predictions)
    other = run.predictions.get((task, BASELINE))
    baseline = decision_curves(other) if other is not None else {}
    shown = dict(list(model.items())[:MOST_CURVES])
    picture = plots.decision_curves(f"Decision curves of {task}: net benefit by threshold", shown, baseline)
    rows: list[list[Cell]] = []
    for name, curve in model.items():
        for i in range(4, 99, 10):
            beside = [baseline[name]["model"][i]] if name in baseline else [None]
            values = [curve["model"][i], *beside, curve["all"][i]]
            rows.append([name, number(curve["thresholds"][i], 2), *(number(v) for v in values)])
    head = ["Class", "Threshold", "HILBERT", "Mean + std baseline", "Act on everyone"]
    caption = (
        "Decision curves: net benefit of acting on each document whose probability of the class reaches "
        "the threshold. 0 is acting on no one; a model is of use where its line is above both others."
    )
    return figure(picture, caption, table(f"Net benefit, {task}", head, rows))


def _numbers(run: RunResults, task: str, predictions: Predictions) -> Html:
    """Return predicted against true numbers, a point a document."""
    known = predictions[predictions.labelled]
    documents, index = np.unique(known.document, return_inverse=True)
    count = np.bincount(index)
    true, predicted = (np.bincount(index, v) / count for v in (known.targets, known.probabilities))
    names = _ids(run, predictions, documents)
    picture = plots.scatter(f"Predicted against true {task}, a point a document", true, predicted, task)
    rows: list[list[Cell]] = [
        [name, number(float(t)), number(float(p)), number(float(p - t), signed=True)]
        for name, t, p in zip(names, true, predicted, strict=True)
    ]
    numbers = table(f"Predictions of {task}", ["Document", "True", "Predicted", "Error"], rows)
    caption = (
        "Predicted against true value, out of fold, the mean over repeats; on the dashed line both are equal."
    )
    return figures(figure(picture, caption, numbers))


def _ids(run: RunResults, predictions: Predictions, documents: np.ndarray) -> list[str]:
    """Return the ids of documents, which `Predictions` numbers in the order of `run.doc_ids`."""
    return [run.doc_ids[i] for i in documents]
