"""Settings to plain values and back, and settings files."""

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hilbert_ray.config.settings import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any settings dataclass
    """Turn settings into plain JSON values; `from_dict` turns them back into an equal object."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None, where: str = "") -> T:
    """Build settings of class `cls` from plain values, on top of `base` (default: the class defaults).

    Raises:
        ConfigError: for a key that does not exist (with the nearest that does), or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__} is {values!r}; it must be a mapping of settings")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise ConfigError(f"unknown setting `{path}`: {hint}the settings here are {', '.join(names)}")
        changes[key] = _convert(hints[key], value, path, getattr(base, key, None))
    try:
        return dataclasses.replace(base, **changes) if base is not None else cls(**changes)  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(f"in {where}: {error}" if where else str(error)) from None


def _convert(hint: Any, value: Any, path: str, base: Any) -> Any:  # noqa: ANN401 - any type of a setting
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type[Any], hint), value, base, path)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not NoneType]
        return _convert(next((k for k in kinds if _is_meant(k, value)), kinds[0]), value, path, base)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"`{path}` is {value!r}; the choices are {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"`{path}` is {value!r}; it must be a list")
        return tuple(_convert(arguments[0], item, f"{path}[{i}]", None) for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"`{path}` is {value!r}; it must be a mapping")
        return {str(k): _convert(arguments[1], v, f"{path}.{k}", None) for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if type(value) is not hint:
        raise ConfigError(f"`{path}` is {value!r}; it must be of type {hint.__name__}")
    return value


def _is_meant(hint: Any, value: Any) -> bool:  # noqa: ANN401 - any type of a setting
    """Tell whether a plain value has the form of one type out of several."""
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    return isinstance(value, list | tuple) if get_origin(hint) is tuple else type(value) is hint


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file of settings as plain values, local or on any fsspec store.

    Raises:
        ConfigError: when there is no such file or it is not a mapping.
    """
    import fsspec
    import yaml

    try:
        with fsspec.open(str(path), "rt", encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except FileNotFoundError:
        raise ConfigError(f"no settings file at {path}; give --config the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; it must be a mapping of settings")
    return values
