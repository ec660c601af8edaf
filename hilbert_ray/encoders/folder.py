"""Is a folder that of a transformers model? Looked at before anything in it is read by a library.

What transformers does with a folder that lacks something is to go on without it where it can: a BERT without
its tokenizer gets an empty vocabulary, and every word is the unknown one. So what an encoder needs is checked
here, once for all encoders, and what a library raises becomes one message (`reading`).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hilbert_ray.config import ConfigError
from hilbert_ray.encoders.weights import FETCH_AGAIN, features_depend_on
from hilbert_ray.errors import HilbertError
from hilbert_ray.storage import irregular

T = TypeVar("T")
_POINTER = b"version https://git-lfs.github.com/spec/"
_JSON_BYTES = 2**24
"""Most bytes of a config.json: real ones have some thousand."""
MOST_LAYERS = 10_000
_VOCABULARIES = {"tokenizer.json", "vocab.txt", "vocab.json", "bpe.codes"}
_VOCABULARY_ENDINGS = (".model", ".tiktoken")
EXTRACTOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_EXTRACTORS = (EXTRACTOR, PROCESSOR)
_MESSAGE_CHARACTERS = 300
"""Most of what a library says that a message of ours repeats: some explain themselves over twenty lines."""


def check_folder(folder: str, name: str) -> Mapping[str, Any]:
    """Check that the files of an encoder's folder are whole files, not pointers; return its config.json.

    Args:
        folder: the folder.
        name: the encoder as in the settings, for messages.

    Raises:
        ConfigError: naming the encoder, the file and what to do.
    """
    with reading("folder", name):
        names = sorted(path.name for path in Path(folder).iterdir())
    if "config.json" not in names:
        raise ConfigError(
            f"encoder {name} has no config.json, with which every transformers model begins; its folder "
            f"holds {', '.join(names[:10]) or 'nothing'}{' ...' if len(names) > 10 else ''}: name "
            "the folder of a model"
        )
    with reading("folder", name):
        needed = {*features_depend_on(folder), *filter(_is_read, names)}
    for file in sorted(needed):
        _check_file(Path(folder) / file, name)
    return read_json(Path(folder) / "config.json", name, dict)


def check_module(folder: Path, name: str) -> None:
    """Check that the weights of what follows a transformer are there, as whole files.

    Raises:
        ConfigError: naming the encoder, the file and what to do.
    """
    with reading(f"folder {folder.name}", name):
        files = features_depend_on(str(folder))
    for file in files:
        _check_file(folder / file, name)


def check_layers(values: Mapping[str, Any], name: str) -> None:
    """Check that config.json does not name more layers than any network has.

    Before transformers reads it: for some types it makes a list as long as there are layers. Models of
    several parts have an object for each.

    Raises:
        ConfigError: naming the field, its value and the limit.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            check_layers({f"{key}.{field}": inner for field, inner in value.items()}, name)
        if key.endswith("layers") and isinstance(value, (int, float)) and value > MOST_LAYERS:
            raise ConfigError(
                f"encoder {name}: config.json has {key} = {value}; a network has at most {MOST_LAYERS}: use "
                "the config.json that belongs to the weights"
            )


def check_tokenizer_files(folder: str, name: str) -> None:
    """Check that a text encoder's folder holds a tokenizer.

    Raises:
        ConfigError: naming the encoder, the folder and what to do.
    """
    if not any(_is_vocabulary(path.name) for path in Path(folder).iterdir()):
        raise ConfigError(
            f"text encoder {name} has no tokenizer; without its vocabulary every word would be "
            "the unknown one: save the tokenizer into the folder too (`tokenizer.save_pretrained`), or "
            "download tokenizer.json"
        )


def check_extractor_files(folder: str, name: str) -> None:
    """Check that a speech encoder's folder says how audio is prepared.

    Raises:
        ConfigError: naming the encoder, the folder and what to do.
    """
    if not any((Path(folder) / file).exists() for file in _EXTRACTORS):
        raise ConfigError(
            f"audio encoder {name} has no preprocessor_config.json, which says at which rate and "
            "how audio is prepared: save the feature extractor into the folder too "
            "(`feature_extractor.save_pretrained`), or download that file"
        )


def nested_extractor(folder: str, name: str) -> Any:  # noqa: ANN401 - what stands there, settings if it is right
    """Return what processor_config.json says of the feature extractor, None where it says nothing.

    Transformers reads it there rather than in preprocessor_config.json; in older releases of a model, the
    file says other things.

    Raises:
        ConfigError: when the file cannot be read.
    """
    if not (Path(folder) / PROCESSOR).exists():
        return None
    values = read_json(Path(folder) / PROCESSOR, name, dict)
    return values.get("feature_extractor", values.get("audio_processor"))


def _is_vocabulary(file: str) -> bool:
    return file in _VOCABULARIES or file.endswith(_VOCABULARY_ENDINGS)


def _is_read(file: str) -> bool:
    return _is_vocabulary(file) or file in _EXTRACTORS or file.endswith(".index.json")


def _check_file(path: Path, name: str) -> None:
    """Check that a file is a regular one, and itself rather than a pointer to it."""
    if (kind := irregular(str(path))) is not None:
        raise ConfigError(f"encoder {name}: {path.name} is {kind}; it must be a file: {FETCH_AGAIN}")
    with reading(path.name, name), path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise ConfigError(
            f"encoder {name}: {path.name} is a pointer of git-lfs and not the file itself; run "
            "`git lfs pull` in the folder, or download the model again"
        )
    if not start:
        raise ConfigError(f"encoder {name}: {path.name} is empty; {FETCH_AGAIN}")


def read_json(path: Path, name: str, kind: type[T]) -> T:
    """Return what a JSON file of an encoder's folder holds.

    Args:
        path: the file.
        name: the encoder as in the settings, for messages.
        kind: dict for an object, list for an array.

    Raises:
        ConfigError: when it is no regular file, cannot be read, or holds something else than `kind`.
    """
    _check_file(path, name)
    if path.stat().st_size > _JSON_BYTES:
        raise ConfigError(f"encoder {name}: {path.name} has more than {_JSON_BYTES} bytes; {FETCH_AGAIN}")
    with reading(path.name, name):
        values = json.loads(path.read_bytes())
    if not isinstance(values, kind):
        expected = "an object" if issubclass(kind, dict) else "a list"
        raise ConfigError(
            f"encoder {name}: {path.name} holds a JSON {type(values).__name__}, not {expected}; {FETCH_AGAIN}"
        )
    return values


@contextmanager
def reading(part: str, name: str, advice: str = FETCH_AGAIN) -> Iterator[None]:
    """Turn whatever a library raises while it reads a part of an encoder's folder into one message.

    Raises:
        ConfigError: naming the encoder, the part, what the library says in brief, and what to do.
    """
    try:
        yield
    except HilbertError:
        raise
    # All of them: libraries that read a file which does not fit raise what they happen to stumble over
    # (KeyError, TypeError, UnpicklingError, RecursionError), and none of it is a fault in our code.
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        if len(said) > _MESSAGE_CHARACTERS:
            said = f"{said[:_MESSAGE_CHARACTERS]} ..."
        raise ConfigError(
            f"the {part} of encoder {name} cannot be read: {said} ({type(error).__name__}); {advice}"
        ) from error
