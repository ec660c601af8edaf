"""Settings of the search over other settings: its space, its trials and what stops them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from hilbert_ray.config.constraints import LEAST_SHARE, ConfigError, check_fields, require, require_share

Scalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceConfig:
    """The values that `tune` may give one setting: a range, or a list of choices."""

    # Finite, since a sampler draws from the whole range. Each trial's settings check their own bounds too, so
    # these need not be tight.
    low: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    """Lower end of a range, included."""
    high: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    """Upper end of a range, included."""
    log: bool = False
    """Search the range on a logarithmic scale."""
    choices: tuple[Scalar, ...] = ()
    """The values to choose from, instead of a range."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.choices:
            require(
                self.low is None and self.high is None and not self.log,
                f"choices {list(self.choices)} and a range are both set; set only one of them",
            )
            # By repr, because 1, 1.0 and True are equal but different settings.
            require(
                len({repr(choice) for choice in self.choices}) == len(self.choices) > 1,
                f"choices are {list(self.choices)}; list at least two, each once",
            )
            return
        low, high = self.low, self.high
        if low is None or high is None:
            raise ConfigError(f"low is {low} and high is {high}; set both, or choices")
        require(low < high, f"low is {low} and high is {high}; low must be below high")
        require(
            low > 0 or not self.log,
            f"low is {low}; a logarithmic range must begin above 0: leave out `log`, or raise low",
        )

    def place(self, value: Scalar) -> float:
        """Return where a value is between low (0) and high (1), or between the first and the last choice.

        Values outside the range give numbers below 0 or above 1.
        """
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        assert self.low is not None
        assert self.high is not None
        low, high, number = self.low, self.high, float(value)
        # A value of 0, such as the weight of a term that is off, has no logarithm: it is left of any range.
        if self.log:
            low, high, number = math.log(low), math.log(high), math.log(number) if number > 0 else -math.inf
        return (number - low) / (high - low)

    def between(self, place: float) -> float:
        """Return the value at a place from 0 to 1 in the range: the inverse of `place`."""
        assert self.low is not None
        assert self.high is not None
        if self.log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + (self.high - self.low) * place


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """The search for better settings."""

    trials: Annotated[int, Meta(ge=1, le=1_000_000)] = 32
    """Number of settings to try in each search; the first trial uses the current settings. There is a search
    for each outer fold, which judges it, and one on all documents, whose settings are in RUN/best.yaml."""
    algorithm: Literal["tpe", "random"] = "tpe"
    """How settings are proposed: by TPE (Optuna) from the earlier trials, or at random."""
    scheduler: Literal["asha", "hyperband", "none"] = "asha"
    """What stops poor trials after an inner fold: ASHA, asynchronous Hyperband (stops some trials as ASHA
    does, the others later or never), or nothing. Population-based schedulers such as PB2 are not offered:
    they copy weights between running trials, but here every inner fold trains from scratch."""
    objectives: tuple[Literal["score", "brier"], ...] = ("score",)
    """What to optimise, on inner folds. `score`: the headline (AUC or concordance within test sets, mean over
    tasks) of a single network, without the seeds, weights of heads and temperature that `evaluate` adds.
    `score brier`: among the trials within one standard error of the best score, the one with the lowest Brier
    score of its calibrated probabilities; calibration trains `folds.inner` more networks in each inner fold.
    Two objectives need `scheduler: none`. The best of the trials that finished all inner folds replaces the
    current settings if it is better by more than one standard error of theirs in one objective, and worse by
    more in none; otherwise they stay. The best of many trials is partly lucky: the outer folds tell."""
    max_concurrent: Annotated[int, Meta(ge=0, le=100_000, description="0: automatic")] = 0
    """Number of trials that run at once. 0: as many as the cluster has room for."""
    cpus_per_trial: Annotated[float, Meta(ge=LEAST_SHARE, le=10_000)] = 1.0
    """Logical CPUs per worker of a trial, and its number of threads (at least one)."""
    gpus_per_trial: Annotated[float, Meta(ge=0, le=1, description="a worker runs on at most one GPU")] = 0.0
    """GPUs per worker of a trial; with a fraction, several trials share one GPU. 0: CPUs only."""
    workers_per_trial: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Number of DDP ranks per trial; more than one only helps with large data."""
    space: Mapping[str, tuple[float, float] | SpaceConfig] = field(
        default_factory=lambda: {
            "loss.contrastive": (0.01, 2.0),
            "loss.cka": (0.01, 4.0),
            "loss.balance": (0.05, 20.0),
            "loss.unimodal": (0.05, 2.0),
        }
    )
    """Settings of model, moe, loss or fit to search: each with a range `[low, high]`, searched on a
    logarithmic scale, or with a mapping of `low`, `high` and `log`, or of `choices`."""

    def __post_init__(self) -> None:
        check_fields(self, "tune")
        require_share("tune.gpus_per_trial", self.gpus_per_trial)
        # NCCL refuses two ranks on one GPU.
        require(
            self.workers_per_trial == 1 or self.gpus_per_trial in (0, 1),
            f"tune.workers_per_trial is {self.workers_per_trial} and tune.gpus_per_trial is "
            f"{self.gpus_per_trial}: the ranks of a trial cannot share a GPU; set gpus_per_trial to 0 or 1",
        )
        require(
            self.objectives in (("score",), ("score", "brier")),
            f"tune.objectives is {list(self.objectives)}; the choices are [score] and [score, brier]",
        )
        require(
            len(self.objectives) == 1 or self.scheduler == "none",
            f"tune.objectives is {list(self.objectives)} and tune.scheduler is {self.scheduler}, which stops "
            "trials by a single number; set tune.scheduler to none",
        )
        require(bool(self.space), "tune.space is empty; name at least one field to search")
        for name, bounds in self.space.items():
            # The length is checked here, because reading settings does not check how long a tuple is.
            require(
                isinstance(bounds, SpaceConfig)
                or (len(bounds) == 2 and 0 < bounds[0] < bounds[1] < math.inf),
                f"tune.space gives `{name}` the range {bounds}; it must be two rising numbers above 0",
            )

    def ranges(self) -> dict[str, SpaceConfig]:
        """Return the space with each short form `[low, high]` written out as a `SpaceConfig`."""
        # The short form is logarithmic, because weights and rates matter by their order of magnitude.
        return {
            name: bounds
            if isinstance(bounds, SpaceConfig)
            else SpaceConfig(low=bounds[0], high=bounds[1], log=True)
            for name, bounds in self.space.items()
        }
