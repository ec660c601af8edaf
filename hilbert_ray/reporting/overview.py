"""The first screen: what HILBERT reaches on the main task, beside what it must beat; then the data."""

import numpy as np

from hilbert_ray.config import BASELINE, MODALITIES
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    blocks,
    code,
    details,
    estimate,
    facts,
    heading,
    interval,
    join,
    missing,
    note,
    number,
    paragraph,
    section,
    table,
    text,
)
from hilbert_ray.run import RunResults, Scores, headline_of, variant_name

BESIDE = {"audio_only": "audio only", "text_only": "text only", BASELINE: "mean + std, logistic regression"}


def top(run: RunResults) -> Html:
    """Return title, the one-sentence summary and the verdict against the baseline."""
    task = run.main_task
    fingerprint = run.settings.get("data", "")
    return join(
        [
            Html(f'<p class="kicker">Run {code(run.name)}, data {code(fingerprint)}</p>'),
            Html(f"<h1>HILBERT on {text(_quoted(task))}: cross-validated report</h1>"),
            Html(f'<p class="lead">{summary(run)}</p>'),
            verdict(run.comparison(task, BASELINE), run.tasks[task].kind),
            _tiles(run),
        ]
    )


def _quoted(task: str) -> str:
    return f"\u201c{task}\u201d"


def summary(run: RunResults) -> Html:
    """Return one sentence: the headline of the main task with its interval, beside its baselines."""
    task, scores = run.main_task, run.scores(run.main_task)
    kind, classes = run.tasks[task].kind, len(run.tasks[task].classes)
    metric, called = headline_of(kind)
    own = scores["hilbert"][metric]
    others = [(said, scores[name][metric]["within"]) for name, said in BESIDE.items() if name in scores]
    if kind == "regression":
        others = [(said.replace("logistic", "ridge"), value) for said, value in others]
    beside = ", ".join(f"{number(value)} for {text(said)}" for said, value in others)
    of = {"regression": "numbers", "multilabel": f"{classes} labels"}.get(kind, f"{classes} classes")
    return Html(
        f"On {text(_quoted(task))} ({of}), HILBERT reaches a {called} within folds of "
        f"<strong>{number(own['within'])}</strong> (95&#8239;% interval "
        f"{interval(own.get('within_low'), own.get('within_high'))}) on groups that it never saw in training"
        f"{f', beside {beside}' if beside else ''}."
    )


def verdict(compared: Scores | None, kind: str) -> Html:
    """Return in plain words whether HILBERT beats the baseline."""
    if compared is None or compared.get("difference") is None:
        return missing(
            "This run has no comparison with the baseline (mean + std pooling and a linear model)."
        )
    difference, low, high = compared["difference"], compared.get("low"), compared.get("high")
    baseline = "ridge regression" if kind == "regression" else "logistic regression"
    numbers = Html(
        f"Difference {number(difference, signed=True)}, 95&#8239;% interval "
        f"{interval(low, high, signed=True)}."
    )
    unclear = "there is no interval" if low is None or high is None else "the interval includes 0"
    if low is not None and low > 0:
        said, mood = f"HILBERT beats {baseline} on mean + std features.", "good"
    elif high is not None and high < 0:
        said, mood = f"HILBERT does not beat {baseline} on mean + std features: it is worse.", "bad"
    elif difference > 0:
        ahead = f"it is ahead, but {unclear}"
        said, mood = f"HILBERT is not shown to beat {baseline} on mean + std features: {ahead}.", "plain"
    else:
        said, mood = f"HILBERT does not beat {baseline} on mean + std features; {unclear}.", "bad"
    if compared.get("exploratory"):
        numbers = join([numbers, f"With {compared['groups']} groups (under 40) this is exploratory."], " ")
    return note(Html(f"<strong>{text(said)}</strong>"), numbers, kind=mood)


def _tiles(run: RunResults) -> Html:
    """Return the headline of HILBERT and of what stands beside it, as large numbers."""
    task = run.main_task
    kind, scores = run.tasks[task].kind, run.scores(task)
    metric, called = headline_of(kind)
    tiles = []
    for name in ("hilbert", *BESIDE):
        if name not in scores:
            continue
        found = scores[name][metric]
        shown = estimate(found["within"], found.get("within_low"), found.get("within_high"))
        mark = ' class="marked"' if name == "hilbert" else ""
        tiles.append(f"<div{mark}><dt>{text(variant_name(name, kind))}</dt><dd>{shown}</dd></div>")
    said = text(f"{called[0].upper()}{called[1:]} of {_quoted(task)} within folds, with 95 % intervals")
    return Html(f'<dl class="tiles" aria-label="{said}">{"".join(tiles)}</dl>')


