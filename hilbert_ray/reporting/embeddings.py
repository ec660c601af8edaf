"""What the embeddings are like: retrieval between modalities, geometry, and a map of the joint embeddings."""

from collections.abc import Mapping

import numpy as np

from hilbert_ray.config import HILBERT
from hilbert_ray.metrics import Predictions
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    estimate,
    figure,
    figures,
    heading,
    missing,
    number,
    paragraph,
    section,
    table,
)
from hilbert_ray.reporting.plot_data import principal_plane
from hilbert_ray.reporting.plots import EmbeddingMap, ForestRow
from hilbert_ray.run import RunResults, Score

# Headline first. A joint embedding contains the query itself, so a high score there only says that training
# ran.
DIRECTIONS = {
    "audio_to_text": "Audio to text (headline)",
    "text_to_audio": "Text to audio",
    "audio_to_joint": "Audio to joint (nearly trivial)",
    "text_to_joint": "Text to joint (nearly trivial)",
}
MEASURES = {"recall_at_1": "R@1", "recall_at_5": "R@5", "recall_at_10": "R@10", "mrr": "MRR"}
GEOMETRY = {
    "alignment": ("Alignment of audio and text", "mean squared distance of a document's pair, 0 to 4"),
    "modality_gap": ("Modality gap", "distance between the means of audio and text"),
    "uniformity_audio": ("Uniformity of audio", "at most 0, lower is more even"),
    "uniformity_text": ("Uniformity of text", "at most 0, lower is more even"),
    "uniformity_joint": ("Uniformity of joint", "at most 0, lower is more even"),
}
MOST_MAPS = 6
"""Panels of the map; runs with more folds show the first ones."""
LEAST_POINTS = 3
"""Documents of a test set below which two principal axes mean nothing."""
QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


def embeddings_section(run: RunResults) -> Html:
    """Return retrieval, geometry and the map."""
    return section(
        "embeddings",
        "Embeddings",
        *_retrieval_and_geometry(run),
        heading(3, "Map of the joint embeddings"),
        *_map(run),
    )


def _retrieval_and_geometry(run: RunResults) -> list[Html]:
    scores = run.evaluation.embedding
    if not scores:
        return [
            missing(
                "Retrieval and geometry need test sets with documents that have both audio and text; this "
                "run has none."
            )
        ]
    geometry: list[list[Cell]] = [
        [name, number(scores[measure].mean), meaning]
        for measure, (name, meaning) in GEOMETRY.items()
        if measure in scores
    ]
    return [
        heading(3, "Retrieval and geometry"),
        paragraph(
            "A query searches the documents of its own test set for its other modality. Joint embeddings "
            "contain both modalities, so finding them is nearly trivial and listed for completeness only."
        ),
        _retrieval_table(scores),
        figures(_retrieval_figure(scores)),
        table("Geometry on the unit sphere, means over test sets", ["Measure", "Value", "Meaning"], geometry),
    ]


def _retrieval_table(scores: Mapping[str, Score]) -> Html:
    rows: list[list[Cell]] = []
    for direction, name in DIRECTIONS.items():
        by_measure = [scores.get(f"{direction}_{measure}") for measure in MEASURES]
        if not any(by_measure):
            continue
        cells = [number(None) if s is None else estimate(s.pooled, s.low, s.high) for s in by_measure]
        # All measures of a direction search the same gallery, so the first defined one speaks for them.
        gallery = next((s.gallery for s in by_measure if s), None)
        rows.append([name, *cells, number(gallery, 1)])
    # Chance depends on the gallery alone, which is the same in all directions.
    chance = [scores.get(f"audio_to_text_{measure}", Score()).chance for measure in MEASURES]
    rows.append(["Chance", *(number(value) for value in chance), ""])
    head = ["Query to gallery", *MEASURES.values(), "Gallery, documents"]
    return table("Retrieval out of fold with 95 % intervals", head, rows)


