"""The training loop, its objective and checkpoints, in one process or on ranks of Ray Train."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.training.driver import TrainSummary, train
    from hilbert_ray.training.head_weights import HeldOut, fit_weights
    from hilbert_ray.training.loop import EpochReport, NotFiniteError, TrainedNetworks, fit
    from hilbert_ray.training.objective import backward, objective_inputs, objective_terms

__all__ = [
    "EpochReport",
    "HeldOut",
    "NotFiniteError",
    "TrainSummary",
    "TrainedNetworks",
    "backward",
    "fit",
    "fit_weights",
    "objective_inputs",
    "objective_terms",
    "train",
]

__getattr__ = lazy_names(
    __name__,
    {
        "driver": ("TrainSummary", "train"),
        "head_weights": ("HeldOut", "fit_weights"),
        "loop": ("EpochReport", "NotFiniteError", "TrainedNetworks", "fit"),
        "objective": ("backward", "objective_inputs", "objective_terms"),
    },
)
