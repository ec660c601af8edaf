"""How much each searched setting matters: fANOVA (Hutter et al. 2014) over all trials of a run.

Trials that were stopped early count too: a trial's value is how much better than the defaults it was on the
inner folds that it saw, so that a fold that is easy for all does not speak for a setting.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from hilbert_ray.config import SpaceConfig
from hilbert_ray.tuning.trials import Trial

LEAST_TRIALS = 20
FORESTS = 5  # of random trees; what they disagree on is no result


def importances(
    searches: Sequence[Sequence[Trial]], space: Mapping[str, SpaceConfig]
) -> tuple[dict[str, dict[str, float]], int]:
    """Return how much of the variance between trials each setting explains, and from how many trials.

    Shares sum to 1 over settings, also where nothing matters; `mean`, `least` and `most` are over forests
    grown from different seeds. Empty with fewer than `LEAST_TRIALS` trials, or when all are alike.

    Args:
        searches: the trials of each search, with its defaults among them.
        space: what was searched; ranges are seen on their own scale.
    """
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(list(wanted.choices)) if wanted.choices else FloatDistribution(0.0, 1.0)
        for name, wanted in space.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    gains = []
    for trials in searches:
        base = next(trial["folds"] for trial in trials if trial["is_default"])
        for trial in trials:
            seen = len(trial["folds"])
            params = {name: _param(wanted, trial["settings"][name]) for name, wanted in space.items()}
            if not seen or any(not _holds(distributions[name], params[name]) for name in space):
                continue  # it diverged, or is the defaults of a space without them
            gains.append(float(np.mean(trial["folds"]) - np.mean(base[:seen])))
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=gains[-1])
            )
    if len(gains) < LEAST_TRIALS or np.ptp(gains) == 0:
        return {}, len(gains)
    found = [
        optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed)
        )
        for seed in range(FORESTS)
    ]
    shares = {name: [shares[name] for shares in found] for name in space}
    return {
        name: {"mean": float(np.mean(values)), "least": min(values), "most": max(values)}
        for name, values in sorted(shares.items(), key=lambda item: -float(np.mean(item[1])))
    }, len(gains)


def _param(wanted: SpaceConfig, value: bool | int | float | str) -> bool | int | float | str:
    return value if wanted.choices else wanted.place(value)


def _holds(allowed: BaseDistribution, value: bool | int | float | str) -> bool:
    if isinstance(allowed, CategoricalDistribution):
        return value in allowed.choices
    return 0.0 <= float(value) <= 1.0
