"""Constraints that a field's annotation declares, and the check of a settings object against them.

`epochs: Annotated[int, Meta(ge=0, le=100_000)] = 20` declares the bounds of a number, `Literal["auto", "no"]`
the choices of a word. Each settings class calls `check_fields` first in its `__post_init__`, so that a wrong
value is refused however the object was built: by flags, from a file, or in Python.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta

from hilbert_ray.errors import HilbertError


class ConfigError(HilbertError, ValueError):
    """A setting that is unknown, of the wrong type, out of range, or in contradiction with another."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """What one field may hold: numbers within bounds, or one of some choices.

    `kind` is int or float for a number, None for choices; `meta` holds the bounds, and in its `description` a
    remark for messages, such as `0: automatic`. Beside a number, `choices` are words that may stand for it.
    `is_list`: the field holds any number of them.
    """

    field: str
    kind: type[int] | type[float] | None = None
    meta: Meta | None = None
    choices: tuple[Any, ...] = ()
    is_optional: bool = False
    is_list: bool = False


LEAST_SHARE = 0.001
"""Least share of a CPU or GPU that may be asked of Ray, which counts in steps of 0.0001."""


def require_share(name: str, gpus: float) -> None:
    """Raise `ConfigError` for a share of a GPU that is neither 0 nor one that Ray can give."""
    require(
        gpus == 0 or gpus >= LEAST_SHARE,
        f"{name} is {gpus}; it must be 0 (CPUs only) or at least {LEAST_SHARE}, as small as Ray's shares are",
    )


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_fields(settings: object, section: str = "") -> None:
    """Check each field of a settings object against its annotation.

    Args:
        settings: an instance of a settings dataclass.
        section: what its fields are called by, such as `fit` for `fit.epochs`.

    Raises:
        ConfigError: for a number that is out of bounds, not finite or no number at all, and for a word that
            is not among its choices.
    """
    for constraint in constraints(type(settings)):
        value = getattr(settings, constraint.field)
        # None means unset: the rule that joins the fields, in `__post_init__`, says whether it may be.
        if value is None and constraint.is_optional:
            continue
        name = f"{section}.{constraint.field}" if section else constraint.field
        if constraint.kind is None:
            choices = ", ".join(map(str, constraint.choices))
            require(value in constraint.choices, f"{name} is {value!r}; the choices are {choices}")
        elif not (isinstance(value, str) and value in constraint.choices):
            for number in value if constraint.is_list else (value,):
                _check_number(name, number, constraint)


def constraints(settings_class: type[Any]) -> tuple[Constraint, ...]:
    """Return the constraints that the fields of a settings class declare, in their order."""
    return _constraints(settings_class)  # type: ignore[arg-type]  # to mypy a class is not hashable


# Cached, because resolving annotations takes longer than checking values, and a search builds thousands of
# settings objects.
@cache
def _constraints(settings_class: type[Any]) -> tuple[Constraint, ...]:
    return tuple(_read_constraints(settings_class))


def _read_constraints(settings_class: type[Any]) -> Iterator[Constraint]:
    hints = typing.get_type_hints(settings_class, include_extras=True)
    for field in dataclasses.fields(settings_class):
        hint = hints[field.name]
        is_union = get_origin(hint) in (Union, UnionType)
        is_optional = is_union and NoneType in get_args(hint)
        words: tuple[Any, ...] = ()
        if is_union:
            words = next((get_args(kind) for kind in get_args(hint) if get_origin(kind) is Literal), ())
            hint = next(kind for kind in get_args(hint) if kind is not NoneType)
        is_list = get_origin(hint) is tuple and get_args(hint)[1:] == (...,)
        if is_list:
            hint = get_args(hint)[0]
        # Strings, switches, tuples and nested settings yield nothing: reading checks their types, and nested
        # settings check themselves.
        if get_origin(hint) is Literal and not is_list:
            yield Constraint(field=field.name, choices=get_args(hint), is_optional=is_optional)
            continue
        meta = None
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            meta = next((extra for extra in extras if isinstance(extra, Meta)), None)
        # `bool` is a subclass of `int`, yet a switch has no bounds: hence `in` and not `issubclass`.
        if hint in (int, float):
            yield Constraint(
                field=field.name,
                kind=hint,
                meta=meta,
                choices=words,
                is_optional=is_optional,
                is_list=is_list,
            )


def _check_number(name: str, value: object, constraint: Constraint) -> None:
    # The abstract classes let NumPy's numbers pass; a bool passes for either and is hardly meant as a number.
    if constraint.kind is int:
        is_number, expected = isinstance(value, Integral), "a whole number"
    else:
        is_number, expected = isinstance(value, Real), "a number"
    if not is_number or isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be {expected}")
    number = typing.cast(float, value)
    # First of all, since every comparison with NaN is false, and an infinity may lie within one-sided bounds.
    is_whole = isinstance(value, Integral)  # and so finite, but perhaps too large to ask as a float
    require(is_whole or math.isfinite(number), f"{name} is {value}, which is not a finite number")
    meta = constraint.meta
    if meta is None:
        return
    is_within = (
        (meta.ge is None or number >= meta.ge)
        and (meta.gt is None or number > meta.gt)
        and (meta.le is None or number <= meta.le)
        and (meta.lt is None or number < meta.lt)
        and (meta.multiple_of is None or number % meta.multiple_of == 0)
    )
    require(is_within, f"{name} is {value}; it must be {_rule(meta)}")


def _rule(meta: Meta) -> str:
    """Return bounds in words: `from 1 to 100000`, `above 0 and at most 24`, `at least 0 and below 1`."""
    if meta.ge is not None and meta.le is not None:
        words = [f"from {_plain(meta.ge)} to {_plain(meta.le)}"]
    else:
        bounds = {"at least": meta.ge, "above": meta.gt, "at most": meta.le, "below": meta.lt}
        words = [f"{word} {_plain(bound)}" for word, bound in bounds.items() if bound is not None]
    if meta.multiple_of is not None:
        words.append(f"a multiple of {_plain(meta.multiple_of)}")
    return " and ".join(words) + (f" ({meta.description})" if meta.description else "")


def _plain(number: float) -> str:
    """Return a bound without exponent where it is a whole number that a person can read."""
    return str(int(number)) if abs(number) < 1e12 and number == int(number) else f"{number:g}"
