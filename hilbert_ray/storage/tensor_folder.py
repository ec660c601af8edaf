"""A folder of tensors and settings without pickle: safetensors for tensors, JSON for everything else.

It is written under a temporary name and renamed, so a reader sees a whole folder or none. Only its JSON file
and model.safetensors are read, and nothing in it is executed. The JSON file holds the SHA-256 of both under
`sha256`: a flipped bit of a weight would load, and predict other numbers.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hilbert_ray.errors import HilbertError
from hilbert_ray.storage.files import DamagedError, write_errors
from hilbert_ray.storage.regular import require_regular

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
LARGEST_JSON = 2**28
"""Most bytes of the JSON file: records of a training of a hundred thousand epochs take less."""
_HASHES = "sha256"
"""Entry of the JSON file: by name, the hash of the weights, and of the JSON object without this entry."""


class TensorFolderError(HilbertError, ValueError):
    """A folder that cannot be used: a file is missing, a link, or of another schema."""


def write_tensor_folder(folder: Path, tensors: "Mapping[str, Tensor]", files: Mapping[str, str]) -> None:
    """Write `folder`/model.safetensors and text files by name, replacing an older folder as a whole.

    Other files in the folder are kept; its own files are then replaced one by one. JSON objects among the
    files get the entry `sha256`.

    Raises:
        WriteError: when it cannot be written; a folder that was there before is intact.
    """
    from safetensors.torch import save  # loads torch, which not everything in this room needs

    # Not by `save_file`, whose files nobody else may read, and whose errors do not tell a full disk.
    weights = save({name: x.detach().cpu().contiguous() for name, x in tensors.items()})
    contents = {WEIGHTS: weights}
    for name, text in files.items():
        if name.endswith(".json"):
            values = json.loads(text)
            hashes = {WEIGHTS: hashlib.sha256(weights).hexdigest(), name: _sha256_of_values(values)}
            text = json.dumps({**values, _HASHES: hashes}, indent=1)
        contents[name] = text.encode()
    with _replacing(folder) as fresh:
        for name, data in contents.items():
            with (fresh / name).open("wb") as file:
                file.write(data)
                file.flush()
                # Without the sync, a crash of the machine could leave the renamed folder with empty files.
                os.fsync(file.fileno())


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder whose files then replace those of `folder`, with all of it if it has no others."""
    # In the same parent folder: a rename is atomic only within one file system.
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with write_errors(str(folder)):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            yield fresh
            # A folder of a user may hold more (notes, a licence), which must survive a new model.
            own = {path.name for path in fresh.iterdir()}
            if folder.exists() and {path.name for path in folder.iterdir()} - own:
                for path in fresh.iterdir():
                    path.replace(folder / path.name)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def read_tensor_folder(
    folder: Path, name: str, schema: int, repair: str
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """Return the JSON object `folder`/`name` and the tensors of `folder`/model.safetensors.

    Args:
        folder: the folder.
        name: of its JSON file.
        schema: the only one that is read.
        repair: what the user can do about a damaged file, for the message.

    Raises:
        TensorFolderError: when either file is absent, a link that leaves the folder, or of another schema.
        DamagedError: when either is not what was written. Without an entry `sha256`, as in a folder that
            somebody edited and took it out of, nothing is compared.
    """
    from safetensors.torch import load_file

    paths = [folder / name, folder / WEIGHTS]
    # A folder from elsewhere could name /etc/passwd as its settings, and an error would show it.
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise TensorFolderError(
                f"{path} is a link to {path.resolve()}, outside the folder; a folder must hold its files "
                "itself, so that nothing else is read: copy them there"
            )
        require_regular(path)
    path = paths[0]
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise ValueError(f"{size} bytes of JSON, where at most {LARGEST_JSON} are read")
        values = json.loads(path.read_text(encoding="utf-8"))
        path = paths[1]
        tensors = load_file(path)
    except OSError as error:
        raise TensorFolderError(
            f"{folder} cannot be read: {error}; it must hold {name} and {WEIGHTS} as they were written: "
            "restore both from a copy, or write the folder again"
        ) from error
    # RecursionError: JSON that is nested a thousand times. Both files may come from anybody.
    except (ValueError, RecursionError, SafetensorError) as error:
        raise DamagedError.of(str(path), f"{type(error).__name__}: {error}", repair) from error
    if not isinstance(values, dict):
        raise DamagedError.of(str(paths[0]), f"a {type(values).__name__}, not a JSON object", repair)
    if values.get("schema") != schema:
        writer = values.get("version")
        raise TensorFolderError(
            f"{folder} has schema {values.get('schema')!r}; this version reads schema {schema}: use "
            f"{f'hilbert-ray {writer}' if writer else 'the version of hilbert-ray'} that wrote it"
        )
    hashes = values.pop(_HASHES, None)
    if hashes is not None:
        actual = {WEIGHTS: _sha256_of_file(paths[1]), name: _sha256_of_values(values)}
        _check_hashes(folder, hashes, actual, repair)
    return values, tensors


def _check_hashes(folder: Path, recorded: object, actual: Mapping[str, str], repair: str) -> None:
    """Compare what a folder holds with what was written to it."""
    for name, sha256 in actual.items():
        if not isinstance(recorded, dict) or recorded.get(name) != sha256:
            raise DamagedError.of(
                str(folder / name),
                "its sha256 differs from the recorded one",
                f"{repair}; after an edit of your own, delete the entry `{_HASHES}`",
            )


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_values(values: Mapping[str, Any]) -> str:
    """Return the hash of a JSON object, whatever the order and layout in which it is written."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
