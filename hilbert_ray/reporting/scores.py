"""Scores of every variant with intervals, and tests of HILBERT's difference from each of them."""

from collections.abc import Mapping, Sequence

from hilbert_ray.config import HILBERT
from hilbert_ray.reporting.cautions import (
    recall_caution,
    shortcut_caution,
    telling_shortcuts,
)
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    blocks,
    estimate,
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
    probability,
    quoted,
    section,
    table,
    warned,
)
from hilbert_ray.reporting.plots import ForestRow, forest
from hilbert_ray.reporting.summary import RIVALS
from hilbert_ray.run import SHORTCUT_LOW, Comparison, RunResults, Score, headline_of, variant_name

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
    "log_loss": "Log loss",
    "brier": "Brier",
    "calibration_slope": "Calibration slope",
}
"""Metrics next to the headline, in the order of the table; those that a kind of task lacks are left out."""
CORE = (HILBERT, *RIVALS, "hilbert_audio", "hilbert_text")
"""Variants that are always in sight; the others are HILBERT with something left out or changed."""
CHANCE = 0.5
"""Of AUC and concordance, whatever the number of classes."""


def scores_section(run: RunResults) -> Html:
    """Return the scores of all tasks."""
    return section(
        "scores",
        "Scores",
        _explanation(),
        *(_task(run, task) for task in run.tasks),
        *_shortcuts(run),
        *_duplicates(run),
    )


def _explanation() -> Html:
    how = paragraph(
        "The headline is computed within folds: concordant pairs within test sets divided by all pairs "
        "within test sets, for each class, then averaged over classes. Scores of different networks are "
        "never compared with each other.",
        "\u201cMean of folds\u201d averages over the test sets where the metric is defined; "
        "\u201cpooled\u201d uses all predictions of a repeat together, as do all other columns. "
        "Intervals are 95 % intervals over groups: of a cluster jackknife for AUC and concordance, of a "
        "cluster bootstrap for the rest.",
    )
    tests = paragraph(
        "Differences are tested in two ways: by the corrected t test of Nadeau and Bengio over folds, "
        "and by a paired t test over groups. Holm\u2019s method adjusts the p-values over the rows of "
        "a table. The smallest detectable difference is what a two-sided test at 5 % would find with "
        "80 % power: a smaller true difference would probably be missed. With few groups the corrected "
        "t test alone rejects too often: in simulated cohorts without any difference it did so in 5 to "
        "16 % of cases with 10 or 20 groups, and in 2 to 5 % with 40 or 80."
    )
    return blocks(how, tests)


def within(score: Score) -> Html:
    """Return the headline within folds with its interval."""
    return estimate(score.within, score.within_low, score.within_high)


def pooled(score: Score | None) -> Html:
    """Return a pooled score with its interval; a dash for None."""
    return number(None) if score is None else estimate(score.pooled, score.low, score.high)


def capitalised(label: str) -> str:
    """Return a label at the start of a sentence; abbreviations keep their capitals."""
    # `str.capitalize` would make AUC into Auc.
    return label[0].upper() + label[1:]


def _shortcuts(run: RunResults) -> list[Html]:
    """Return how well each shortcut alone predicts the labels, where the run has it."""
    shortcuts = run.evaluation.shortcuts
    if shortcuts is None:
        return []
    shared = shortcuts.shared_sentences
    telling = {task: telling_shortcuts(run, task) for task in run.tasks}
    rows: list[list[Cell]] = [
        # The same measure as the headline, since the question is whether that rests on a shortcut.
        [
            warned(name) if any(name in found for found in telling.values()) else name,
            *(_shortcut(by_task.get(task, Score()), name in telling[task]) for task in run.tasks),
        ]
        for name, by_task in shortcuts.scores.items()
    ]
    own: list[Cell] = [
        within(run.scores(task)[HILBERT][headline_of(settings.kind)[0]])
        for task, settings in run.tasks.items()
    ]
    return [
        heading(3, "Shortcuts", "shortcuts"),
        paragraph(
            "Each row is something that should not predict the labels, alone in a logistic regression on the "
            "folds of the first repeat, scored within folds as above. If a shortcut comes close to "
            "HILBERT\u2019s score, that score may rest on it. Where all speakers are embedded (segment.roles "
            "is empty), the turns of the speaker whom the labels are about are listed too: they are not a "
            "shortcut.",
            f"Marked are those whose interval lies above {SHORTCUT_LOW}, or that score as high as HILBERT.",
            f"Sentences of four words or more that several groups share: {shared.sentences}; "
            f"{shared.documents} of {shared.of} documents have one.",
        ),
        table(
            "What shortcuts alone predict", ["Shortcut", *run.tasks], [*rows, ["HILBERT", *own]], [len(rows)]
        ),
    ]


