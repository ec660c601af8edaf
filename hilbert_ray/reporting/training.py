"""How training went: information of each modality by epoch, and loss terms."""

from collections.abc import Mapping, Sequence
from typing import Any

from hilbert_ray.config import MODALITIES, LossConfig
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    figure,
    figures,
    fold,
    missing,
    number,
    paragraph,
    section,
    table,
)
from hilbert_ray.reporting.plot_data import by_epoch
from hilbert_ray.reporting.plots import EpochCurve
from hilbert_ray.run import RunResults

Record = Mapping[str, Any]
INFORMATION = (
    (
        "information",
        "nats",
        "Information that audio (I_a) and text (I_t) share with the joint embedding, by epoch. Thin lines: "
        "single networks.",
    ),
    (
        "saturation",
        "share of log B",
        "Saturation, I / log B: where both are near 1, the bound cannot grow and the balance loss has no "
        "signal.",
    ),
)
"""Name of a record's values without the modality, unit, and caption."""


def training_section(run: RunResults) -> Html:
    """Return information balance and loss terms by epoch."""
    title = "Information balance in training"
    if not run.history:
        sentence = (
            "This run was evaluated but not trained (`hilbert-ray train` writes metrics.jsonl), so there "
            "are no training curves."
        )
        return section("training", title, missing(sentence))
    # Networks of inner folds only serve to fit the temperature; those of seeds are the published model.
    published = [record for record in run.history if str(record.get("job", "")).startswith("seed")]
    # A training that stopped early may have networks of inner folds only, which is better than no curve.
    records = published or list(run.history)
    networks = list(dict.fromkeys(str(record["job"]) for record in records))
    return section(
        "training",
        title,
        paragraph(
            "The balance loss keeps one modality from dominating. I_a and I_t are lower bounds (InfoNCE, in "
            "nats) of the information that the audio and the text embedding share with the joint one; the "
            "loss is their squared difference over log B.",
            f"Curves of the published model\u2019s {len(networks)} networks, from the last batch of each "
            "epoch; bold is their mean.",
        ),
        _information(records, networks),
        _terms(run, records),
    )


def _information(records: Sequence[Record], networks: Sequence[str]) -> Html:
    parts = []
    for kind, unit, caption in INFORMATION:
        means = _curves(records, kind)
        if not means:
            parts.append(
                missing(f"No batch had two documents with both modalities, so {kind} is not defined.")
            )
            continue
        # The mean alone hides networks that drift apart.
        single = [
            curve
            for network in networks
            for curve in _curves([record for record in records if record["job"] == network], kind)
        ]
        picture = plots.lines(f"{kind.capitalize()} of audio and text by epoch", means, unit, single)
        numbers = _epoch_table(f"{kind.capitalize()} by epoch, mean of networks", means)
        parts.append(figure(picture, caption, numbers))
    return figures(*parts)


def _curves(records: Sequence[Record], kind: str) -> list[EpochCurve]:
    """Return the mean over networks by epoch, for each modality that has values."""
    curves = [(modality, *by_epoch(records, f"{kind}_{modality}")) for modality in MODALITIES]
    return [curve for curve in curves if len(curve[1])]


def _epoch_table(caption: str, curves: Sequence[EpochCurve]) -> Html:
    """Return curves as a table, one row per epoch."""
    values = {name: dict(zip(x.tolist(), y.tolist(), strict=True)) for name, x, y in curves}
    # Curves may lack epochs in which their value was not defined.
    epochs = sorted({epoch for curve in values.values() for epoch in curve})
    rows: list[list[Cell]] = [[f"{e}", *(number(curve.get(e)) for curve in values.values())] for e in epochs]
    return table(caption, ["Epoch", *values], rows)


def _terms(run: RunResults, records: Sequence[Record]) -> Html:
    loss = run.config.loss
    curves: list[EpochCurve] = []
    for name in ("loss", *LossConfig.WEIGHTS):
        # Terms are recorded before weighting: without the weight their sizes would mislead.
        weight = "" if name == "loss" else f" (weight {getattr(loss, name):g})"
        x, y = by_epoch(records, name)
        if len(x):
            curves.append((f"{name.replace('_', ' ')}{weight}", x, y))
    picture = plots.panels("Loss and its terms by epoch", curves, "epoch")
    caption = (
        "The total loss and its terms before weighting, averaged over the steps of an epoch and over "
        "networks. A term that stays at 0 is switched off or had too few documents."
    )
    numbers = _epoch_table("Loss terms by epoch, mean of networks", curves)
    return fold("Loss and its terms by epoch", figures(figure(picture, caption, numbers)))
