"""A folder of tensors and settings without pickle: safetensors for tensors, JSON for everything else.

It is written under a temporary name and renamed, so a reader sees a whole folder or none. Only its JSON file
and model.safetensors are read, and nothing in it is executed. The JSON file holds the SHA-256 of both under
`sha256`: a flipped bit of a weight would load, and predict other numbers.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hilbert_ray.errors import HilbertError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
_HASHES = "sha256"
"""Entry of the JSON file: by name, the hash of the weights, and of the JSON object without this entry."""


class TensorFolderError(HilbertError, ValueError):
    """A folder of tensors and settings that cannot be read."""


def write_tensor_folder(folder: Path, tensors: "Mapping[str, Tensor]", files: Mapping[str, str]) -> None:
    """Write `folder`/model.safetensors and text files by name, replacing an older folder as a whole.

    Other files in the folder are kept; its own files are then replaced one by one. JSON objects among the
    files get the entry `sha256`.
    """
    from safetensors.torch import save_file  # loads torch, which not everything in this room needs

    # In the same parent folder: a rename is atomic only within one file system.
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, fresh / WEIGHTS)
    weights = _sha256_of_file(fresh / WEIGHTS)
    for name, text in files.items():
        if name.endswith(".json"):
            values = json.loads(text)
            hashes = {WEIGHTS: weights, name: _sha256_of_values(values)}
            text = json.dumps({**values, _HASHES: hashes}, indent=1)
        (fresh / name).write_text(text, encoding="utf-8")
    # A folder of a user may hold more (notes, a licence), which must survive a new model.
    if folder.exists() and {path.name for path in folder.iterdir()} - {WEIGHTS, *files}:
        for path in fresh.iterdir():
            path.replace(folder / path.name)
        fresh.rmdir()
    else:
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def read_tensor_folder(folder: Path, name: str, schema: int) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """Return the JSON object `folder`/`name` and the tensors of `folder`/model.safetensors.

    Raises:
        TensorFolderError: when either is absent, damaged, not what was written, a link that leaves the
            folder, or of another schema. Without an entry `sha256`, as in a folder that somebody edited and
            took it out of, nothing is compared.
    """
    from safetensors.torch import load_file

    try:
        paths = [folder / name, folder / WEIGHTS]
        # A folder from elsewhere could name /etc/passwd as its settings, and an error would show it.
        for path in paths:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise TensorFolderError(
                    f"{path} is a link to {path.resolve()}, outside the folder; a folder must hold its files "
                    "itself, so that nothing else is read: copy them there"
                )
        values = json.loads(paths[0].read_text(encoding="utf-8"))
        tensors = load_file(paths[1])
    except TensorFolderError:
        raise
    # RecursionError: JSON that is nested a thousand times. Both files may come from anybody.
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise TensorFolderError(
            f"{folder} cannot be read: {error}; it must hold {name} and {WEIGHTS} as they were written: "
            "restore both from a copy, or write the folder again"
        ) from error
    if not isinstance(values, dict):
        raise TensorFolderError(
            f"{folder / name} holds a {type(values).__name__}; it must hold a JSON object"
        )
    if values.get("schema") != schema:
        writer = values.get("version")
        raise TensorFolderError(
            f"{folder} has schema {values.get('schema')!r}; this version reads schema {schema}: use "
            f"{f'hilbert-ray {writer}' if writer else 'the version of hilbert-ray'} that wrote it"
        )
    hashes = values.pop(_HASHES, None)
    if hashes is not None:
        _check_hashes(folder, hashes, {WEIGHTS: _sha256_of_file(paths[1]), name: _sha256_of_values(values)})
    return values, tensors


def _check_hashes(folder: Path, recorded: object, actual: Mapping[str, str]) -> None:
    """Compare what a folder holds with what was written to it."""
    for name, sha256 in actual.items():
        if not isinstance(recorded, dict) or recorded.get(name) != sha256:
            raise TensorFolderError(
                f"{folder / name} is not what was written: its sha256 differs from the recorded one, so it "
                "is damaged or was edited; restore the folder from a copy or write it again. After an edit "
                f"of your own, delete the entry `{_HASHES}`"
            )


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_values(values: Mapping[str, Any]) -> str:
    """Return the hash of a JSON object, whatever the order and layout in which it is written."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
