"""What the embeddings are like: retrieval between modalities, geometry, and a map of the joint embeddings."""

import numpy as np

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
from hilbert_ray.reporting.plots import Bar, Map
from hilbert_ray.run import RunResults

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


def embedding(run: RunResults) -> Html:
    """Return retrieval, geometry and the map."""
    return section(
        "embeddings",
        "Embeddings",
        *_retrieval(run),
        heading(3, "Map of the joint embeddings"),
        *_map(run),
    )


def _retrieval(run: RunResults) -> list[Html]:
    found = run.metrics.get("embedding") or {}
    if not found:
        return [
            missing(
                "Retrieval and geometry need documents with both audio and text in a test set; this run "
                "has none."
            )
        ]
    rows: list[list[Cell]] = []
    bars, chance = [], []
    for direction, said in DIRECTIONS.items():
        entries = {key: found.get(f"{direction}_{key}") for key in MEASURES}
        if not any(entries.values()):
            continue
        rows.append(
            [
                said,
                *(
                    number(None) if e is None else estimate(e["pooled"], e["low"], e["high"])
                    for e in entries.values()
                ),
                number(next((e["gallery"] for e in entries.values() if e), None), 1),
            ]
        )
        for key, e in entries.items():
            if e is not None and not direction.endswith("joint"):
                name = f"{direction.replace('_', ' ')}, {MEASURES[key]}"
                bars.append(Bar(name=name, value=e["pooled"], low=e["low"], high=e["high"]))
                chance.append(e.get("chance"))
    levels = {key: (found.get(f"audio_to_text_{key}") or {}).get("chance") for key in MEASURES}
    rows.append(["Chance", *(number(value) for value in levels.values()), ""])
    head = ["Query to gallery", *MEASURES.values(), "Gallery, documents"]
    numbers: list[list[Cell]] = [
        [bar.name, number(bar.value), number(bar.low), number(bar.high), number(level)]
        for bar, level in zip(bars, chance, strict=True)
    ]
    picture = plots.retrieval("Retrieval between audio and text beside chance", bars, chance)
    return [
        heading(3, "Retrieval and geometry"),
        paragraph(
            "A query searches the documents of its own test set for its other modality. Joint embeddings "
            "contain both modalities, so finding them is nearly trivial and shown for completeness only."
        ),
        table("Retrieval out of fold with 95 % intervals", head, rows),
        figures(
            figure(
                picture,
                "Retrieval between audio and text with 95 % intervals. Grey bars: chance, which depends "
                "on the size of the gallery.",
                table("Retrieval", ["Measure", "Value", "Low", "High", "Chance"], numbers),
            )
        ),
        table(
            "Geometry on the unit sphere, means over test sets",
            ["Measure", "Value", "Meaning"],
            [
                [said, number(found[key]["mean"]), meaning]
                for key, (said, meaning) in GEOMETRY.items()
                if key in found
            ],
        ),
    ]


def _map(run: RunResults) -> list[Html]:
    columns = run.embeddings
    if columns is None or not columns["doc_id"]:
        return [missing("The run holds no embeddings.parquet, so there is no map.")]
    ids, fold = np.array(columns["doc_id"], dtype=object), np.array(columns["fold"])
    joint = np.array(columns["joint"], np.float64)
    task = run.main_task
    names, said, class_of = _classes(run, task)
    classes = np.array([class_of.get(doc_id, -1) for doc_id in ids])
    every = [int(k) for k in np.unique(fold) if (fold == k).sum() >= 3]
    if not every:
        return [missing("No test set of the first repeat has three documents, which a map needs.")]
    maps, rows = [], []
    for k in every[:MOST_MAPS]:
        at = np.flatnonzero(fold == k)
        points, share = principal_plane(joint[at])
        maps.append(Map(title=f"Fold {k + 1}: {share:.0%} of variance", points=points, classes=classes[at]))
        for i, (x, y) in zip(at, points, strict=True):
            row: list[Cell] = [
                str(ids[i]),
                f"{k + 1}",
                names[classes[i]] if classes[i] >= 0 else "unlabelled",
            ]
            rows.append([*row, number(float(x)), number(float(y))])
    picture = plots.maps(f"Joint embeddings on two principal axes, coloured by {task}", maps, names)
    caption = (
        "Joint embeddings of the first repeat's test documents on their two principal axes, coloured by "
        f"{said}. Each fold has networks and axes of its own: compare places within a panel, never between "
        "panels."
    )
    if len(every) > MOST_MAPS:
        caption += f" The first {MOST_MAPS} of {len(every)} folds."
    head = ["Document", "Fold", said, "Axis 1", "Axis 2"]
    return [figures(figure(picture, caption, table("Places on the map", head, rows)))]


def _classes(run: RunResults, task: str) -> tuple[list[str], str, dict[str, int]]:
    """Return class names for the map, what they are of, and the class of each labelled document.

    Numbers are cut into four bands; of a multilabel task the label nearest to half of the documents is shown.
    """
    predictions = run.predictions.get((task, "hilbert"))
    if predictions is None:
        return [], task, {}
    target, names, said = _shown(predictions, task)
    first = predictions.repeat == predictions.repeat.min()
    rows = np.flatnonzero(first & (target >= 0))
    return names, said, {run.doc_ids[predictions.document[i]]: int(target[i]) for i in rows}


def _shown(predictions: Predictions, task: str) -> tuple[np.ndarray, list[str], str]:
    y = predictions.targets
    if predictions.kind == "regression":
        known = np.isfinite(y)
        edges = np.quantile(y[known], [0.25, 0.5, 0.75])
        names = ["lowest quarter", "second quarter", "third quarter", "highest quarter"]
        return np.where(known, np.digitize(y, edges), -1), names, f"quarter of {task}"
    if predictions.kind == "multilabel":
        k = int(np.abs(np.nanmean(y, 0) - 0.5).argmin())
        target = np.where(np.isfinite(y[:, k]), y[:, k], -1).astype(np.int64)
        return target, ["no", "yes"], f"{task}: {predictions.classes[k]}"
    return y, list(predictions.classes), task