def data(run: RunResults) -> Html:
    """Return what the run was evaluated on: documents, labels, folds."""
    found, folds = run.metrics.get("data", {}), run.metrics.get("folds", {})
    counts: list[tuple[str, Cell]] = [("Documents", found.get("documents")), ("Groups", found.get("groups"))]
    for modality in MODALITIES:
        if modality in found.get("with", {}):
            counts.append((f"Documents with {modality}", found["with"][modality]))
            counts.append((f"Segments of {modality}", found["segments"][modality]))
    both = _both(run)
    if both is not None:
        counts.append(("Documents with both", both))
    hours = _hours(run)
    if hours:
        counts.append(("Hours of audio", number(hours, 1)))
    counts.append(("Data fingerprint", code(run.settings.get("data", "unknown"))))
    return section(
        "data",
        "Data",
        facts(counts),
        *_quarantined(found.get("quarantined") or {}),
        blocks(*(_balance(run, task) for task in run.tasks)),
        heading(3, "Folds"),
        *_folds(folds),
    )


def _quarantined(counts: Scores) -> list[Html]:
    """Return which documents lack a modality only because it could not be embedded."""
    return [
        note(
            f"{count} of the documents without {modality} have some, but it could not be embedded.",
            kind="bad",
        )
        for modality, count in counts.items()
        if count
    ]


def _both(run: RunResults) -> int | None:
    """Return the documents with both modalities, counted from attention.parquet."""
    columns = run.attention
    if columns is None or not all(f"{m}_weight" in columns for m in MODALITIES):
        return None
    pairs = zip(*(columns[f"{m}_weight"] for m in MODALITIES), strict=True)
    return sum(1 for audio, words in pairs if audio and words)


def _hours(run: RunResults) -> float | None:
    """Return hours of audio up to the last segments' ends; None where times are only positions."""
    ends = [max(end) for end in (run.attention or {}).get("audio_end", []) if end]
    return sum(ends) / 3600 if ends and max(ends) > 1.0 else None


def _balance(run: RunResults, task: str) -> Html:
    """Return how often each class of a task occurs."""
    labels = run.metrics.get("data", {}).get("labels", {}).get(task)
    title = heading(3, f"Labels of {_quoted(task)} ({run.tasks[task].kind})")
    if labels is None:
        return join([title, missing("The run does not say how labels are distributed.")])
    documents, labelled = run.metrics["data"]["documents"], labels["labelled"]
    unlabelled = f"{labelled} of {documents} documents are labelled, {documents - labelled} are not."
    if "classes" not in labels:
        return join([title, paragraph(unlabelled)])
    rows = []
    most = max([*labels["classes"].values(), 1])
    for name, count in labels["classes"].items():
        bar = Html(f'<div class="bar"><span style="--share:{count / most:.3f}"></span></div>')
        rows.append([name, count, number(100 * count / labelled if labelled else None, 1), bar])
    what = "Label" if run.tasks[task].kind == "multilabel" else "Class"
    return join(
        [
            title,
            paragraph(unlabelled),
            table(f"Documents of each {what.lower()}", [what, "Documents", "% of labelled", "Balance"], rows),
        ]
    )


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _rows(counts: np.ndarray) -> list[list[Cell]]:
    return [[f"{r + 1}", *(int(count) for count in line)] for r, line in enumerate(counts)]


def _folds(folds: Scores) -> list[Html]:
    if not folds:
        return [missing("The run does not describe its folds.")]
    total = folds["repeats"] * folds["folds"]
    rarest = folds.get("rarest_class")
    repeated = "not repeated" if folds["repeats"] == 1 else f"repeated {folds['repeats']} times"
    sizes = np.array(folds["sizes"])
    made = [
        paragraph(
            f"{folds['folds']}-fold cross-validation, {repeated}; no group stands on both sides of a split.",
            f"{folds['distinct_test_sets']} of the {total} test sets are distinct;",
            f"a test set has {_range(sizes)} documents.",
        )
    ]
    made += [note(warning, kind="bad") for warning in folds.get("warnings", [])]
    if not folds.get("warnings"):
        made.append(paragraph("Drawing the folds gave no warning."))
    head = ["Repeat", *(f"Fold {k + 1}" for k in range(folds["folds"]))]
    if rarest is not None and "positives" in folds:
        positives = np.array(folds["positives"])
        caption = f"Documents of the rarest class, {_quoted(rarest)}, in each test set"
        made.append(
            paragraph(f"The rarest class is {_quoted(rarest)}: {_range(positives)} documents in a test set.")
        )
        made.append(details("Rare-class documents in each test set", table(caption, head, _rows(positives))))
    made.append(
        details("Documents in each test set", table("Documents in each test set", head, _rows(sizes)))
    )
    return made
