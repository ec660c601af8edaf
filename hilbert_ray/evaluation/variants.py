"""What is cross-validated: HILBERT, its single modalities, the baselines and the ablations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hilbert_ray.config import BASELINE, Config, Modality, ablations
from hilbert_ray.features import Features

Method = Literal["network", "late_fusion", "logistic"]
BASELINES: Mapping[str, str] = {
    "late_fusion": "hilbert_ray.evaluation.baselines:late_fusion",
    "logistic": "hilbert_ray.evaluation.baselines:logistic",
}
"""Where the methods other than the network live; see `baselines` for what they take and return."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Something to cross-validate: a network with some settings on some modalities, or a baseline.

    With `subsets` the network, trained on both modalities, also predicts from each alone.
    """

    name: str
    config: Config
    method: Method = "network"
    modality: Modality | None = None
    subsets: bool = False


def choose_variants(
    config: Config, features: Features, compare: bool, subsets: bool = False
) -> list[Variant]:
    """Return what to cross-validate: HILBERT, its parts, the baseline to beat; with `compare` all."""
    both = features.audio is not None and features.text is not None
    chosen = [Variant(name="hilbert", config=config, subsets=subsets and both)]
    if both:
        chosen += [
            Variant(name="audio_only", config=config, modality="audio"),
            Variant(name="text_only", config=config, modality="text"),
        ]
    chosen.append(Variant(name=BASELINE, config=config, method="logistic"))
    if compare:
        if both:
            chosen.append(Variant(name="late_fusion", config=config, method="late_fusion"))
        chosen += [Variant(name=name, config=changed) for name, changed in ablations(config).items()]
    return chosen
