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
    number,
    paragraph,
    probability,
    section,
    table,
)
from hilbert_ray.reporting.plots import Bar, SettingAxis, TrialMarks
from hilbert_ray.run import RunResults, headline_of

MOST_TRIALS = 12
BEST = 0.25  # share of the trials that saw all inner folds which are drawn as the best
Trial = Mapping[str, Any]


def search(run: RunResults) -> Html | None:
    """Return what `tune` found; None for a run without a search."""
    if run.tuned is None:
        return None
    tuned, best = run.tuned, run.tuned["best"]
    parts = [
        paragraph(
            f"{tuned['trials']} trials, scored on inner folds and judged on outer folds that they never saw: "
            "one search for each outer fold, and one over all documents, which gives the settings to use."
        ),
        *_verdicts(run, tuned),
    ]
    names = list(tuned["space"])
    rows: list[list[Cell]] = [
        [name, _value(tuned["settings"][name]), _value(best.get(name, tuned["settings"][name]))]
        for name in names
    ]
    kept = "Settings to use" if best else "Settings to use: the defaults stay"
    parts.append(table(kept, ["Setting", "Default", "To use"], rows))
    return section("search", "Search over settings", *parts, *_importances(tuned), *_trials(run, tuned))


def _verdicts(run: RunResults, tuned: Mapping[str, Any]) -> list[Html]:
    """Return whether the search helped: on inner folds, where it chose, and on outer folds, which judge."""
    if tuned["beaten"]:
        inner = (
            "Over all documents, the search found settings more than one standard error better than the "
            "defaults on inner folds."
        )
    else:
        inner = (
            "Over all documents, no trial was more than one standard error better than the defaults on "
            "inner folds: the defaults stay."
        )
    rows: list[list[Cell]] = []
    for task, compared in tuned["comparison"].items():
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
            "The search did not help: on outer folds, settings searched on the training part alone score no "
            "better than the defaults by the corrected test."
        )
    caption = (
        "Headline within outer folds: searched settings beside the defaults. p: corrected resampled t test, "
        "adjusted for the number of tasks (Holm)"
    )
    head = ["Task", "Headline", "Searched", "Defaults", "Difference", "p", "Helped"]
    exploratory = any(compared.get("exploratory") for compared in tuned["comparison"].values())
    few = ["With fewer than 40 groups, p-values are exploratory."] if exploratory else []
    return [note(outer, inner, *few, kind="good" if helped else "plain"), table(caption, head, rows)]


def _importances(tuned: Mapping[str, Any]) -> list[Html]:
    shares = tuned["importances"]
    title = heading(3, "What mattered")
    if not shares:
        sentence = (
            f"{tuned['important_trials']} trials are too few, or too much alike, to tell which settings "
            "matter."
        )
        return [title, missing(sentence)]
    bars = [Bar(name=n, value=s["mean"], low=s["least"], high=s["most"]) for n, s in shares.items()]
    rows: list[list[Cell]] = [
        [name, number(share["mean"]), number(share["least"]), number(share["most"])]
        for name, share in shares.items()
    ]
    caption = (
        f"Importance: share of the variance between {tuned['important_trials']} trials of all searches that "
        "each setting explains (fANOVA); lines: least and most of five random forests. Shares sum to 1 also "
        f"where nothing matters: then each is near {1 / len(shares):.2f} (dashed)."
    )
    picture = plots.forest("Importance of each setting", bars, "share of the variance", 1 / len(shares))
    head = ["Setting", "Mean", "Least", "Most"]
    return [title, figures(figure(picture, caption, table("Importances", head, rows)))]


def _trials(run: RunResults, tuned: Mapping[str, Any]) -> list[Html]:
    """Return the trials of the search over all documents."""
    trials = [trial for trial in run.trials if trial["search"] == "all"]
    if not trials:
        return [missing("The run keeps no trials.jsonl of the search, so its trials are not shown.")]
    space = {name: from_dict(SpaceConfig, wanted) for name, wanted in tuned["space"].items()}
    whole = max(len(trial["folds"]) for trial in trials)
    ranked = sorted(trials, key=lambda trial: (-len(trial["folds"]), -trial["score"]))
    is_brier = "brier" in tuned["objectives"]
    rows: list[list[Cell]] = [
        [
            f"{i + 1}",
            number(trial["score"]),
            *([number(trial["brier"])] if is_brier else []),
            len(trial["folds"]),
            *(_value(trial["settings"][name]) for name in space),
            "defaults" if trial["is_default"] else trial.get("error", ""),
        ]
        for i, trial in enumerate(ranked)
    ]
    head = ["Rank", "Score", *(["Brier"] if is_brier else []), "Inner folds", *space, "Note"]
    first = f"The best {min(MOST_TRIALS, len(rows))} trials, those that saw all {whole} inner folds first"
    drawn = [trial for trial in ranked if trial["folds"]]
    diverged = f", {len(trials) - len(drawn)} diverged" if len(drawn) < len(trials) else ""
    early = sum(len(trial["folds"]) < whole for trial in drawn)
    counts = f"{len(trials)} trials of the search over all documents, {early} stopped early{diverged}"
    shown, scales = _shown(drawn, whole), _scales(drawn, space)
    score = np.array([trial["score"] for trial in drawn])
    low, high = float(score.min()), float(score.max())
    spread = (high - low) or 1.0
    ends = [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")]
    of_score = SettingAxis(name="score", places=(score - low) / spread, ticks=ends)
    label = "Each trial as a line through its settings and its score"
    lines = plots.parallel_coordinates(label, [*scales, of_score], shown)
    points = plots.slices("Score of each trial by each searched setting", scales, score, shown)
    numbers = table("All trials", head, rows)
    return [
        heading(3, "Trials"),
        table(first, head, rows[:MOST_TRIALS]),
        figures(
            figure(lines, f"Parallel coordinates: {counts}.", numbers, "All trials"),
            figure(points, f"Slices: score by each searched setting. {counts}.", numbers, "All trials"),
        ),
    ]


def _shown(trials: Sequence[Trial], whole: int) -> TrialMarks:
    """Return how trials, best first, are told apart."""
    is_whole = np.array([len(trial["folds"]) == whole for trial in trials])
    best = max(round(BEST * int(is_whole.sum())), 1)
    return TrialMarks(
        is_whole=is_whole,
        is_best=np.arange(len(trials)) < best,
        is_default=np.array([trial["is_default"] for trial in trials]),
    )


def _scales(trials: Sequence[Trial], space: Mapping[str, SpaceConfig]) -> list[SettingAxis]:
    """Return where trials lie in each setting; defaults outside the space lie at its nearest end."""
    scales = []
    for name, wanted in space.items():
        values = [trial["settings"][name] for trial in trials]
        if wanted.choices:
            places = [wanted.place(value) if value in wanted.choices else 0.0 for value in values]
            ticks = [(wanted.place(choice), str(choice)) for choice in wanted.choices]
        else:
            places = [wanted.place(value) for value in values]
            form = ".0f" if isinstance(values[0], int) else ".3g"
            ticks = [(place, f"{wanted.between(place):{form}}") for place in (0.0, 0.5, 1.0)]
        scales.append(SettingAxis(name=name, places=np.clip(places, 0, 1), ticks=ticks))
    return scales


def _value(value: bool | int | float | str) -> Cell:
    """Return a setting as a table shows it."""
    if isinstance(value, float):
        return number(value, 4)
    return str(value) if isinstance(value, bool) else value
