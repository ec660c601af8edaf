"""Which segments carried the weight: attention in a few documents over time, one lane per modality."""

from collections.abc import Sequence

import numpy as np

from hilbert_ray.config import HILBERT, MODALITIES
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
    quoted,
    section,
    table,
    text,
)
from hilbert_ray.reporting.plot_data import choose_documents, judge
from hilbert_ray.reporting.plots import AttentionLane
from hilbert_ray.run import Columns, RunResults

WHY = {
    "right": "most confident correct decision",
    "wrong": "most confident wrong decision",
    "middle": "median probability of the true class",
}
WHY_NUMBERS = {"right": "smallest error", "wrong": "largest error", "middle": "median error"}
"""Why each document was chosen, for classes and for numbers; keys as in `choose_documents`."""
MOST_SEGMENTS = 40
"""Rows of a document's table of segments, for each modality; documents can have thousands."""


def timelines_section(run: RunResults) -> Html:
    """Return the timelines of three documents of the main task."""
    title, task = "Attention over time", run.main_task
    predictions = run.predictions.get((task, HILBERT))
    if run.attention is None or predictions is None:
        sentence = "The run has no attention.parquet or predictions.parquet, so there are no timelines."
        return section("timelines", title, missing(sentence))
    why = WHY_NUMBERS if predictions.kind == "regression" else WHY
    # attention.parquet has the order of the folds, predictions that of the ids.
    places = {doc_id: i for i, doc_id in enumerate(run.attention["doc_id"])}
    chosen = [
        (why[reason], run.doc_ids[predictions.document[row]], _outcome(predictions, row))
        # Attention is stored of the first repeat, whose networks differ from those of the others.
        for reason, row in choose_documents(judge(predictions, int(predictions.repeat.min())))
    ]
    timelines = [
        _document(run.attention, places[doc_id], reason, doc_id, outcome)
        for reason, doc_id, outcome in chosen
        if doc_id in places
    ]
    if not timelines:
        return section("timelines", title, missing("No labelled document has attention weights."))
    rows: list[list[Cell]] = [[doc_id, reason, *outcome] for reason, doc_id, outcome in chosen]
    return section(
        "timelines",
        title,
        paragraph(
            f"Three documents of {quoted(task)} from the test sets of the first repeat, chosen by rule: "
            f"among the labelled documents the {why['right']}, the {why['wrong']}, and the {why['middle']} "
            "of the rest.",
            "Weights are those of the pooling that gives the audio and the text embedding, averaged over "
            "hops and networks. They show where the network attended, not why it decided as it did.",
        ),
        table("Chosen documents", ["Document", "Why", "True", "Predicted", "Confidence"], rows),
        figures(*timelines),
    )


def _outcome(predictions: Predictions, row: int) -> list[Cell]:
    """Return truth, decision and confidence of one prediction."""
    prediction, names = predictions[np.array([row])], predictions.classes
    p, y = prediction.probabilities[0], prediction.targets[0]
    if prediction.decisions is None:
        return [number(float(y)), number(float(p)), f"error {abs(float(p - y)):.3f}"]
    d = prediction.decisions[0]
    if predictions.kind == "multilabel":
        # Confidence in a set of labels: mean over labels of what was decided on each.
        of_decision = np.where(d > 0.5, p, 1 - p)
        return [_labels(y, names), _labels(d, names), number(float(of_decision.mean()), 2)]
    return [names[int(y)], names[int(d)], number(float(p[int(d)]), 2)]


def _labels(values: np.ndarray, names: tuple[str, ...]) -> str:
    return ", ".join(name for name, value in zip(names, values, strict=True) if value > 0.5) or "none"


def _lanes(columns: Columns, place: int) -> list[AttentionLane]:
    """Return the lanes of the document in row `place` of attention.parquet."""
    lanes = []
    for modality in MODALITIES:
        if f"{modality}_weight" not in columns or not columns[f"{modality}_weight"][place]:
            continue
        weight, start, end = (
            np.array(columns[f"{modality}_{n}"][place], np.float64) for n in ("weight", "start", "end")
        )
        # A transcript without times has positions in [0, 1] instead of seconds.
        is_timed = float(end.max()) > 1.0
        if not is_timed and np.array_equal(start, end):
            # Positions without length: let each segment last until the next.
            start = np.arange(len(weight)) / len(weight)
            end = start + 1 / len(weight)
        # 1 is an equal share, whatever the number of segments.
        relative = weight * len(weight)
        lanes.append(
            AttentionLane(modality=modality, start=start, end=end, weight=relative, is_timed=is_timed)
        )
    return lanes


def _document(columns: Columns, place: int, why: str, doc_id: str, outcome: Sequence[Cell]) -> Html:
    lanes = _lanes(columns, place)
    # A document may be labelled although neither modality has a segment.
    if not lanes:
        return missing(f"{doc_id}: no segment of either modality has a weight.")
    true, decided = (value if isinstance(value, str) else number(None) for value in outcome[:2])
    caption = join(
        [
            Html(
                f"<strong>{text(doc_id)}</strong>, {text(why)}: true {text(true)}, predicted {text(decided)}."
            ),
            "Height: weight of a segment relative to an equal share (dashed).",
        ],
        " ",
    )
    picture = plots.timeline(f"Attention in {doc_id} over time", lanes)
    return figure(picture, caption, _segment_table(doc_id, lanes))


def _segment_table(doc_id: str, lanes: Sequence[AttentionLane]) -> Html:
    rows: list[list[Cell]] = []
    for lane in lanes:
        # Stable: of equal weights, the earlier segment comes first.
        for i in np.argsort(-lane.weight, kind="stable")[:MOST_SEGMENTS]:
            times = [_time(lane, float(edge[i])) for edge in (lane.start, lane.end)]
            percent = number(float(100 * lane.weight[i] / len(lane.weight)), 1)
            rows.append([lane.modality, *times, percent, number(float(lane.weight[i]), 2)])
    counts = " and ".join(f"{len(lane.weight)} {lane.modality} segments" for lane in lanes)
    return table(
        f"Segments of {doc_id}, heaviest first (at most {MOST_SEGMENTS} per modality, of {counts})",
        ["Modality", "Start", "End", "% of weight", "Relative to equal share"],
        rows,
    )


def _time(lane: AttentionLane, value: float) -> str:
    return plots.clock(value) if lane.is_timed else f"{value:.2f}"
