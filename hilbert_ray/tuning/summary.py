"""What `tune` returns and RUN/tune.json holds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hilbert_ray.run import pending_lines
from hilbert_ray.tuning.importance import LEAST_TRIALS
from hilbert_ray.tuning.space import Settings
from hilbert_ray.tuning.trials import Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSummary:
    """The result of a run of `tune`.

    best: what the search changes, by dotted name (empty where the defaults are kept). beaten: whether the
    best trial beat the defaults on inner folds (see `choose_trial`). trials: their number, in all searches.
    tuned, default: headline on outer folds, of searched and of default settings, by task. comparison: their
    difference with interval and tests, by task; p-values also adjusted for the number of tasks. helped: by
    task, whether the searched settings are better by the corrected test. settings: defaults of the searched
    fields. pending: by modality, documents that were not embedded yet and counted as lacking it. space: what
    was searched. importances: share of each setting, from `important_trials` trials (see `importances`).
    leading: the best trials of the last search. file: the settings to use, for `--config`.
    """

    best: Settings
    beaten: bool
    trials: int
    tuned: Mapping[str, float]
    default: Mapping[str, float]
    comparison: Mapping[str, Any]
    helped: Mapping[str, bool]
    settings: Settings
    pending: Mapping[str, int]
    space: Mapping[str, Any]
    objectives: Sequence[str]
    importances: Mapping[str, Mapping[str, float]]
    important_trials: int
    leading: Sequence[Trial]
    file: str

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that tune.json holds."""
        # Through JSON, so that callers get the types that a reader of the file gets: lists, not tuples.
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def text(self) -> str:
        """Return lines for a terminal."""
        lines = [
            *pending_lines(self.pending),
            f"best of {self.trials} trials (search over all documents, mean over inner folds)",
            *map(self._trial_line, self.leading),
            *self._importance_lines(),
            f"best settings: {_listed(self.best)}"
            if self.beaten
            else "no trial was more than one standard error above the defaults: keep the defaults",
        ]
        for task, value in self.tuned.items():
            p = self.comparison[task]["p_corrected_t_holm"]
            test = f"p {p:.3f}, corrected t" if p is not None else "not testable"
            verdict = "the search helped" if self.helped[task] else "the search did not help"
            lines.append(
                f"{task}, outer folds: searched {value:.3f}, defaults {self.default[task]:.3f} ({test}): "
                f"{verdict}"
            )
        return "\n".join([*lines, f"settings: {self.file}"])

    def _trial_line(self, trial: Trial) -> str:
        kind = "defaults" if trial["is_default"] else ""
        brier = f"  Brier {trial['brier']:.4f}" if len(self.objectives) > 1 else ""
        score, folds = f"{trial['score']:.4f}{brier}", f"{len(trial['folds'])} folds"
        return f"  {score}  {folds}  {kind:8}  {_listed(trial['settings'])}"

    def _importance_lines(self) -> list[str]:
        if not self.importances:
            return [f"no importances: {self.important_trials} trials, all alike or fewer than {LEAST_TRIALS}"]
        width = max(map(len, self.importances))
        return [
            f"importance (share of the variance between {self.important_trials} trials)",
            *(
                f"  {name:<{width}}  {share['mean']:.2f} ({share['least']:.2f} to {share['most']:.2f})"
                for name, share in self.importances.items()
            ),
        ]


def _listed(settings: Settings) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in settings.items())


def _short(value: Any) -> str:  # noqa: ANN401 - a setting
    return f"{value:.4g}" if isinstance(value, float) else str(value)
