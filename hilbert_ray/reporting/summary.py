"""The first screen: what HILBERT reaches on the main task, next to what it must beat."""

from hilbert_ray.config import BASELINE, HILBERT
from hilbert_ray.reporting.html import (
    Html,
    code,
    estimate,
    interval,
    join,
    missing,
    note,
    number,
    quoted,
    text,
)
from hilbert_ray.run import Comparison, RunResults, headline_of, variant_name

COMPARED = {"audio_only": "audio only", "text_only": "text only", BASELINE: "mean + std, logistic regression"}
"""Variants that the summary shows next to HILBERT, and what it calls them; Scores compares with all."""


def summary(run: RunResults) -> Html:
    """Return title, the one-sentence result and the verdict against the baseline."""
    task = run.main_task
    fingerprint = run.settings.get("data", "")
    return join(
        [
            Html(f'<p class="kicker">Run {code(run.name)}, data {code(fingerprint)}</p>'),
            Html(f"<h1>HILBERT on {text(quoted(task))}: cross-validated results</h1>"),
            Html(f'<p class="lead">{lead(run)}</p>'),
            verdict(run.comparison(task, BASELINE), run.tasks[task].kind),
            _tiles(run),
        ]
    )


def lead(run: RunResults) -> Html:
    """Return one sentence: the headline of the main task with its interval, and those of its baselines."""
    task, scores = run.main_task, run.scores(run.main_task)
    kind, classes = run.tasks[task].kind, len(run.tasks[task].classes)
    metric, label = headline_of(kind)
    headline = scores[HILBERT][metric]
    # What the run lacks is not mentioned: a dash would read badly in a sentence.
    others = [(called, scores[name][metric].within) for name, called in COMPARED.items() if name in scores]
    # Names in COMPARED are of classification; for numbers the baseline is ridge regression.
    if kind == "regression":
        others = [(called.replace("logistic", "ridge"), value) for called, value in others]
    compared = ", ".join(f"{number(value)} for {text(called)}" for called, value in others)
    target = {"regression": "numbers", "multilabel": f"{classes} labels"}.get(kind, f"{classes} classes")
    return Html(
        f"On {text(quoted(task))} ({target}), HILBERT reaches a {label} within folds of "
        f"<strong>{number(headline.within)}</strong> (95&#8239;% interval "
        f"{interval(headline.within_low, headline.within_high)}) on groups not seen in training"
        f"{f', compared with {compared}' if compared else ''}."
    )


def verdict(comparison: Comparison | None, kind: str) -> Html:
    """Return in plain words whether HILBERT beats the baseline.

    Better or worse is only what the whole interval says; a lead within the interval is not called a win.
    """
    if comparison is None or comparison.difference is None:
        return missing(
            "This run has no comparison with the baseline (mean + std pooling and a linear model)."
        )
    difference, low, high = comparison.difference, comparison.low, comparison.high
    baseline = "ridge regression" if kind == "regression" else "logistic regression"
    numbers = Html(
        f"Difference {number(difference, signed=True)}, 95&#8239;% interval "
        f"{interval(low, high, signed=True)}."
    )
    unclear = "there is no interval" if low is None or high is None else "the interval includes 0"
    # The interval decides. Only where it does not does the sign of the difference choose the words.
    if low is not None and low > 0:
        sentence, mood = f"HILBERT beats {baseline} on mean + std features.", "good"
    elif high is not None and high < 0:
        sentence, mood = f"HILBERT does not beat {baseline} on mean + std features: it is worse.", "bad"
    elif difference > 0:
        lead = f"it is ahead, but {unclear}"
        sentence, mood = f"HILBERT is not shown to beat {baseline} on mean + std features: {lead}.", "plain"
    else:
        sentence, mood = f"HILBERT does not beat {baseline} on mean + std features; {unclear}.", "bad"
    if comparison.exploratory:
        warning = f"With only {comparison.groups} groups (fewer than 40), this is exploratory."
        numbers = join([numbers, warning], " ")
    return note(Html(f"<strong>{text(sentence)}</strong>"), numbers, kind=mood)


def _tiles(run: RunResults) -> Html:
    """Return the headlines as large numbers, HILBERT's marked."""
    task, scores = run.main_task, run.scores(run.main_task)
    kind = run.tasks[task].kind
    metric, label = headline_of(kind)
    tiles = []
    for name in (HILBERT, *COMPARED):
        # A run with one modality has no variant of the other.
        if name not in scores:
            continue
        headline = scores[name][metric]
        value = estimate(headline.within, headline.within_low, headline.within_high)
        mark = ' class="marked"' if name == HILBERT else ""
        tiles.append(f"<div{mark}><dt>{text(variant_name(name, kind))}</dt><dd>{value}</dd></div>")
    # Safe in the attribute as well: `text` escapes quotes.
    spoken = text(f"{label[0].upper()}{label[1:]} of {quoted(task)} within folds, with 95 % intervals")
    return Html(f'<dl class="tiles" aria-label="{spoken}">{"".join(tiles)}</dl>')
