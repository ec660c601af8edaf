"""Search over settings, scored on inner folds and judged on outer folds it never saw."""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names

if TYPE_CHECKING:
    from hilbert_ray.tuning.driver import tune
    from hilbert_ray.tuning.search import choose_trial, run_search
    from hilbert_ray.tuning.space import defaults, make_space, nearest
    from hilbert_ray.tuning.trials import SearchPlan, concurrency, run_trials

__all__ = [
    "SearchPlan",
    "choose_trial",
    "concurrency",
    "defaults",
    "make_space",
    "nearest",
    "run_search",
    "run_trials",
    "tune",
]

__getattr__ = lazy_names(
    __name__,
    {
        "driver": ("tune",),
        "search": (
            "choose_trial",
            "run_search",
        ),
        "space": (
            "defaults",
            "make_space",
            "nearest",
        ),
        "trials": (
            "SearchPlan",
            "concurrency",
            "run_trials",
        ),
    },
)
