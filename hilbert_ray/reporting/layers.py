"""Which layers of an encoder HILBERT reads: the weights that training gave them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hilbert_ray.reporting.html import Html, figure, figures, number, paragraph, section, table, text
from hilbert_ray.reporting.svg import ACCENT, INK, MUTED, draw
from hilbert_ray.run import LayerWeights, RunResults


def layers_section(run: RunResults) -> Html | None:
    """Return the weights of the layers of each modality; None where features are of one layer."""
    by_modality = run.evaluation.layers
    if not by_modality:
        return None
    drawn = [
        figure(
            _bars(f"Weight of each layer of the {modality} encoder", weights),
            "Mean and standard deviation over folds; dashed: all alike. Layer 0 is the input of the first "
            "block.",
            table(
                f"Weights of the layers of the {modality} encoder",
                ["Layer", "Weight", "Standard deviation over folds"],
                [
                    [str(layer), number(weight), number(deviation)]
                    for layer, (weight, deviation) in enumerate(
                        zip(weights.weight, weights.deviation, strict=True)
                    )
                ],
            ),
        )
        for modality, weights in by_modality.items()
    ]
    heaviest = ", ".join(
        f"{modality}: layer {max(range(len(weights.weight)), key=weights.weight.__getitem__)}"
        for modality, weights in by_modality.items()
    )
    return section(
        "layers",
        "Which layers count",
        paragraph(
            "The features hold every layer of the encoder. Each layer is standardised, and the network reads "
            "their weighted mean; it learned the weights, which sum to 1. The heaviest: "
            f"{text(heaviest)}. Weights that are nearly alike mean that the data did not tell layers apart.",
        ),
        figures(*drawn),
    )


def _bars(label: str, weights: LayerWeights) -> Html:
    count = len(weights.weight)

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        axis.bar(range(count), weights.weight, yerr=weights.deviation, color=ACCENT, ecolor=INK, linewidth=0)
        axis.axhline(1 / count, color=MUTED, linewidth=1, linestyle="--")
        axis.set(xlabel="layer", ylabel="weight", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axis.grid(axis="x", visible=False)

    return draw(210, label, paint)
