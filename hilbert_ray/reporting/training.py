"""How training went: information of each modality by epoch, and loss terms."""

from collections.abc import Mapping, Sequence
from typing import Any

from hilbert_ray.config import MODALITIES, LossConfig
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import Cell, Html, figure, figures, missing, number, paragraph, section, table
from hilbert_ray.reporting.plot_data import by_epoch
from hilbert_ray.reporting.plots import Line
from hilbert_ray.run import RunResults

Record = Mapping[str, Any]


def training(run: RunResults) -> Html:
    """Return information balance and loss terms by epoch."""
    title = "Information balance in training"
    if not run.history:
        sentence = (
            "This run was evaluated but not trained (`hilbert-ray train` writes metrics.jsonl), so there "
            "is no course of training."
        )
        return section("training", title, missing(sentence))
    final = [record for record in run.history if str(record.get("job", "")).startswith("seed")]
    records = final or list(run.history)
    jobs = list(dict.fromkeys(str(record["job"]) for record in records))
    return section(
        "training",
        title,
        paragraph(
            "The balance loss keeps one modality from dominating: I_a and I_t are lower bounds (InfoNCE, "
            "in nats) of what the audio and the text embedding share with the joint one; their squared "
            "difference over log B is the loss.",
            f"The course of the published model's {len(jobs)} networks, on the last batch of each epoch; "
            "bold is their mean.",
        ),
        *_information(records, jobs),
        _terms(run, records),
    )


def _lines(records: Sequence[Record], kind: str) -> list[Line]:
    found = [(m, *by_epoch(records, f"{kind}_{m}")) for m in MODALITIES]
    return [line for line in found if len(line[1])]


def _information(records: Sequence[Record], jobs: Sequence[str]) -> list[Html]:
    made = []
    for kind, y_name, caption in (
        (
            "information",
            "nats",
            "Information that audio (I_a) and text (I_t) share with the joint embedding, by epoch. Thin: "
            "single networks.",
        ),
        (
            "saturation",
            "share of log B",
            "Saturation, I / log B: where both are near 1 the bound is full and the balance loss has no "
            "signal.",
        ),
    ):
        found = _lines(records, kind)
        if not found:
            made.append(
                missing(f"No batch had two documents with both modalities, so {kind} is not defined.")
            )
            continue
        faint = [line for job in jobs for line in _lines([r for r in records if r["job"] == job], kind)]
        picture = plots.lines(f"{kind.capitalize()} of audio and text by epoch", found, y_name, faint)
        numbers = _epochs(f"{kind.capitalize()} by epoch, mean of networks", found)
        made.append(figure(picture, caption, numbers))
    return [figures(*made)]


def _epochs(caption: str, found: Sequence[Line]) -> Html:
    """Return lines as a table, a row an epoch."""
    values = {name: dict(zip(x.tolist(), y.tolist(), strict=True)) for name, x, y in found}
    epochs = sorted({epoch for line in values.values() for epoch in line})
    rows: list[list[Cell]] = [[f"{e}", *(number(line.get(e)) for line in values.values())] for e in epochs]
    return table(caption, ["Epoch", *values], rows)


def _terms(run: RunResults, records: Sequence[Record]) -> Html:
    loss = run.config.loss
    found: list[Line] = []
    for name in ("loss", *LossConfig.WEIGHTS):
        weight = "" if name == "loss" else f" (weight {getattr(loss, name):g})"
        x, y = by_epoch(records, name)
        if len(x):
            found.append((f"{name.replace('_', ' ')}{weight}", x, y))
    picture = plots.panels("Loss and its terms by epoch", found, "epoch")
    caption = (
        "The total loss and its terms before weighting, means over an epoch's steps and over networks. A "
        "term that stays at 0 had too few documents or is switched off."
    )
    return figures(figure(picture, caption, _epochs("Loss terms by epoch, mean of networks", found)))
