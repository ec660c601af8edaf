"""How much each of HILBERT's heads counts for each task: which modality a prediction rests on."""

from collections.abc import Mapping, Sequence

from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    figure,
    figures,
    number,
    paragraph,
    quoted,
    section,
    table,
    text,
)
from hilbert_ray.run import FusionWeights, RunResults

HEADS = {"experts": "experts (joint)", "audio": "audio head", "text": "text head"}
"""What the report calls the heads; others keep their names."""
HAVING = {"both": "audio and text", "audio": "audio alone", "text": "text alone"}
"""What a document has, by the keys of `Evaluation.fusion`."""
FEW_CASES = 10
"""Documents of a task's rarest class, in the mean over folds, below which weights are called rough."""
NEARLY_ALL, NEARLY_NONE = 0.8, 0.05
"""Shares of a head above and below which a sentence says that one head decides, or does not count."""


def fusion_section(run: RunResults) -> Html | None:
    """Return the weights of the heads; None for a run that has none."""
    by_task = {task: values for task, values in run.evaluation.fusion.items() if values}
    if not by_task:
        return None
    # What most documents have: both modalities, where the run has both.
    main = {task: values.get("both") or next(iter(values.values())) for task, values in by_task.items()}
    heads = list(dict.fromkeys(head for weights in main.values() for head in weights.weights))
    rows = [(task, [shares(weights).get(head, 0.0) for head in heads]) for task, weights in main.items()]
    picture = plots.stacked(
        "Share of each head in the logits, by task", rows, [HEADS.get(head, head) for head in heads]
    )
    caption = (
        "Share of each head in the sum of weights, mean over folds, for documents with all modalities of the "
        "run. The experts see the joint, audio and text embeddings together; the other heads see one "
        "modality alone."
    )
    return section(
        "fusion",
        "How much each head counts",
        paragraph(
            "HILBERT adds the logits of its heads with weights that are not negative, one set for each task, "
            "fitted with the temperature on held-out predictions of training groups. A weight near 0 "
            "means that the head added nothing to what the others say, not that its modality holds nothing."
        ),
        Html(f"<ul>{''.join(f'<li>{_sentence(task, weights)}</li>' for task, weights in main.items())}</ul>"),
        figures(figure(picture, caption, _table(by_task))),
    )


def shares(weights: FusionWeights) -> Mapping[str, float]:
    """Return the share of each head in the sum of weights; empty where all are 0."""
    total = sum(weights.weights.values())
    return {head: value / total for head, value in weights.weights.items()} if total > 0 else {}


def _sentence(task: str, weights: FusionWeights) -> Html:
    share = shares(weights)
    name = text(quoted(task))
    if not share:
        return Html(f"{name}: no head counts; predictions are the base rates.")
    labels = "" if weights.labels is None else f" of {weights.labels:.0f} labelled documents"
    if not weights.is_fitted:
        return Html(f"{name}: all heads count alike, since there were too few labels to fit weights.")
    listed = ", ".join(
        f"{text(HEADS.get(head, head))} {100 * value:.0f}\u202f%" for head, value in share.items()
    )
    remarks = [_remark(HEADS.get(head, head), value) for head, value in share.items()]
    if weights.cases is not None and weights.cases < FEW_CASES:
        remarks.append(f"Rough: they rest on {weights.cases:.0f} documents of the rarest class.")
    said = " ".join(remark for remark in remarks if remark)
    return Html(f"{name}: {listed}{f', fitted on predictions{labels}' if labels else ''}. {text(said)}")


def _remark(head: str, share: float) -> str:
    if share >= NEARLY_ALL:
        return f"The {head} decides nearly alone."
    return f"The {head} hardly counts." if share <= NEARLY_NONE else ""


def _table(by_task: Mapping[str, Mapping[str, FusionWeights]]) -> Html:
    heads: Sequence[str] = list(
        dict.fromkeys(
            head for values in by_task.values() for weights in values.values() for head in weights.weights
        )
    )
    rows: list[list[Cell]] = []
    for task, values in by_task.items():
        for having, weights in values.items():
            cells = [number(weights.weights.get(head)) for head in heads]
            fitted = "yes" if weights.is_fitted else "no: equal weights"
            numbers = [number(weights.temperature), number(weights.labels, 0)]
            rows.append([task, HAVING.get(having, having), *cells, *numbers, fitted])
    names = [f"Weight of {HEADS.get(head, head)}" for head in heads]
    head = ["Task", "Documents with", *names, "Temperature", "Labelled documents", "Fitted"]
    return table("Weights of the heads, means over folds", head, rows)
