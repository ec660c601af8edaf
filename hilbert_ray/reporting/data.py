"""What the run was evaluated on: documents, labels and folds."""

import numpy as np

from hilbert_ray.config import HILBERT, MODALITIES
from hilbert_ray.metrics import Predictions
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.cautions import automatic_transcripts
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    blocks,
    code,
    details,
    facts,
    figure,
    heading,
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
from hilbert_ray.run import DataCounts, FoldCounts, RunResults


def data_section(run: RunResults) -> Html:
    """Return documents, labels and folds."""
    data = run.evaluation.data
    return section(
        "data",
        "Data",
        facts(_counts(run)),
        *([] if data is None else [*_modalities(data), *_recognizers(data)]),
        blocks(*(_balance(run, task) for task in run.tasks), is_narrow=True),
        heading(3, "Folds"),
        *_folds(run.evaluation.folds),
    )


def _counts(run: RunResults) -> list[tuple[str, Cell]]:
    data = run.evaluation.data
    documents, groups = (None, None) if data is None else (data.documents, data.groups)
    counts: list[tuple[str, Cell]] = [("Documents", documents), ("Groups", groups)]
    if data is not None and data.left_out:
        counts.append(("Left out: no features", warned(data.left_out)))
    splits = run.evaluation.splits
    if splits is not None:
        counts += [(f"Held out: split {name}", count) for name, count in splits.held_out.items() if count]
    # metrics.json counts each modality on its own; how many have both is only known by document.
    both = _documents_with_both(run)
    if both is not None:
        counts.append(("Documents with both", both))
    hours = _hours(run)
    if hours:
        counts.append(("Hours of audio", number(hours, 1)))
    # Two reports with the same fingerprint are about the same documents, labels and encoders.
    counts.append(("Data fingerprint", code(run.settings.get("data", "unknown"))))
    return counts


def _modalities(data: DataCounts) -> list[Html]:
    """Return how many documents have each modality, and why the others lack it."""
    rows: list[list[Cell]] = []
    for modality in MODALITIES:
        if modality not in data.documents_with:
            continue
        # What a rerun could fix, and what was lost, is marked; what the manifest lacks is not a fault.
        lacking: list[Cell] = [data.absent.get(modality), data.pending.get(modality)]
        lacking.append(data.quarantined.get(modality))
        marked = [lacking[0], *(warned(count) if count else count for count in lacking[1:])]
        rows.append([modality, data.documents_with[modality], *marked, data.segments.get(modality)])
    head = [
        "Modality", "Documents that have it", "Absent: not in the manifest", "Pending: not embedded yet",
        "Quarantined: could not be embedded", "Segments",
    ]  # fmt: skip
    caption = "Documents by modality; pending and quarantined ones may not be among those evaluated"
    return [table(caption, head, rows)]


def _recognizers(data: DataCounts) -> list[Html]:
    """Return which recognisers wrote how many transcripts; nothing where none is known to be automatic."""
    if not data.recognizers:
        return []
    rows: list[list[Cell]] = [
        [one.name, code(one.fingerprint), one.documents, number(one.confidence, 2)]
        for one in data.recognizers
    ]
    head = ["Recogniser", "Fingerprint", "Documents", "Mean confidence of words"]
    return [paragraph(automatic_transcripts(data)), table("Automatic transcripts", head, rows)]


def _documents_with_both(run: RunResults) -> int | None:
    """Return the number of documents with both modalities, from attention.parquet."""
    columns = run.attention
    if columns is None or not all(f"{m}_weight" in columns for m in MODALITIES):
        return None
    # A document without a modality has an empty list of weights.
    pairs = zip(*(columns[f"{m}_weight"] for m in MODALITIES), strict=True)
    return sum(1 for audio, words in pairs if audio and words)


def _hours(run: RunResults) -> float | None:
    """Return hours of audio up to the last segments' ends; None where times are positions in [0, 1]."""
    # A run folder has no durations; the last segment's end is the nearest thing to one.
    ends = [max(end) for end in (run.attention or {}).get("audio_end", []) if end]
    # Times are seconds, or positions that end at 1; no recording is as short as one second.
    return sum(ends) / 3600 if ends and max(ends) > 1.0 else None


