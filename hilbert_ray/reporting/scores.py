"""Scores of every variant with intervals, and what HILBERT's difference to each of them is worth."""

from collections.abc import Mapping, Sequence

from hilbert_ray.reporting.html import (
    Cell,
    Html,
    estimate,
    figure,
    figures,
    heading,
    interval,
    join,
    missing,
    note,
    number,
    paragraph,
    probability,
    section,
    table,
)
from hilbert_ray.reporting.plots import Bar, forest
from hilbert_ray.run import RunResults, Scores, headline_of, variant_name

WITHIN = ("within", "within_low", "within_high")
COLUMNS = {
    "r2": "R\u00b2",
    "mae": "Mean absolute error",
    "spearman": "Spearman",
    "quadratic_kappa": "Quadratic kappa",
    "pr_auc": "PR-AUC",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "mcc": "MCC",
    "ece": "ECE",
    "brier": "Brier",
    "calibration_slope": "Calibration slope",
}


def scores(run: RunResults) -> Html:
    """Return the scores of all tasks."""
    return section(
        "scores",
        "Scores",
        paragraph(
            "The headline is taken within folds: concordant pairs within test sets over all pairs within "
            "test sets, a class at a time, then the mean of classes, so that scores of different networks "
            "are never compared.",
            "\u201cMean of folds\u201d is the mean over test sets where the metric is defined, "
            "\u201cpooled\u201d that over all predictions of a repeat; all other columns are pooled. "
            "Intervals are 95 % by a cluster bootstrap over groups.",
        ),
        paragraph(
            "Differences are tested twice: by the corrected t of Nadeau and Bengio over folds, and by a "
            "paired bootstrap over groups; Holm adjusts over the rows of a table. The smallest detectable "
            "difference is what a two-sided test at 5 % would find with 80 % power: a smaller true "
            "difference would probably have stayed unseen. The corrected t alone can be too ready to "
            "reject where groups are few: in simulations of cohorts where nothing differed it did so in 5 to "
            "16 % of cases with 10 or 20 groups, and in 2 to 5 % with 40 or 80."
        ),
        *(_task(run, task) for task in run.tasks),
        *_shortcuts(run),
    )


def _shortcuts(run: RunResults) -> list[Html]:
    """Return how well things that should not tell the labels do so, where the run has it."""
    found = run.metrics.get("shortcuts")
    if not found:
        return []
    shared = found["shared_sentences"]
    rows: list[list[Cell]] = [
        [name, *(estimate(*(scored[task][key] for key in WITHIN)) for task in run.tasks)]
        for name, scored in found.items()
        if name != "shared_sentences"
    ]
    return [
        heading(3, "Shortcuts"),
        paragraph(
            "What should not tell the labels, each alone in a logistic regression on the folds of the first "
            "repeat, within folds as above: a shortcut that comes near HILBERT\u2019s score may be what that "
            "score rests on. Where all speakers are embedded (no segment.roles), the turns of those whom the "
            "labels are about stand here too: they are no shortcut.",
            f"Sentences of four words or more that several groups share: {shared['sentences']}; "
            f"{shared['documents']} of {shared['of']} documents have one.",
        ),
        table("What shortcuts alone tell", ["Shortcut", *run.tasks], rows),
    ]


def _task(run: RunResults, task: str) -> Html:
    kind = run.tasks[task].kind
    return join(
        [
            heading(3, f"\u201c{task}\u201d ({kind})"),
            _table(run, task),
            figures(_forest(run, task), *_differences(run, task)),
            *_compared(run, task),
            _null(run, task),
        ]
    )


def _table(run: RunResults, task: str) -> Html:
    """Return variants against metrics."""
    kind, found = run.tasks[task].kind, run.scores(task)
    metric, called = headline_of(kind)
    others = [name for name in COLUMNS if any(name in values for values in found.values())]
    rows: list[list[Cell]] = []
    for variant, values in found.items():
        first = values[metric]
        row: list[Cell] = [
            variant_name(variant, kind),
            estimate(first["within"], first.get("within_low"), first.get("within_high")),
            number(first.get("mean")),
            estimate(first.get("pooled"), first.get("low"), first.get("high")),
        ]
        row += [_pooled(values.get(name)) for name in others]
        rows.append([*row, first.get("folds")])
    title = called[0].upper() + called[1:]
    ways = [f"{title} {way}" for way in ("within folds", "mean of folds", "pooled")]
    names = ["Variant", *ways, *(COLUMNS[name] for name in others), "Folds"]
    marked = [i for i, variant in enumerate(found) if variant == "hilbert"]
    return table(f"Scores of {task} with 95 % intervals", names, rows, marked)