def _duplicates(run: RunResults) -> list[Html]:
    """Return the pairs of near duplicates that the run names; nothing where there are none."""
    duplicates = run.evaluation.duplicates
    if duplicates is None or not (duplicates.pairs or duplicates.held_out_pairs):
        return []
    listed = [("different groups", pair) for pair in duplicates.pairs]
    listed += [("the second is held out", pair) for pair in duplicates.held_out_pairs]
    rows: list[list[Cell]] = [
        [f"{pair.first}, {pair.second}", number(pair.audio), number(pair.text), why] for why, pair in listed
    ]
    found = duplicates.found + duplicates.held_out_found
    return [
        heading(3, "Near duplicates", "duplicates"),
        paragraph(
            "Documents of which half or more is nearly the same, by the share of the shorter one\u2019s "
            "segments of audio or runs of words that the other has.",
            f"Listed are {len(rows)} of {found} pairs.",
        ),
        table("Near duplicates", ["Documents", "Audio", "Words", "Why they matter"], rows),
    ]


def _shortcut(score: Score, is_telling: bool) -> Html:
    return warned(within(score)) if is_telling else within(score)


def _task(run: RunResults, task: str) -> Html:
    core = [name for name in run.scores(task) if name in CORE]
    others = [name for name in run.scores(task) if name not in CORE]
    cautions = (shortcut_caution(run, task), recall_caution(run, task))
    parts = [
        heading(3, f"{quoted(task)} ({run.tasks[task].kind})"),
        *_few_groups(run, task),
        *(note(caution, kind="warning") for caution in cautions if caution is not None),
        _table(run, task, core, "Scores of"),
        figures(_forest(run, task, core), *_differences(run, task, core)),
    ]
    if others:
        parts.append(
            fold(
                f"HILBERT with parts left out or changed: {len(others)} variants of {quoted(task)}",
                _table(run, task, others, "Scores of variants of HILBERT on"),
                figures(_forest(run, task, [HILBERT, *others]), *_differences(run, task, others)),
            )
        )
    # One task alone leaves room enough to show everything.
    tests = fold(
        f"Tests and permutation null of {quoted(task)}",
        *_tests(run, task),
        _null(run, task),
        is_open=len(run.tasks) == 1,
    )
    return join([*parts, tests])


def _few_groups(run: RunResults, task: str) -> list[Html]:
    """Return a remark where the tests of a task prove nothing; all its comparisons have the same groups."""
    first = next(iter(_comparisons(run, task).values()), None)
    if first is None or not first.exploratory:
        return []
    sentence = (
        f"Exploratory: with {first.groups} groups (fewer than 40), neither test holds its level well. Read "
        "the intervals, not the p-values."
    )
    return [note(sentence, kind="warning")]


def _table(run: RunResults, task: str, variants: Sequence[str], caption: str) -> Html:
    """Return variants against metrics."""
    kind, by_variant = run.tasks[task].kind, _of(run, task, variants)
    metric, label = headline_of(kind)
    others = [name for name in COLUMNS if any(name in scores for scores in by_variant.values())]
    rows: list[list[Cell]] = [
        [
            variant_name(variant, kind),
            within(scores[metric]),
            number(scores[metric].mean),
            pooled(scores[metric]),
            *(pooled(scores.get(name)) for name in others),
            # Test sets where the headline is defined: a mean over few of them is weak.
            scores[metric].folds,
        ]
        for variant, scores in by_variant.items()
    ]
    ways = [f"{capitalised(label)} {way}" for way in ("within folds", "mean of folds", "pooled")]
    head = ["Variant", *ways, *(COLUMNS[name] for name in others), "Folds"]
    marked = [i for i, variant in enumerate(by_variant) if variant == HILBERT]
    return table(f"{caption} {task} with 95 % intervals", head, rows, marked)


def _of(run: RunResults, task: str, variants: Sequence[str]) -> dict[str, Mapping[str, Score]]:
    return {name: scores for name, scores in run.scores(task).items() if name in variants}