def _balance(run: RunResults, task: str) -> Html:
    """Return how often each class of a task occurs."""
    data, kind = run.evaluation.data, run.tasks[task].kind
    title = heading(3, f"Labels of {quoted(task)} ({kind})")
    labels = None if data is None else data.labels.get(task)
    if data is None or labels is None:
        return join([title, missing("The run has no counts of labels.")])
    unlabelled = data.documents - labels.labelled
    counts = f"{labels.labelled} of {data.documents} documents are labelled, {unlabelled} are not."
    if not labels.classes:
        return join([title, paragraph(counts), *_histogram(run, task)])
    rows: list[list[Cell]] = []
    # Relative to the largest class, not to all documents: with many classes every bar would be a stub. 1
    # avoids 0 / 0.
    largest = max([*labels.classes.values(), 1])
    for name, count in labels.classes.items():
        # A custom property, not a width: the style sheet decides how a share looks on a screen and in print.
        bar = Html(f'<div class="bar"><span style="--share:{count / largest:.3f}"></span></div>')
        # Of the labelled: in a multilabel task these sum to more or less than 100.
        percent = number(100 * count / labels.labelled if labels.labelled else None, 1)
        rows.append([name, count, percent, bar])
    noun = "Label" if kind == "multilabel" else "Class"
    head = [noun, "Documents", "% of labelled", "Balance"]
    return join([title, paragraph(counts), table(f"Documents per {noun.lower()}", head, rows)])


def _histogram(run: RunResults, task: str) -> list[Html]:
    """Return how the numbers of a regression task are distributed over documents."""
    predictions = run.predictions.get((task, HILBERT))
    # The labels are in the run next to their predictions, and nowhere else.
    if predictions is None or not predictions.labelled.any():
        return []
    values = _numbers(predictions)
    count, edges = np.histogram(values, bins=min(20, max(5, round(len(values) ** 0.5))))
    quarters = [float(q) for q in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]
    names = ("Lowest", "Lower quartile", "Median", "Upper quartile", "Highest")
    rows: list[list[Cell]] = [
        [Html(f"{number(float(low))} to {number(float(high))}"), int(n)]
        for low, high, n in zip(edges[:-1], edges[1:], count, strict=True)
    ]
    picture = plots.histogram(f"Distribution of {task} over documents", edges, count, quarters[2], task)
    caption = f"Documents by their {quoted(task)}. Dashed: median, {quarters[2]:.3g}."
    return [
        facts([(name, number(value)) for name, value in zip(names, quarters, strict=True)]),
        figure(picture, caption, table(f"Documents by {task}", [task, "Documents"], rows)),
    ]


def _numbers(predictions: Predictions) -> np.ndarray:
    """Return the label of each labelled document once, however many repeats there are."""
    known = predictions[predictions.labelled]
    _, first = np.unique(known.document, return_index=True)
    return np.asarray(known.targets[first], np.float64)


def _folds(folds: FoldCounts | None) -> list[Html]:
    if folds is None:
        return [missing("The run has no description of its folds.")]
    repeated = "not repeated" if folds.repeats == 1 else f"repeated {folds.repeats} times"
    sizes = np.array(folds.sizes)
    parts = [
        paragraph(
            f"{folds.folds}-fold cross-validation, {repeated}; no group is in both training and test set.",
            f"{folds.distinct_test_sets} of the {folds.repeats * folds.folds} test sets are distinct;",
            f"each has {_range(sizes)} documents.",
        )
    ]
    # Warnings about the folds qualify every score below, so they are not left in the log alone.
    parts += [note(warning, kind="bad") for warning in folds.warnings]
    # Said explicitly: silence could also mean that nothing was checked.
    if not folds.warnings:
        parts.append(paragraph("No warnings while drawing the folds."))
    # Files count folds from 0, readers from 1.
    head = ["Repeat", *(f"Fold {k + 1}" for k in range(folds.folds))]
    # The rarest class limits the scores: a test set without it has no AUC of it.
    if folds.rarest_class is not None and folds.positives:
        positives, name = np.array(folds.positives), quoted(folds.rarest_class)
        caption = f"Documents of the rarest class, {name}, in each test set"
        sentence = f"The rarest class is {name}: {_range(positives)} documents in each test set."
        numbers = table(caption, head, _rows(positives))
        parts += [paragraph(sentence), details("Documents of the rarest class in each test set", numbers)]
    title = "Documents in each test set"
    return [*parts, details(title, table(title, head, _rows(sizes)))]


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _rows(counts: np.ndarray) -> list[list[Cell]]:
    """Return counts [repeats, folds] as rows of a table."""
    return [[f"{r + 1}", *(int(count) for count in by_fold)] for r, by_fold in enumerate(counts)]
