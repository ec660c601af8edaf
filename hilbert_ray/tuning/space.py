"""The space of a search: which fields of the settings it may change, and to what.

The type of a field decides: numbers have ranges or choices, switches and names have choices. Every setting
that a space allows must be valid; that is tested here, before anything starts.
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

SECTIONS = ("model", "moe", "loss", "fit")
"""Settings that training depends on."""
FIXED = ("fit.seed", "fit.seeds")
"""Not searched: a trial trains one network from the run's seed."""
DRAWS = 300
"""Random members of a space that are tested before the search: combinations can be invalid although each
value is valid, such as a width that the number of heads does not divide."""
Settings = Mapping[str, Scalar]
"""Values by dotted name: `{"loss.cka": 0.4}`."""


def apply(config: Config, changes: Settings) -> Config:
    """Return `config` with the fields under these dotted names changed."""
    return from_dict(Config, nested(changes), config)


def nested(changes: Settings) -> dict[str, Any]:
    """Return settings as nested mappings, as in a settings file."""
    values: dict[str, Any] = {}
    for name, value in changes.items():
        *path, last = name.split(".")
        section = values
        for key in path:
            section = section.setdefault(key, {})
        section[last] = value
    return values


def value_of(config: Config, name: str) -> Any:  # noqa: ANN401 - any setting
    """Return the setting with a dotted name.

    Raises:
        ConfigError: when there is none.
    """
    # Through plain values: by attributes, a name could also reach a method or a property.
    value: Any = to_dict(config)
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ConfigError(
                f"tune.space has `{name}`, which is not a setting; use a name such as `loss.cka`"
            )
        value = value[key]
    return value


def make_space(config: Config) -> dict[str, BaseDistribution]:
    """Return the searched fields as Optuna's distributions.

    Raises:
        ConfigError: for a field that does not exist or that trials do not depend on, for a range or choice
            that its type does not allow, and when the space contains invalid settings.
    """
    space = {name: _distribution(config, name, searched) for name, searched in config.tune.ranges().items()}
    # A fixed seed: the same space is accepted or refused every time.
    generator = random.Random(0)
    for _ in range(DRAWS):
        drawn = {name: _draw(distribution, generator) for name, distribution in space.items()}
        try:
            apply(config, drawn)
        except ConfigError as error:
            combination = ", ".join(f"{name} {value}" for name, value in drawn.items())
            raise ConfigError(
                f"tune.space allows {combination}, but {error}; narrow the space, or list valid choices"
            ) from None
    return space


def defaults(config: Config) -> dict[str, Scalar]:
    """Return the values of the searched fields before any change."""
    return {name: value_of(config, name) for name in config.tune.ranges()}


def nearest(config: Config, space: Mapping[str, BaseDistribution]) -> dict[str, Scalar]:
    """Return the member of the space that represents the defaults: the defaults, where the space has them.

    Optuna only learns from members of its space; the trial itself uses the real defaults.
    """
    member: dict[str, Scalar] = {}
    for name, value in defaults(config).items():
        distribution = space[name]
        if isinstance(distribution, CategoricalDistribution):
            member[name] = value if value in distribution.choices else distribution.choices[0]
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            member[name] = min(max(value, distribution.low), distribution.high)
    return member


def _distribution(config: Config, name: str, searched: SpaceConfig) -> BaseDistribution:
    value = value_of(config, name)
    if name.split(".")[0] not in SECTIONS or name in FIXED:
        raise ConfigError(
            f"tune.space has `{name}`, which trials do not depend on; use a field of {', '.join(SECTIONS)} "
            f"other than {' and '.join(FIXED)}"
        )
    if not isinstance(value, bool | int | float | str):
        raise ConfigError(f"tune.space has `{name}`, which is {value!r}; use one of its fields instead")
    if searched.choices:
        for choice in searched.choices:
            _try(config, name, choice)
        # As the settings hold them: 1 and 1.0 of a fraction would be two choices for Optuna.
        return CategoricalDistribution([value_of(apply(config, {name: c}), name) for c in searched.choices])
    low, high = searched.low, searched.high
    # Without choices there is a range: `SpaceConfig` has checked it.
    assert low is not None
    assert high is not None
    # First bool, which Python counts as a whole number.
    if isinstance(value, bool | str):
        raise ConfigError(
            f"tune.space gives `{name}` the range {low:g} to {high:g}, but it is {value!r}; give choices"
        )
    # Both ends are tested: constraints are intervals, so that what lies between is valid too.
    if isinstance(value, float):
        for end in (low, high):
            _try(config, name, end)
        return FloatDistribution(low, high, log=searched.log)
    if low % 1 or high % 1:
        raise ConfigError(
            f"tune.space gives `{name}` the range {low:g} to {high:g}, but it is {value!r}; give whole "
            "numbers"
        )
    for end in (low, high):
        _try(config, name, int(end))
    return IntDistribution(int(low), int(high), log=searched.log)


def _try(config: Config, name: str, value: Scalar) -> None:
    try:
        apply(config, {name: value})
    except ConfigError as error:
        raise ConfigError(f"tune.space allows `{name}` to be {value!r}, but {error}") from None


def _draw(distribution: BaseDistribution, generator: random.Random) -> Scalar:
    if isinstance(distribution, CategoricalDistribution):
        choice: Scalar = generator.choice(distribution.choices)
        return choice
    if isinstance(distribution, IntDistribution):
        return generator.randint(distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    # Uniform on logarithmic ranges too: whether a value is valid does not depend on the scale.
    return generator.uniform(distribution.low, distribution.high)
