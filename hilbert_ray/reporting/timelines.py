"""Which segments carried the weight: attention of a few documents along time, audio and text in lanes."""

import numpy as np

from hilbert_ray.config import MODALITIES
from hilbert_ray.metrics import Predictions
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    figure,
    figures,
    join,
    missing,
    number,
    paragraph,
    section,
    table,
    text,
)
from hilbert_ray.reporting.plot_data import choose_documents, judge
from hilbert_ray.reporting.plots import Lane
from hilbert_ray.run import Columns, RunResults

WHY = {
    "right": "surest of those decided rightly",
    "wrong": "surest of those decided wrongly",
    "middle": "middle one by probability of the truth",
}
WHY_NUMBERS = {"right": "smallest error", "wrong": "largest error", "middle": "middle error"}
MOST_SEGMENTS = 40


def timelines(run: RunResults) -> Html:
    """Return the timelines of three documents of the main task."""
    title, task = "Where the weight lies in time", run.main_task
    predictions = run.predictions.get((task, "hilbert"))
    if run.attention is None or predictions is None:
        sentence = "The run lacks attention.parquet or predictions.parquet, so there are no timelines."
        return section("timelines", title, missing(sentence))
    why = WHY_NUMBERS if predictions.kind == "regression" else WHY
    places = {doc_id: i for i, doc_id in enumerate(run.attention["doc_id"])}
    chosen = [
        (said, row, run.doc_ids[predictions.document[row]])
        for said, row in choose_documents(judge(predictions, int(predictions.repeat.min())))
    ]
    made = [
        _document(run.attention, places[doc_id], why[said], doc_id, _said(predictions, row))
        for said, row, doc_id in chosen
        if doc_id in places
    ]
    if not made:
        return section("timelines", title, missing("No labelled document has attention weights."))
    rows: list[list[Cell]] = [[doc_id, why[said], *_said(predictions, row)] for said, row, doc_id in chosen]
    head = ["Document", "Why", "True", "Decided", "Certainty"]
    return section(
        "timelines",
        title,
        paragraph(
            f"Three documents of \u201c{task}\u201d from the first repeat's test sets, chosen by rule and "
            f"not by eye: of the labelled documents the {why['right']}, the {why['wrong']}, and the "
            f"{why['middle']} of the rest.",
            "Weights are those of the pools that make the audio and the text embedding, a mean over hops "
            "and networks. They say where the network looked, not why it decided so.",
        ),
        table("Chosen documents", head, rows),
        figures(*made),
    )


def _said(predictions: Predictions, row: int) -> list[Cell]:
    """Return truth, decision and certainty of a prediction in words."""
    part, names = predictions[np.array([row])], predictions.classes
    p, y = part.probabilities[0], part.targets[0]
    if part.decisions is None:
        return [number(float(y)), number(float(p)), f"error {abs(float(p - y)):.3f}"]
    d = part.decisions[0]
    if predictions.kind == "multilabel":
        sure = np.where(d > 0.5, p, 1 - p)
        return [_labels(y, names), _labels(d, names), number(float(sure.mean()), 2)]
    return [names[int(y)], names[int(d)], number(float(p[int(d)]), 2)]


def _labels(values: np.ndarray, names: tuple[str, ...]) -> str:
    return ", ".join(name for name, value in zip(names, values, strict=True) if value > 0.5) or "none"


def _lanes(columns: Columns, place: int) -> list[Lane]:
    found = []
    for modality in MODALITIES:
        if f"{modality}_weight" not in columns or not columns[f"{modality}_weight"][place]:
            continue
        weight, start, end = (
            np.array(columns[f"{modality}_{n}"][place], np.float64) for n in ("weight", "start", "end")
        )
        is_timed = float(end.max()) > 1.0  # else positions in [0, 1]: a transcript without times
        if not is_timed and np.array_equal(
            start, end
        ):  # positions alone: a segment ends where the next begins
            start = np.arange(len(weight)) / len(weight)
            end = start + 1 / len(weight)
        found.append(
            Lane(name=modality, start=start, end=end, weight=weight * len(weight), is_timed=is_timed)
        )
    return found


def _document(columns: Columns, place: int, why: str, doc_id: str, said: list[Cell]) -> Html:
    lanes = _lanes(columns, place)
    true, decided = (value if isinstance(value, str) else number(None) for value in said[:2])
    caption = join(
        [
            Html(
                f"<strong>{text(doc_id)}</strong>, the {text(why)}: true {text(true)}, decided "
                f"{text(decided)}."
            ),
            "Height: weight of a segment, relative to an equal share (dashed).",
        ],
        " ",
    )
    if not lanes:
        return missing(f"{doc_id}: no segment of either modality has a weight.")
    rows: list[list[Cell]] = []
    for lane in lanes:
        for i in np.argsort(-lane.weight, kind="stable")[:MOST_SEGMENTS]:
            times = [_time(lane, float(edge[i])) for edge in (lane.start, lane.end)]
            share = number(float(100 * lane.weight[i] / len(lane.weight)), 1)
            rows.append([lane.name, *times, share, number(float(lane.weight[i]), 2)])
    count = ", ".join(f"{len(lane.weight)} of {lane.name}" for lane in lanes)
    numbers = table(
        f"Segments of {doc_id}, heaviest first (at most {MOST_SEGMENTS} of each modality; there are {count})",
        ["Modality", "Start", "End", "% of weight", "Relative to equal share"],
        rows,
    )
    return figure(plots.timeline(f"Attention of {doc_id} along time", lanes), caption, numbers)


def _time(lane: Lane, value: float) -> str:
    return plots.clock(value) if lane.is_timed else f"{value:.2f}"
