"""The first screen: what to be careful about, and for each task HILBERT against the best of its rivals."""

from hilbert_ray.config import BASELINE, HILBERT
from hilbert_ray.reporting.cautions import cautions, groups_of, is_exploratory, telling_shortcuts
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    code,
    estimate,
    interval,
    join,
    link,
    notes,
    number,
    probability,
    quoted,
    table,
    text,
    warned,
)
from hilbert_ray.run import Comparison, RunResults, Score, headline_of, variant_name

RIVALS = {
    BASELINE: "logistic regression on mean + std",
    "late_fusion": "late fusion",
    "audio_only": "audio only",
    "text_only": "text only",
}
"""What HILBERT must beat, and what sentences call it. Ablations are no rivals: they are HILBERT itself."""


def summary(run: RunResults) -> Html:
    """Return title, cautions, and one verdict for each task."""
    fingerprint, tasks = run.settings.get("data", ""), list(run.tasks)
    # With several tasks none is the subject: each has its own line.
    subject = f" on {quoted(tasks[0])}" if len(tasks) == 1 else f" on {len(tasks)} tasks"
    found = cautions(run)
    verdicts = "".join(_line(run, task) for task in tasks)
    return join(
        [
            Html(f'<p class="kicker">Run {code(run.name)}, data {code(fingerprint)}</p>'),
            Html(f"<h1>HILBERT{text(subject)}: cross-validated results</h1>"),
            *([notes("Before you read the scores", found, "warning")] if found else []),
            Html(f'<ul class="verdicts">{verdicts}</ul>'),
            _glance(run),
            _explanation(),
        ]
    )


def best_rival(run: RunResults, task: str) -> str | None:
    """Return the rival with the highest headline of a task; None where the run has none.

    The first of `RIVALS` among equals.
    """
    metric, scores = headline_of(run.tasks[task].kind)[0], run.scores(task)
    values = {name: scores[name][metric].within for name in RIVALS if name in scores}
    known = {name: value for name, value in values.items() if value is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _line(run: RunResults, task: str) -> Html:
    """Return the verdict on one task as an item of the list."""
    kind, scores = run.tasks[task].kind, run.scores(task)
    metric, label = headline_of(kind)
    rival = best_rival(run, task)
    few = groups_of(run, task) if is_exploratory(run) else None
    if rival is None:
        own = scores[HILBERT][metric]
        lead = f"Exploratory with {few} groups: o" if few is not None else "O"
        says = f"{lead}n {quoted(task)}, HILBERT has no rival in this run."
        return _item("plain", says, _reached(label, own))
    mood, says = verdict(quoted(task), rival_name(rival, kind), run.comparison(task, rival), few)
    numbers = join([_reached(label, scores[HILBERT][metric], scores[rival][metric]), _difference(run, task)])
    marked = link("shortcuts", "Shortcut: see above.") if telling_shortcuts(run, task) else Html("")
    return _item(mood, says, join([numbers, marked], " "))


def verdict(task: str, rival: str, comparison: Comparison | None, few: int | None) -> tuple[str, str]:
    """Return the mood (good, bad or plain) and one sentence: HILBERT against its best rival.

    Better or worse is only what the whole interval says; a lead within the interval is not called a win. With
    few groups nothing is called a win, and that comes first.

    Args:
        task: name of the task, quoted.
        rival: what sentences call the rival.
        comparison: HILBERT against the rival; None where the run has not compared them.
        few: number of groups where the run is exploratory; None where it is not.
    """
    lead = f"On {task}, " if few is None else f"Exploratory with {few} groups: on {task}, "
    against = f"its best rival, {rival}"
    if comparison is None or comparison.difference is None:
        return "plain", f"{lead}HILBERT is not compared with {against}."
    difference, low, high = comparison.difference, comparison.low, comparison.high
    unclear = "there is no interval" if low is None or high is None else "the interval includes 0"
    # The interval decides. Only where it does not does the sign of the difference choose the words.
    if low is not None and low > 0:
        mood = "good" if few is None else "plain"
        says = "beats" if few is None else "is ahead of"
        return mood, f"{lead}HILBERT {says} {against}."
    if high is not None and high < 0:
        return "bad", f"{lead}HILBERT is worse than {against}."
    if difference > 0:
        return "plain", f"{lead}HILBERT is not shown to beat {against}: it is ahead, but {unclear}."
    return "bad", f"{lead}HILBERT does not beat {against}; {unclear}."


def rival_name(name: str, kind: str) -> str:
    """Return what sentences call a rival; the baseline of numbers is ridge regression."""
    return RIVALS[name].replace("logistic", "ridge") if kind == "regression" else RIVALS[name]


def _item(mood: str, says: str, numbers: Html) -> Html:
    return Html(f'<li class="{mood}"><p><strong>{text(says)}</strong></p><p>{numbers}</p></li>')


def _reached(label: str, own: Score, rival: Score | None = None) -> Html:
    """Return the headline of HILBERT, and that of its rival, with their intervals."""
    both = [
        Html(f"{number(score.within)} ({interval(score.within_low, score.within_high)})")
        for score in (own, rival)
        if score is not None
    ]
    return Html(f"{label[0].upper()}{label[1:]} within folds {join(both, ' against ')};")


def _difference(run: RunResults, task: str) -> Html:
    """Return the difference between HILBERT and its best rival, with interval and p-value."""
    rival = best_rival(run, task)
    comparison = None if rival is None else run.comparison(task, rival)
    if comparison is None:
        return Html("no difference was computed.")
    p = "" if comparison.p_paired_t is None else f", {probability(comparison.p_paired_t, 'p')}"
    return Html(
        f"difference {number(comparison.difference, signed=True)} "
        f"({interval(comparison.low, comparison.high, signed=True)}){p}."
    )


def _glance(run: RunResults) -> Html:
    """Return the headlines of HILBERT and all rivals, one row per task; the best of each row is bold."""
    present = [name for name in (HILBERT, *RIVALS) if any(name in run.scores(task) for task in run.tasks)]
    rows: list[list[Cell]] = []
    for task, settings in run.tasks.items():
        metric, label = headline_of(settings.kind)
        scores = {name: run.scores(task).get(name, {}).get(metric, Score()) for name in present}
        known = [score.within for score in scores.values() if score.within is not None]
        cells: list[Cell] = []
        for score in scores.values():
            value = estimate(score.within, score.within_low, score.within_high)
            is_best = known and score.within == max(known)
            cells.append(Html(f"<strong>{value}</strong>") if is_best else value)
        name: Cell = warned(task) if telling_shortcuts(run, task) else task
        rows.append([name, label, *cells])
    # Kinds differ in what a variant is: names that hold for all of them.
    names = [variant_name(name, "multiclass") for name in present]
    if any(settings.kind == "regression" for settings in run.tasks.values()):
        names = [name.replace("logistic", "linear") for name in names]
    return table("Headline within folds with 95 % intervals, by task", ["Task", "Headline", *names], rows)


def _explanation() -> Html:
    return Html(
        '<p class="small">All scores are of groups not seen in training. The best rival is the one with the '
        "highest score on the same folds, which favours the rival. The interval of the difference decides; p "
        f"is of the paired test over groups, unadjusted: {link('scores', 'Scores')} has all comparisons.</p>"
    )
