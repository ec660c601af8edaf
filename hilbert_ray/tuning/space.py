"""The space of a search: which fields of the settings it may change, and to what.

The type of a field decides: fractions and whole numbers have ranges or choices, switches and names choices.
What a space allows must be settings that can be trained; that is tried here, before anything starts.
"""

import random
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hilbert_ray.config import Config, ConfigError, Scalar, SpaceConfig, from_dict, to_dict

PARTS = ("model", "moe", "loss", "fit")
FIXED = ("fit.seed", "fit.seeds")  # a trial trains one network from the run's seed
DRAWS = 300  # random members of a space that are tried before the search
Settings = Mapping[str, Scalar]


def apply(config: Config, changes: Settings) -> Config:
    """Return `config` with the fields that dotted names give changed."""
    return from_dict(Config, nested(changes), config)


def nested(changes: Settings) -> dict[str, Any]:
    """Return dotted names as the mappings that a settings file holds."""
    values: dict[str, Any] = {}
    for name, value in changes.items():
        *path, last = name.split(".")
        at = values
        for key in path:
            at = at.setdefault(key, {})
        at[last] = value
    return values


def value_of(config: Config, name: str) -> Any:  # noqa: ANN401 - any setting
    """Return the setting that a dotted name gives.

    Raises:
        ConfigError: when there is none.
    """
    value: Any = to_dict(config)
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ConfigError(f"tune.space names `{name}`, which is no setting; name one such as `loss.cka`")
        value = value[key]
    return value


def make_space(config: Config) -> dict[str, BaseDistribution]:
    """Return the searched fields as Optuna's distributions.

    Raises:
        ConfigError: for a field that does not exist or that trials do not depend on, for a range or choice
            that its type does not allow, and when the space holds settings that are refused.
    """
    space = {name: _distribution(config, name, wanted) for name, wanted in config.tune.ranges().items()}
    generator = random.Random(0)
    for _ in range(DRAWS):
        drawn = {name: _draw(found, generator) for name, found in space.items()}
        try:
            apply(config, drawn)
        except ConfigError as error:
            shown = ", ".join(f"{name} {value}" for name, value in drawn.items())
            raise ConfigError(
                f"tune.space allows {shown}, but {error}; narrow the space, or list choices that fit"
            ) from None
    return space


def defaults(config: Config) -> dict[str, Scalar]:
    """Return what the searched fields are where nothing is changed."""
    return {name: value_of(config, name) for name in config.tune.ranges()}


def nearest(config: Config, space: Mapping[str, BaseDistribution]) -> dict[str, Scalar]:
    """Return the member of the space that stands for the defaults: these, where the space holds them."""
    found: dict[str, Scalar] = {}
    for name, value in defaults(config).items():
        allowed = space[name]
        if isinstance(allowed, CategoricalDistribution):
            found[name] = value if value in allowed.choices else allowed.choices[0]
        else:
            assert isinstance(allowed, FloatDistribution | IntDistribution)
            found[name] = min(max(value, allowed.low), allowed.high)
    return found


def _distribution(config: Config, name: str, wanted: SpaceConfig) -> BaseDistribution:
    value = value_of(config, name)
    if name.split(".")[0] not in PARTS or name in FIXED:
        raise ConfigError(
            f"tune.space names `{name}`, on which no trial depends; name a field of {', '.join(PARTS)} other "
            f"than {' and '.join(FIXED)}"
        )
    if not isinstance(value, bool | int | float | str):
        raise ConfigError(f"tune.space names `{name}`, which is {value!r}; name one of its fields instead")
    if wanted.choices:
        for choice in wanted.choices:
            _try(config, name, choice)
        return CategoricalDistribution([value_of(apply(config, {name: c}), name) for c in wanted.choices])
    low, high = wanted.low, wanted.high
    assert low is not None
    assert high is not None
    if isinstance(value, bool | str):
        raise ConfigError(
            f"tune.space gives `{name}` the range {low:g} to {high:g}, but it is {value!r}; give choices"
        )
    if isinstance(value, float):
        for end in (low, high):
            _try(config, name, end)
        return FloatDistribution(low, high, log=wanted.log)
    if low % 1 or high % 1:
        raise ConfigError(
            f"tune.space gives `{name}` the range {low:g} to {high:g}; it is {value!r}, so give whole numbers"
        )
    for end in (low, high):
        _try(config, name, int(end))
    return IntDistribution(int(low), int(high), log=wanted.log)


def _try(config: Config, name: str, value: Scalar) -> None:
    try:
        apply(config, {name: value})
    except ConfigError as error:
        raise ConfigError(f"tune.space allows `{name}` to be {value!r}, but {error}") from None


def _draw(allowed: BaseDistribution, generator: random.Random) -> Scalar:
    if isinstance(allowed, CategoricalDistribution):
        choice: Scalar = generator.choice(allowed.choices)
        return choice
    if isinstance(allowed, IntDistribution):
        return generator.randint(allowed.low, allowed.high)
    assert isinstance(allowed, FloatDistribution)
    return generator.uniform(allowed.low, allowed.high)