def _pooled(score: Scores | None) -> Html:
    if score is None:
        return number(None)
    return estimate(score.get("pooled"), score.get("low"), score.get("high"))


def _forest(run: RunResults, task: str) -> Html:
    kind, found = run.tasks[task].kind, run.scores(task)
    metric, called = headline_of(kind)
    null = run.metrics.get("permutation", {}).get(task) or {}
    bars = [
        Bar(
            name=variant_name(variant, kind),
            value=values[metric]["within"],
            low=values[metric].get("within_low"),
            high=values[metric].get("within_high"),
            is_marked=variant == "hilbert",
        )
        for variant, values in found.items()
    ]
    band = (null["low"], null["high"]) if null.get("low") is not None else None
    picture = forest(
        f"{called} of {task} within folds for each variant", bars, f"{called} within folds", 0.5, band
    )
    caption = f"{called[0].upper()}{called[1:]} within folds with 95 % intervals. Dashed: chance."
    if band:
        caption += " Shaded: what HILBERT reaches with exchanged labels (95 % of the permutation null)."
    return figure(picture, caption, bars_table(f"{called} within folds", bars))


def bars_table(caption: str, bars: Sequence[Bar], first: str = "Variant") -> Html:
    """Return the numbers of a forest plot."""
    rows: list[list[Cell]] = [[bar.name, number(bar.value), interval(bar.low, bar.high)] for bar in bars]
    return table(
        caption, [first, "Value", "95 % interval"], rows, [i for i, bar in enumerate(bars) if bar.is_marked]
    )


def _comparisons(run: RunResults, task: str) -> Mapping[str, Scores]:
    order = list(run.scores(task))
    found: Mapping[str, Scores] = run.metrics.get("comparisons", {}).get(task, {})
    return {name: found[name] for name in order if name in found}


def _differences(run: RunResults, task: str) -> list[Html]:
    """Return the figure of HILBERT's differences, where there is something to compare with."""
    kind, found = run.tasks[task].kind, _comparisons(run, task)
    if not found:
        return []
    called = headline_of(kind)[1]
    bars = [
        Bar(name=variant_name(name, kind), value=c["difference"], low=c["low"], high=c["high"])
        for name, c in found.items()
    ]
    picture = forest(
        f"HILBERT minus each variant, {called} of {task}", bars, f"HILBERT minus variant, {called}", 0.0
    )
    caption = (
        "Difference of HILBERT to each variant on the same folds with 95 % intervals; right of 0 HILBERT "
        "is better."
    )
    return [figure(picture, caption, bars_table("HILBERT minus variant", bars))]


def _compared(run: RunResults, task: str) -> list[Html]:
    """Return the tests of HILBERT's differences."""
    kind, found = run.tasks[task].kind, _comparisons(run, task)
    if not found:
        return [missing("The run compares HILBERT with nothing on this task.")]
    rows: list[list[Cell]] = []
    for name, c in found.items():
        tested = {
            key: c.get(f"p_{key}_holm") if c.get(f"p_{key}") is not None else None
            for key in ("corrected_t", "bootstrap")
        }
        rows.append(
            [
                variant_name(name, kind),
                estimate(c["difference"], c["low"], c["high"], signed=True),
                number(c.get("t"), 2, signed=True),
                probability(c.get("p_corrected_t")),
                probability(tested["corrected_t"]),
                probability(c.get("p_bootstrap")),
                probability(tested["bootstrap"]),
                number(c.get("smallest_detectable_difference")),
            ]
        )
    head = [
        "HILBERT minus", "Difference", "Corrected t", "p", "p, Holm", "p, paired bootstrap", "p, Holm",
        "Smallest detectable difference",
    ]  # fmt: skip
    made = [table(f"HILBERT against each variant, {task}", head, rows)]
    first = next(iter(found.values()))
    if first.get("exploratory"):
        made.append(
            note(
                f"Exploratory: {first['groups']} groups are under 40, where neither test holds its level "
                "well. Read the intervals, not the p-values."
            )
        )
    return made


def _null(run: RunResults, task: str) -> Html:
    found = run.metrics.get("permutation", {}).get(task)
    if not found or found.get("value") is None:
        return missing("The run has no permutation null for this task.")
    called = headline_of(run.tasks[task].kind)[1]
    return paragraph(
        Html(
            f"Permutation null: with labels exchanged between documents ({number(found['permutations'])} "
            f"times) the {called} is {number(found['mean'])} on average and between {number(found['low'])} "
            f"and {number(found['high'])} in 95&#8239;% of cases; HILBERT\u2019s {number(found['value'])} "
            f"has {probability(found['p'], 'p')} (one-sided)."
        )
    )
