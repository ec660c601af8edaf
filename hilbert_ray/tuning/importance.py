"""How much each searched setting matters: fANOVA (Hutter et al. 2014) over all trials of a run.

Trials that were stopped early count too: a trial's value is its gain over the defaults on the inner folds
that it finished, so that an easy fold does not count in favour of a setting.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from hilbert_ray.config import SpaceConfig
from hilbert_ray.tuning.trials import Trial

LEAST_TRIALS = 20
"""With fewer, a forest fits noise."""
FORESTS = 5
"""Random forests from different seeds; a share on which they disagree is not a result."""


def importances(
    searches: Sequence[Sequence[Trial]], space: Mapping[str, SpaceConfig]
) -> tuple[dict[str, dict[str, float]], int]:
    """Return how much of the variance between trials each setting explains, and from how many trials.

    Shares sum to 1 over settings, also where nothing matters; `mean`, `least` and `most` are over forests
    grown from different seeds. Empty with fewer than `LEAST_TRIALS` trials, or when all are alike.

    Args:
        searches: the trials of each search, with its defaults among them.
        space: what was searched; values are placed within their range on its own scale.
    """
    # Numbers by their place in the range, so that a forest splits a logarithmic range evenly.
    distributions: dict[str, BaseDistribution] = {
        name: (
            CategoricalDistribution(list(searched.choices))
            if searched.choices
            else FloatDistribution(0.0, 1.0)
        )
        for name, searched in space.items()
    }
    # Optuna logs every trial that is added, which is noise here.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    gains = []
    for trials in searches:
        default_folds = next(trial["folds"] for trial in trials if trial["is_default"])
        for trial in trials:
            finished = len(trial["folds"])
            params = {name: _param(searched, trial["settings"][name]) for name, searched in space.items()}
            # Left out are trials that diverged, and the defaults where the space does not contain them.
            if not finished or any(not _contains(distributions[name], params[name]) for name in space):
                continue
            gains.append(float(np.mean(trial["folds"]) - np.mean(default_folds[:finished])))
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=gains[-1])
            )
    # Where all gains are equal there is no variance to explain.
    if len(gains) < LEAST_TRIALS or np.ptp(gains) == 0:
        return {}, len(gains)
    by_forest = [
        optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed)
        )
        for seed in range(FORESTS)
    ]
    # Sorted by mean, so that the first line of a report is the setting that matters most.
    shares = {name: [importance[name] for importance in by_forest] for name in space}
    return {
        name: {"mean": float(np.mean(values)), "least": min(values), "most": max(values)}
        for name, values in sorted(shares.items(), key=lambda item: -float(np.mean(item[1])))
    }, len(gains)


def _param(searched: SpaceConfig, value: bool | int | float | str) -> bool | int | float | str:
    return value if searched.choices else searched.place(value)


def _contains(distribution: BaseDistribution, value: bool | int | float | str) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return 0.0 <= float(value) <= 1.0
