"""What a reader must know before the scores: few groups, shortcuts, missing data, folds, weak classes.

The summary lists all of it above the first score; Data, Scores and Classes repeat each remark where its
numbers are.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hilbert_ray.config import HILBERT
from hilbert_ray.metrics import Predictions
from hilbert_ray.reporting.html import Html, code, interval, join, link, number, quoted, text
from hilbert_ray.run import SHORTCUT_LOW, DataCounts, DuplicatePair, RunResults, Score, headline_of

FEW_GROUPS = 40
"""Below this number of groups tests do not hold their level well, see `metrics.compare_predictions`."""
LOW_RECALL = 0.3
"""Below it a class is remarked on, however good the scores are that average over classes."""
LENGTH = "duration and number of turns"
"""The shortcut that is not about what a speaker says."""


def is_exploratory(run: RunResults) -> bool:
    """Whether the run has so few groups that its tests prove nothing."""
    by_task = run.evaluation.comparisons.values()
    if any(comparison.exploratory for compared in by_task for comparison in compared.values()):
        return True
    return run.evaluation.data is not None and run.evaluation.data.groups < FEW_GROUPS


def groups_of(run: RunResults, task: str | None = None) -> int | None:
    """Return the number of groups, of those that are labelled for a task where the run compares it."""
    of_task = next(iter(run.evaluation.comparisons.get(task or "", {}).values()), None)
    if of_task is not None and of_task.groups:
        return of_task.groups
    if run.evaluation.data is not None:
        return run.evaluation.data.groups
    counts = [c.groups for compared in run.evaluation.comparisons.values() for c in compared.values()]
    return max(counts, default=None)


def cautions(run: RunResults) -> list[Html]:
    """Return all remarks that belong above the scores, the gravest first."""
    found: list[Html] = []
    if is_exploratory(run):
        found.append(
            Html(
                f"<strong>Exploratory:</strong> {groups_of(run)} groups, fewer than {FEW_GROUPS}. Tests do "
                "not hold their level with so few: read the intervals, not the p-values."
            )
        )
    for task in run.tasks:
        shortcut = shortcut_caution(run, task)
        if shortcut is not None:
            found.append(shortcut)
    data = run.evaluation.data
    origins = None if data is None else mixed_transcripts(data)
    remarks = (_excuse(run), shared_caution(run), duplicates_caution(run), origins)
    found += [remark for remark in remarks if remark is not None]
    lacking = [] if data is None else missing_data(data)
    if lacking:
        found.append(join(lacking, " "))
    if run.evaluation.folds is not None and run.evaluation.folds.warnings:
        count = len(run.evaluation.folds.warnings)
        found.append(
            Html(
                f"The folds have {count} warning{'s' if count > 1 else ''}, listed under "
                f"{link('data', 'Data')}."
            )
        )
    return found


def telling_shortcuts(run: RunResults, task: str) -> Mapping[str, Score]:
    """Return the shortcuts on which a task's score may rest, by name.

    Those that are clearly better than chance, and those that score as high as HILBERT does.
    """
    shortcuts = run.evaluation.shortcuts
    if shortcuts is None:
        return {}
    own = run.scores(task)[HILBERT][headline_of(run.tasks[task].kind)[0]].within
    found = dict(shortcuts.telling(task))
    for name, by_task in shortcuts.scores.items():
        score = by_task.get(task)
        # Where HILBERT itself is near chance there is no score to doubt.
        if score and score.within is not None and own is not None and score.within >= own > SHORTCUT_LOW:
            found[name] = score
    return {name: found[name] for name in shortcuts.scores if name in found}


def shortcut_caution(run: RunResults, task: str) -> Html | None:
    """Return which shortcuts alone predict a task; None where none does."""
    telling = telling_shortcuts(run, task)
    if not telling:
        return None
    metric, label = headline_of(run.tasks[task].kind)
    own = run.scores(task)[HILBERT][metric]
    listed = join(
        [
            Html(
                f"{text(quoted(name))} {number(score.within)} "
                f"({interval(score.within_low, score.within_high)})"
            )
            for name, score in telling.items()
        ],
        ", ",
    )
    best = max(score.within or 0.0 for score in telling.values())
    # What is no higher than a shortcut alone has not been shown to hold anything else.
    rests = f"may rest on {'it' if len(telling) == 1 else 'them'}"
    verdict = rests if own.within is None or own.within > best else "is not higher"
    return Html(
        f"<strong>Shortcut</strong> for {text(quoted(task))}: {listed} alone, by {label} within folds. "
        f"HILBERT\u2019s {number(own.within)} {verdict}; see {link('shortcuts', 'Shortcuts')}."
    )


def _excuse(run: RunResults) -> Html | None:
    """Return the caveat of shortcuts that are a speaker's turns; None where it does not apply."""
    by_role = {name for task in run.tasks for name in telling_shortcuts(run, task)} - {LENGTH}
    # With all speakers embedded, one of them is whom the labels are about; the run does not know which.
    if not by_role or run.config.segment.roles:
        return None
    return Html(
        "Turns of the speaker whom the labels are about are no shortcut: embed with segment.roles set to "
        "that speaker\u2019s role, and they are not listed."
    )


