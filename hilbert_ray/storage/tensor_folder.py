"""A folder of tensors and settings without pickle: safetensors for tensors, JSON for everything else.

It is written under a temporary name and renamed, so a reader sees a whole folder or none. Only its JSON file
and model.safetensors are read, and nothing in it is executed.
"""

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


class TensorFolderError(HilbertError, ValueError):
    """A folder of tensors and settings that cannot be read."""


def write_tensor_folder(folder: Path, tensors: "Mapping[str, Tensor]", files: Mapping[str, str]) -> None:
    """Write `folder`/model.safetensors and text files by name, replacing an older folder as a whole.

    Other files in the folder are kept; its own files are then replaced one by one.
    """
    from safetensors.torch import save_file  # loads torch, which not everything in this room needs

    # In the same parent folder: a rename is atomic only within one file system.
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, fresh / WEIGHTS)
    for name, text in files.items():
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
        TensorFolderError: when either is absent, damaged, a link that leaves the folder, or of another
            schema.
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
            f"{folder} cannot be read: {error}; it must hold {name} and {WEIGHTS}"
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
    return values, tensors
