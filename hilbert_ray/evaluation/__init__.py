"""Cross-validation of HILBERT, its ablations and the baselines on group-disjoint folds."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.evaluation.cross_validation import gather, run_fold, run_fold_on_one_thread, run_folds
    from hilbert_ray.evaluation.driver import evaluate
    from hilbert_ray.evaluation.scores import summarise
    from hilbert_ray.evaluation.variants import Variant, choose_variants

__all__ = [
    "Variant",
    "choose_variants",
    "evaluate",
    "gather",
    "run_fold",
    "run_fold_on_one_thread",
    "run_folds",
    "summarise",
]

__getattr__ = lazy_names(
    __name__,
    {
        "cross_validation": (
            "gather",
            "run_fold",
            "run_fold_on_one_thread",
            "run_folds",
        ),
        "driver": ("evaluate",),
        "scores": ("summarise",),
        "variants": (
            "Variant",
            "choose_variants",
        ),
    },
)