def _retrieval_figure(scores: Mapping[str, Score]) -> Html:
    """Return retrieval between audio and text with what chance would reach."""
    rows: list[ForestRow] = []
    chance: list[float | None] = []
    for direction in DIRECTIONS:
        for measure, label in MEASURES.items():
            score = scores.get(f"{direction}_{measure}")
            # Joint directions are near 1 by construction and would distract from the result.
            if score is not None and not direction.endswith("joint"):
                name = f"{direction.replace('_', ' ')}, {label}"
                rows.append(ForestRow(name=name, value=score.pooled, low=score.low, high=score.high))
                chance.append(score.chance)
    cells: list[list[Cell]] = [
        [row.name, number(row.value), number(row.low), number(row.high), number(level)]
        for row, level in zip(rows, chance, strict=True)
    ]
    return figure(
        plots.retrieval("Retrieval between audio and text, with chance", rows, chance),
        "Retrieval between audio and text with 95 % intervals. Grey marks: chance, which depends on the size "
        "of the gallery.",
        table("Retrieval", ["Measure", "Value", "Low", "High", "Chance"], cells),
    )


def _map(run: RunResults) -> list[Html]:
    columns = run.embeddings
    if columns is None or not columns["doc_id"]:
        return [missing("The run has no embeddings.parquet, so there is no map.")]
    doc_ids, fold = np.array(columns["doc_id"], dtype=object), np.array(columns["fold"])
    joint = np.array(columns["joint"], np.float64)
    # Documents without a label stay on the map (-1, hollow): leaving them out would change the shape of the
    # cloud.
    names, colouring, class_of = _classes(run, run.main_task)
    classes = np.array([class_of.get(doc_id, -1) for doc_id in doc_ids])
    # Two points always lie on a line: a plane only says something with a third.
    folds = [int(k) for k in np.unique(fold) if (fold == k).sum() >= LEAST_POINTS]
    if not folds:
        return [missing("No test set of the first repeat has three documents, which a map needs.")]
    maps, rows = [], []
    for k in folds[:MOST_MAPS]:
        at = np.flatnonzero(fold == k)
        # One plane per fold: embeddings of different networks have no common axes.
        points, share = principal_plane(joint[at])
        # The share of variance says how much of the geometry the plane hides.
        title = f"Fold {k + 1}: {share:.0%} of variance"
        maps.append(EmbeddingMap(title=title, points=points, classes=classes[at]))
        for i, (x, y) in zip(at, points, strict=True):
            name = names[classes[i]] if classes[i] >= 0 else "unlabelled"
            row: list[Cell] = [str(doc_ids[i]), f"{k + 1}", name, number(float(x)), number(float(y))]
            rows.append(row)
    alternative = f"Joint embeddings on two principal axes, coloured by {run.main_task}"
    caption = (
        "Joint embeddings of the first repeat\u2019s test documents on their first two principal axes, "
        f"coloured by {colouring}. Each fold has its own networks and axes: compare positions within a "
        "panel, never between panels."
    )
    if len(folds) > MOST_MAPS:
        caption += f" The first {MOST_MAPS} of {len(folds)} folds."
    numbers = table("Positions on the map", ["Document", "Fold", colouring, "Axis 1", "Axis 2"], rows)
    return [figures(figure(plots.maps(alternative, maps, names), caption, numbers))]


def _classes(run: RunResults, task: str) -> tuple[list[str], str, dict[str, int]]:
    """Return class names for the map, what they are classes of, and the class of each labelled document.

    Numbers are cut into quarters; of a multilabel task the label closest to half of the documents is used.
    """
    predictions = run.predictions.get((task, HILBERT))
    if predictions is None:
        return [], task, {}
    target, names, colouring = _map_classes(predictions, task)
    # Embeddings are of the first repeat, and a document has one class in all of them.
    first_repeat = predictions.repeat == predictions.repeat.min()
    rows = np.flatnonzero(first_repeat & (target >= 0))
    return names, colouring, {run.doc_ids[predictions.document[i]]: int(target[i]) for i in rows}


def _map_classes(predictions: Predictions, task: str) -> tuple[np.ndarray, list[str], str]:
    """Return a class for each row (-1: unlabelled), their names, and what they are classes of."""
    y = predictions.targets
    if predictions.kind == "regression":
        known = np.isfinite(y)
        # Quarters, not equal widths: a few extreme values would put all others into one colour.
        edges = np.quantile(y[known], [0.25, 0.5, 0.75])
        return np.where(known, np.digitize(y, edges), -1), list(QUARTERS), f"quarter of {task}"
    if predictions.kind == "multilabel":
        # Only one label fits the map; the most balanced one shows most.
        k = int(np.abs(np.nanmean(y, 0) - 0.5).argmin())
        target = np.where(np.isfinite(y[:, k]), y[:, k], -1).astype(np.int64)
        return target, ["no", "yes"], f"{task}: {predictions.classes[k]}"
    return y, list(predictions.classes), task
