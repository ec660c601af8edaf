"""What a search over settings found: its trials, which settings mattered, and whether it helped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hilbert_ray.config import SpaceConfig, from_dict
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    estimate,
    figure,
    figures,
    heading,
    missing,
    note,
    notes,
    number,
    paragraph,
    probability,
    section,
    table,
)
from hilbert_ray.reporting.plots import ForestRow, SettingAxis, TrialMarks
from hilbert_ray.run import RunResults, headline_of, pending_lines

MOST_TRIALS = 12
"""Trials of the open table; a closed one has all."""
BEST = 0.25
"""Share of the trials that finished all inner folds which are drawn as the best."""
Trial = Mapping[str, Any]


def search_section(run: RunResults) -> Html | None:
    """Return what `tune` found; None for a run without a search."""
    tuned = run.tuned
    if tuned is None:
        return None
    # `best` has changes only; what it lacks keeps its default.
    best, defaults = tuned["best"], tuned["settings"]
    rows: list[list[Cell]] = [
        [name, _setting(defaults[name]), _setting(best.get(name, defaults[name]))] for name in tuned["space"]
    ]
    caption = "Settings to use" if best else "Settings to use: the defaults"
    return section(
        "search",
        "Search over settings",
        paragraph(
            f"{tuned['trials']} trials, scored on inner folds and judged on outer folds that they never saw: "
            "one search for each outer fold, and one over all documents, which gives the settings to use."
        ),
        *_pending(tuned),
        *_verdicts(run, tuned),
        table(caption, ["Setting", "Default", "To use"], rows),
        *_importances(tuned),
        *_trials(run, tuned),
    )


def _pending(tuned: Mapping[str, Any]) -> list[Html]:
    """Return what the search had to do without; an older tune.json does not say."""
    lines = pending_lines(tuned.get("pending", {}))
    return [notes("Searched before embedding had finished", lines, kind="warning")] if lines else []


def _verdicts(run: RunResults, tuned: Mapping[str, Any]) -> list[Html]:
    """Return whether the search helped: on inner folds, which choose, and on outer folds, which judge."""
    # Two verdicts that may differ: inner folds chose the winner among many trials, so its score there is
    # optimistic; outer folds were never searched.
    if tuned["beaten"]:
        inner = (
            "Over all documents, the search found settings more than one standard error better than the "
            "defaults on inner folds."
        )
    else:
        inner = (
            "Over all documents, no trial was more than one standard error better than the defaults on "
            "inner folds: keep the defaults."
        )
    rows: list[list[Cell]] = []
    for task, compared in tuned["comparison"].items():
        # tune.json may name a task that metrics.json does not score.
        kind = run.tasks[task].kind if task in run.tasks else "multiclass"
        difference = estimate(compared["difference"], compared["low"], compared["high"], signed=True)
        values = [number(tuned["tuned"][task]), number(tuned["default"][task])]
        p = probability(compared["p_corrected_t_holm"])
        rows.append(
            [task, headline_of(kind)[1], *values, difference, p, "yes" if tuned["helped"][task] else "no"]
        )
    helped = [task for task, value in tuned["helped"].items() if value]
    if helped:
        outer = f"On outer folds the search helped for {', '.join(helped)}."
    else:
        outer = (
            "The search did not help: on outer folds, settings searched on the training documents alone are "
            "not better than the defaults by the corrected test."
        )
    caption = (
        "Headline within outer folds, searched settings against the defaults. p: corrected resampled t test, "
        "adjusted for the number of tasks (Holm)"
    )
    head = ["Task", "Headline", "Searched", "Defaults", "Difference", "p", "Helped"]
    is_exploratory = any(compared.get("exploratory") for compared in tuned["comparison"].values())
    few = ["Exploratory: with fewer than 40 groups, p-values prove nothing."] if is_exploratory else []
    mood = "good" if helped and not is_exploratory else "plain"
    return [note(*few, outer, inner, kind=mood), table(caption, head, rows)]


def _importances(tuned: Mapping[str, Any]) -> list[Html]:
    importances, trials = tuned["importances"], tuned["important_trials"]
    title = heading(3, "Which settings mattered")
    if not importances:
        sentence = f"{trials} trials are too few, or too similar, to tell which settings matter."
        return [title, missing(sentence)]
    rows = [
        ForestRow(name=name, value=share["mean"], low=share["least"], high=share["most"])
        for name, share in importances.items()
    ]
    cells: list[list[Cell]] = [
        [row.name, number(row.value), number(row.low), number(row.high)] for row in rows
    ]
    # Shares sum to 1 even for noise, so an equal share is the level to compare with, not 0.
    equal = 1 / len(rows)
    caption = (
        f"Importance: share of the variance between {trials} trials of all searches that each setting "
        "explains (fANOVA). Lines: lowest and highest of five random forests. Shares sum to 1 even if "
        f"nothing matters; then each is near {equal:.2f} (dashed)."
    )
    picture = plots.forest("Importance of each setting", rows, "share of the variance", equal)
    head = ["Setting", "Mean", "Lowest", "Highest"]
    return [title, figures(figure(picture, caption, table("Importances", head, cells)))]


def _trials(run: RunResults, tuned: Mapping[str, Any]) -> list[Html]:
    """Return the trials of the search over all documents."""
    # Searches of the outer folds only serve to judge; this one gives the settings to use.
    trials = [trial for trial in run.trials if trial["search"] == "all"]
    if not trials:
        return [missing("The run has no trials.jsonl of the search, so its trials are not shown.")]
    # tune.json keeps the space, so that a later change of the defaults does not change this page.
    space = {name: from_dict(SpaceConfig, values) for name, values in tuned["space"].items()}
    # The defaults are never stopped early, so that the largest number is that of a complete trial.
    all_folds = max(len(trial["folds"]) for trial in trials)
    # A mean over fewer inner folds cannot be ranked against one over all.
    ranked = sorted(trials, key=lambda trial: (-len(trial["folds"]), -trial["score"]))
    head, rows = _trial_rows(ranked, list(space), "brier" in tuned["objectives"])
    # A trial that diverged has no fold; its placeholder score would stretch every axis.
    drawn = [trial for trial in ranked if trial["folds"]]
    diverged = f", {len(trials) - len(drawn)} diverged" if len(drawn) < len(trials) else ""
    early = sum(len(trial["folds"]) < all_folds for trial in drawn)
    counts = f"{len(trials)} trials of the search over all documents, {early} stopped early{diverged}"
    marks, axes = _marks(drawn, all_folds), _axes(drawn, space)
    score = np.array([trial["score"] for trial in drawn])
    alternative = "Each trial as a line through its settings and its score"
    lines = plots.parallel_coordinates(alternative, [*axes, _score_axis(score)], marks)
    points = plots.slices("Score of each trial by each searched setting", axes, score, marks)
    numbers = table("All trials", head, rows)
    shown = min(MOST_TRIALS, len(rows))
    caption = f"The best {shown} trials, those that finished all {all_folds} inner folds first"
    return [
        heading(3, "Trials"),
        table(caption, head, rows[:MOST_TRIALS]),
        figures(
            figure(lines, f"Parallel coordinates: {counts}.", numbers, "All trials"),
            figure(points, f"Slices: score by each searched setting. {counts}.", numbers, "All trials"),
        ),
    ]


def _trial_rows(
    ranked: Sequence[Trial], names: Sequence[str], has_brier: bool
) -> tuple[list[str], list[list[Cell]]]:
    """Return head and rows of the table of trials."""
    rows: list[list[Cell]] = [
        [
            f"{i + 1}",
            number(trial["score"]),
            *([number(trial["brier"])] if has_brier else []),
            len(trial["folds"]),
            *(_setting(trial["settings"][name]) for name in names),
            "defaults" if trial["is_default"] else trial.get("error", ""),
        ]
        for i, trial in enumerate(ranked)
    ]
    return ["Rank", "Score", *(["Brier"] if has_brier else []), "Inner folds", *names, "Note"], rows


def _marks(trials: Sequence[Trial], all_folds: int) -> TrialMarks:
    """Return how trials, best first, are told apart."""
    is_finished = np.array([len(trial["folds"]) == all_folds for trial in trials])
    # Trials come best first and complete ones before the others; at least one is marked in a short search.
    best = max(round(BEST * int(is_finished.sum())), 1)
    return TrialMarks(
        is_finished=is_finished,
        is_best=np.arange(len(trials)) < best,
        is_default=np.array([trial["is_default"] for trial in trials]),
    )


def _axes(trials: Sequence[Trial], space: Mapping[str, SpaceConfig]) -> list[SettingAxis]:
    """Return where trials lie on each setting; defaults outside the space lie at its nearest end."""
    axes = []
    for name, searched in space.items():
        values = [trial["settings"][name] for trial in trials]
        if searched.choices:
            # Only the defaults can be outside the choices.
            places = [searched.place(value) if value in searched.choices else 0.0 for value in values]
            ticks = [(searched.place(choice), str(choice)) for choice in searched.choices]
        else:
            places = [searched.place(value) for value in values]
            form = ".0f" if isinstance(values[0], int) else ".3g"
            # The middle on the setting's own scale: on a logarithmic one, the geometric mean of the ends.
            ticks = [(place, f"{searched.between(place):{form}}") for place in (0.0, 0.5, 1.0)]
        axes.append(SettingAxis(name=name, places=np.clip(places, 0, 1), ticks=ticks))
    return axes


def _score_axis(score: np.ndarray) -> SettingAxis:
    """Return the scores as one more axis, from the lowest to the highest."""
    low, high = float(score.min()), float(score.max())
    ticks = [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")]
    # All scores may be equal, as in a search of one trial; `or 1.0` avoids 0 / 0.
    return SettingAxis(name="score", places=(score - low) / ((high - low) or 1.0), ticks=ticks)


def _setting(value: bool | int | float | str) -> Cell:
    """Return a setting as a table shows it."""
    if isinstance(value, float):
        return number(value, 4)
    # Python counts bool as int: a switch would be shown as 1.
    return str(value) if isinstance(value, bool) else value