def shared_caution(run: RunResults) -> Html | None:
    """Return how many documents share sentences with other groups; None where none does."""
    shortcuts = run.evaluation.shortcuts
    if shortcuts is None or not shortcuts.shared_sentences.documents:
        return None
    shared = shortcuts.shared_sentences
    return Html(
        f"<strong>Same words in several groups:</strong> {shared.documents} of {shared.of} documents have a "
        f"sentence of four words or more in common with another group; see {link('shortcuts', 'Shortcuts')}."
    )


def duplicates_caution(run: RunResults) -> Html | None:
    """Return how many near duplicates lie in different groups or splits; None without any."""
    duplicates = run.evaluation.duplicates
    if duplicates is None:
        return None
    remarks = []
    if duplicates.found and not duplicates.are_joined:
        remarks.append(
            Html(
                f"{_pairs(duplicates.found)} of documents of different groups{_such_as(duplicates.pairs)}. "
                "Scores may be too good: correct the groups in the manifest, or set folds.join_duplicates."
            )
        )
    if duplicates.held_out_found:
        remarks.append(
            Html(
                f"{_pairs(duplicates.held_out_found)} of a document that takes part and one that is held out"
                f"{_such_as(duplicates.held_out_pairs)}. Scores on what is held out will be too good: give "
                "both the same split in the manifest."
            )
        )
    return Html(f"<strong>Near duplicates:</strong> {join(remarks, ' ')}") if remarks else None


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"


def _such_as(pairs: Sequence[DuplicatePair]) -> str:
    return "".join(f", such as {code(pair.first)} and {code(pair.second)}" for pair in pairs[:1])


def missing_data(data: DataCounts) -> list[Html]:
    """Return what documents lack: left out, in quarantine, not embedded yet, or absent from the manifest."""
    found = []
    if data.left_out:
        found.append(_lacks("Left out", data.left_out, "no features at all: this evaluation lacks it"))
    for modality in data.documents_with:
        if data.pending.get(modality):
            rest = f"{modality} that is not embedded yet: rerun embed, then evaluate"
            found.append(_lacks("Pending", data.pending[modality], rest))
        if data.quarantined.get(modality):
            rest = f"{modality} that could not be embedded; it counts as missing"
            found.append(_lacks("Quarantined", data.quarantined[modality], rest))
        if data.absent.get(modality):
            found.append(_lacks("Absent", data.absent[modality], f"no {modality} in the manifest"))
    return found


def automatic_transcripts(data: DataCounts) -> str:
    """Return how many transcripts are automatic, and by which recogniser; empty where none is known to be."""
    if not data.recognizers:
        return ""
    total = data.documents_with.get("text", data.documents)
    names = "; ".join(
        f"{one.documents} by {one.name} (fingerprint {one.fingerprint})" for one in data.recognizers
    )
    rest = "" if data.automatic >= total else "; who wrote the others is not known"
    return f"{data.automatic} of {total} transcripts are automatic: {names}{rest}."


def mixed_transcripts(data: DataCounts) -> Html | None:
    """Return what to mind where some transcripts are automatic and others are not; None elsewhere."""
    total = data.documents_with.get("text", data.documents)
    if len(data.recognizers) < 2 and data.automatic in (0, total):
        return None
    return Html(
        f"<strong>Transcripts of several origins:</strong> {text(automatic_transcripts(data))} Where the "
        "origin goes with the label, scores are too good: transcribe all documents in one way."
    )


def _lacks(state: str, count: int, rest: str) -> Html:
    documents = "document has" if count == 1 else "documents have"
    return Html(f"<strong>{state}:</strong> {count} {documents} {text(rest)}.")


def recalls(run: RunResults, task: str) -> Mapping[str, float]:
    """Return the share of each class's documents that HILBERT finds, by class; empty for numbers.

    Of a multilabel task the recall of each label, where the run has its predictions.
    """
    predictions = run.predictions.get((task, HILBERT))
    if run.tasks[task].kind == "multilabel":
        return {} if predictions is None else _label_recalls(predictions)
    score = run.scores(task)[HILBERT].get("balanced_accuracy", Score())
    return {name: one.pooled for name, one in score.classes.items() if one.pooled is not None}


def _label_recalls(predictions: Predictions) -> dict[str, float]:
    assert predictions.decisions is not None
    found = {}
    for k, name in enumerate(predictions.classes):
        positive = predictions.targets[:, k] == 1
        if positive.any():
            found[name] = float(np.mean(predictions.decisions[positive, k] == 1))
    return found


def low_recalls(run: RunResults, task: str) -> Mapping[str, float]:
    """Return the classes that are found less often than `LOW_RECALL`, or than by a guess between classes."""
    settings = run.tasks[task]
    # A label is there or not; of classes that exclude each other there are as many as have a name.
    guess = 1 / max(len(settings.classes), 2) if settings.kind != "multilabel" else 0.0
    return {name: value for name, value in recalls(run, task).items() if value < max(LOW_RECALL, guess)}


def recall_caution(run: RunResults, task: str) -> Html | None:
    """Return which classes are mostly missed; None where none is."""
    low = low_recalls(run, task)
    if not low:
        return None
    listed = join([Html(f"{text(quoted(name))} {number(value, 2)}") for name, value in low.items()], ", ")
    return Html(
        f"<strong>Low recall</strong> of {listed}: HILBERT misses most of these documents, which accuracy, "
        "kappa and other scores over all classes do not show."
    )
