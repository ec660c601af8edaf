"""The training loop, its objective and checkpoints, alone or on ranks of Ray Train."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.training.driver import train
    from hilbert_ray.training.loop import EpochProgress, NotFiniteError, fit
    from hilbert_ray.training.objective import backward, columns, objective_terms

__all__ = [
    "EpochProgress",
    "NotFiniteError",
    "backward",
    "columns",
    "fit",
    "objective_terms",
    "train",
]

__getattr__ = lazy_names(
    __name__,
    {
        "driver": ("train",),
        "loop": (
            "EpochProgress",
            "NotFiniteError",
            "fit",
        ),
        "objective": (
            "backward",
            "columns",
            "objective_terms",
        ),
    },
)
