"""What is cross-validated: HILBERT, its single modalities, the baselines and the ablations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hilbert_ray.config import BASELINE, HILBERT, Config, Modality, ablations
from hilbert_ray.features import Features

Method = Literal["network", "late_fusion", "logistic"]
BASELINES: Mapping[str, str] = {
    "late_fusion": "hilbert_ray.evaluation.baselines:late_fusion",
    "logistic": "hilbert_ray.evaluation.baselines:logistic",
}
"""Where each method other than the network is defined, for `pkgutil.resolve_name`; see `baselines` for the
signature. Names and not functions, so that a worker that runs no baseline does not load scikit-learn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Something to cross-validate: a network with some settings on some modalities, or a baseline.

    With `subsets` the network, trained on both modalities, also predicts from each alone. `labels` is the
    share of a fold's labelled training groups that keep their labels, see `withhold`.
    """

    name: str
    config: Config
    method: Method = "network"
    modality: Modality | None = None
    subsets: bool = False
    labels: float = 1.0

    @property
    def title(self) -> str:
        """What logs call it."""
        return self.name if self.labels == 1 else f"{self.name} with {self.labels:.4g} of the labels"


def choose_variants(
    config: Config, features: Features, compare: bool, subsets: bool = False
) -> list[Variant]:
    """Return what to cross-validate: HILBERT, each modality alone, the baseline; with `compare` all variants.

    What needs both modalities is left out where the features have only one.
    """
    has_both = features.audio is not None and features.text is not None
    # HILBERT first: its folds start first, and a run that is stopped early has what matters most.
    variants = [Variant(name=HILBERT, config=config, subsets=subsets and has_both)]
    if has_both:
        variants += [
            Variant(name="audio_only", config=config, modality="audio"),
            Variant(name="text_only", config=config, modality="text"),
        ]
    variants.append(Variant(name=BASELINE, config=config, method="logistic"))
    if compare:
        if has_both:
            variants.append(Variant(name="late_fusion", config=config, method="late_fusion"))
        variants += [Variant(name=name, config=changed) for name, changed in ablations(config).items()]
    return variants
