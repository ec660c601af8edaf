"""Cross-validation of HILBERT, its ablations and the baselines on group-disjoint folds."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.evaluation.cross_validation import gather, run_fold, run_fold_on_one_thread, run_folds
    from hilbert_ray.evaluation.driver import evaluate
    from hilbert_ray.evaluation.scores import adjust_p_values
    from hilbert_ray.evaluation.variants import Variant, choose_variants

__all__ = [
    "Variant",
    "adjust_p_values",
    "choose_variants",
    "evaluate",
    "gather",
    "run_fold",
    "run_fold_on_one_thread",
    "run_folds",
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
        "scores": ("adjust_p_values",),
        "variants": (
            "Variant",
            "choose_variants",
        ),
    },
)
