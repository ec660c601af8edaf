"""Settings to plain values and back, and settings files.

It works on any settings dataclass by its annotations and imports none of them, so that `Config` can use it.
"""

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hilbert_ray.config.constraints import ConfigError
from hilbert_ray.storage import access_errors

T = TypeVar("T")
LARGEST_FILE = 2**20
"""Most bytes of a settings file: far more than all settings written out."""
MERGE = "tag:yaml.org,2002:merge"
"""What YAML calls the key `<<`."""
_CHECKSUM = b"# checksum: "
"""Begin of the first line of a settings file that a command wrote, before the SHA-256 of the lines below."""


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any settings dataclass
    """Turn settings into plain JSON values; `from_dict` turns them back into an equal object."""
    # Through JSON text, because `asdict` keeps tuples where a file would give lists: equal settings must give
    # equal values, and so equal hashes, wherever they were read.
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None, where: str = "") -> T:
    """Build settings of class `cls` from plain values, on top of `base` (default: the class defaults).

    Args:
        cls: a settings dataclass.
        values: plain values by field name, nested as the dataclasses are.
        base: settings to change; fields that `values` does not name keep their value.
        where: dotted name of these settings for messages, such as `fit`.

    Raises:
        ConfigError: for an unknown key (naming the nearest known one), or a value that is of the wrong type
            or that the class refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or cls.__name__} is {values!r}; it must be a mapping of settings")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        # An error and not a warning: a misspelt setting would otherwise run with its default, and be reported
        # as if it had been set.
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise ConfigError(f"unknown setting `{path}`: {hint}the settings here are {', '.join(names)}")
        changes[key] = _convert(hints[key], value, path, getattr(base, key, None))
    try:
        # Either way `__post_init__` runs on the merged values, so that a rule between two fields also holds
        # where a file sets one of them and a preset the other.
        return dataclasses.replace(base, **changes) if base is not None else cls(**changes)  # type: ignore[type-var]
    except ConfigError as error:
        # Most messages name the section themselves (`fit.epochs is ...`); those of classes that occur in
        # several places, such as a task's, do not.
        is_named = not where or str(error).startswith(where)
        raise ConfigError(str(error) if is_named else f"in {where}: {error}") from None


def _convert(hint: Any, value: Any, path: str, base: Any) -> Any:  # noqa: ANN401 - any type of a setting
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type[Any], hint)):
            return value
        return from_dict(typing.cast(type[Any], hint), value, base, path)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not NoneType]
        # The form of a value decides between the types of a union; where none fits, the message names the
        # first.
        return _convert(next((kind for kind in kinds if _has_form(kind, value)), kinds[0]), value, path, base)
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
    # YAML and JSON write 1 for 1.0, and YAML reads an unquoted 2024 as a number even where a word is meant.
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"`{path}` is a number of over 300 digits, which is out of range") from None
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if hint is str and isinstance(value, bool):
        raise ConfigError(
            f"`{path}` is {value!r}; it must be text. YAML reads yes, no, on and off as switches: put the "
            'word in quotes, as in "no"'
        )
    if type(value) is not hint:
        raise ConfigError(f"`{path}` is {value!r}; it must be of type {hint.__name__}")
    return value


def _has_form(hint: Any, value: Any) -> bool:  # noqa: ANN401 - any type of a setting
    """Return whether a plain value has the form of a type: a mapping, a list, or exactly that type."""
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping | typing.cast(type[Any], hint))
    origin = get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    return isinstance(value, list | tuple) if origin is tuple else type(value) is hint


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file of settings as plain values, local or on any fsspec store.

    Raises:
        ConfigError: if there is no such file, it cannot be read, is larger than `LARGEST_FILE`, does not hold
            a YAML mapping in which every key occurs once, or not what its checksum says.
        AccessError: if its object store cannot be used from here.
    """
    import yaml

    text = _read_text(str(path))
    try:
        values = _unique_keys_loader()(text).get_single_data()
    # ValueError: YAML reads 2024-13-01 as a date, and Python refuses whole numbers of over 4,300 digits.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"settings file {path} is not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(
            f"settings file {path} is nested too deeply to be read; settings have a few levels"
        ) from None
    # A file of comments only.
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"settings file {path} holds a {type(values).__name__}; it must be a mapping of settings"
        )
    return values


def _read_text(path: str) -> str:
    """Return what a settings file holds; see `load_file`."""
    import fsspec

    # Opening a named pipe would wait for ever, and a device may never end.
    if Path(path).exists() and not Path(path).is_file():
        raise ConfigError(f"{path} is a folder or another thing that is no file; name a YAML or JSON file")
    try:
        with access_errors(path), fsspec.open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ConfigError(
                f"settings file {path} has more than {LARGEST_FILE} bytes; is it another file, such as the "
                "manifest?"
            )
        _compare_checksum(data, path)
        return str(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no settings file {path}; name an existing YAML or JSON file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"settings file {path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it as "
            "UTF-8, or name the right file"
        ) from None
    except OSError as error:
        raise ConfigError(f"settings file {path} cannot be read: {error}") from None


@cache
def _unique_keys_loader() -> type[Any]:
    """Return PyYAML's safe loader, which runs no code that a file names, and which refuses double keys."""
    import yaml

    class UniqueKeysLoader(yaml.SafeLoader):
        """Refuses a key that occurs twice in a mapping: the last would win, and the first would look set."""

    def construct(loader: Any, node: Any) -> Iterator[dict[Any, Any]]:  # noqa: ANN401 - yaml has no types
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            # `<<` merges another mapping, whose keys may occur here again.
            if isinstance(key, yaml.ScalarNode) and key.value in lines and key.tag != MERGE:
                raise yaml.YAMLError(f"`{key.value}` is set in line {lines[key.value]} and in line {line}")
            lines[str(key.value)] = line
        yield from loader.construct_yaml_map(node)

    UniqueKeysLoader.add_constructor("tag:yaml.org,2002:map", construct)
    return UniqueKeysLoader


def with_settings_checksum(text: str) -> str:
    """Return the text of a settings file below a line with its checksum, which `load_file` compares."""
    return f"{_CHECKSUM.decode()}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _compare_checksum(data: bytes, path: str | Path) -> None:
    """Raise ConfigError where a settings file with a checksum is not what was written."""
    line, _, text = data.partition(b"\n")
    recorded = line.removeprefix(_CHECKSUM).decode("utf-8", "replace")
    # A file that was cut off within the line, or to nothing, would set nothing.
    if _CHECKSUM.startswith(data) or (
        line.startswith(_CHECKSUM) and hashlib.sha256(text).hexdigest() != recorded
    ):
        raise ConfigError(
            f"settings file {path} is empty, or not what was written: the checksum in its first line is not "
            "that of the lines below; write it again, or, after an edit of your own, delete the line"
        )