def _forest(run: RunResults, task: str, variants: Sequence[str]) -> Html:
    """Return the figure of some variants' headlines, with the permutation null behind."""
    kind, by_variant = run.tasks[task].kind, _of(run, task, variants)
    metric, label = headline_of(kind)
    rows = [
        ForestRow(
            name=variant_name(variant, kind),
            value=scores[metric].within,
            low=scores[metric].within_low,
            high=scores[metric].within_high,
            is_marked=variant == HILBERT,
        )
        for variant, scores in by_variant.items()
    ]
    # Where HILBERT would be without any signal: a wide band says that the sample is small.
    null = run.evaluation.permutation.get(task)
    band = (null.low, null.high) if null and null.low is not None and null.high is not None else None
    picture = forest(
        f"{label} of {task} within folds by variant", rows, f"{label} within folds", CHANCE, band
    )
    caption = f"{capitalised(label)} within folds with 95 % intervals. Dashed: chance."
    if band:
        caption += " Shaded: 95 % range of HILBERT\u2019s score with permuted labels."
    return figure(picture, caption, forest_table(f"{label} within folds", rows))


def forest_table(caption: str, rows: Sequence[ForestRow], first: str = "Variant") -> Html:
    """Return the numbers of a forest plot."""
    cells: list[list[Cell]] = [[row.name, number(row.value), interval(row.low, row.high)] for row in rows]
    marked = [i for i, row in enumerate(rows) if row.is_marked]
    return table(caption, [first, "Value", "95 % interval"], cells, marked)


def _comparisons(run: RunResults, task: str) -> Mapping[str, Comparison]:
    """Return HILBERT's comparisons in the order of the table of scores."""
    by_variant = run.evaluation.comparisons.get(task, {})
    return {name: by_variant[name] for name in run.scores(task) if name in by_variant}


def _differences(run: RunResults, task: str, variants: Sequence[str]) -> list[Html]:
    """Return the figure of HILBERT's differences from some variants, where they were compared."""
    kind = run.tasks[task].kind
    comparisons = {name: c for name, c in _comparisons(run, task).items() if name in variants}
    if not comparisons:
        return []
    label = headline_of(kind)[1]
    rows = [
        ForestRow(name=variant_name(name, kind), value=c.difference, low=c.low, high=c.high)
        for name, c in comparisons.items()
    ]
    picture = forest(
        f"HILBERT minus each variant, {label} of {task}", rows, f"HILBERT minus variant, {label}", 0.0
    )
    caption = (
        "Difference between HILBERT and each variant on the same folds, with 95 % intervals. Right of 0 "
        "HILBERT is better."
    )
    return [figure(picture, caption, forest_table("HILBERT minus variant", rows))]


def _tests(run: RunResults, task: str) -> list[Html]:
    """Return the tests of HILBERT's differences."""
    kind, comparisons = run.tasks[task].kind, _comparisons(run, task)
    if not comparisons:
        return [missing("The run does not compare HILBERT with anything on this task.")]
    rows: list[list[Cell]] = [
        [
            variant_name(name, kind),
            estimate(c.difference, c.low, c.high, signed=True),
            number(c.t, 2, signed=True),
            # Unadjusted too: a reader who planned one comparison needs no adjustment.
            probability(c.p_corrected_t),
            probability(c.p_corrected_t_holm),
            probability(c.p_paired_t),
            probability(c.p_paired_t_holm),
            number(c.smallest_detectable_difference),
        ]
        for name, c in comparisons.items()
    ]
    head = [
        "HILBERT minus", "Difference", "Corrected t", "p of corrected t", "p of corrected t, Holm",
        "p over groups", "p over groups, Holm", "Smallest detectable difference",
    ]  # fmt: skip
    return [table(f"HILBERT against each variant, {task}", head, rows)]


def _null(run: RunResults, task: str) -> Html:
    null = run.evaluation.permutation.get(task)
    if null is None or null.value is None:
        return missing("The run has no permutation null for this task.")
    # One-sided: a score below chance is not evidence of a signal.
    label = headline_of(run.tasks[task].kind)[1]
    units = "groups" if null.exchanged == "groups" else "documents"
    return paragraph(
        Html(
            f"Permutation null: with labels permuted between {units} ({number(null.permutations)} "
            "times; the range is widened, because networks are not trained again for each), "
            f"the {label} is {number(null.mean)} on average and lies between {number(null.low)} and "
            f"{number(null.high)} in 95&#8239;% of cases; HILBERT\u2019s {number(null.value)} has "
            f"{probability(null.p, 'p')} (one-sided)."
        )
    )
