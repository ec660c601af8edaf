"""Saving and restoring without pickle: tensors as safetensors, everything else as JSON.

A folder is written under a temporary name and renamed, so a reader sees a whole one or none; of a folder
nothing is read but its JSON file and model.safetensors, and nothing is executed. The random state of training
needs no saving: each epoch seeds its own generators from (seed, network, epoch, rank), see `fit`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SCHEMA = 1
WEIGHTS = "model.safetensors"
STATE_FILES = (WEIGHTS, "state.json")
"""The files of a checkpoint."""


class FolderError(ValueError):
    """A folder of tensors and settings that cannot be read."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another version or configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Where a training run stands at the end of an epoch.

    job: which of the run's networks is being trained (inner folds first, then the seeds); epoch: how many of
    its epochs are done, over both phases; network, optimizer: its tensors; finished: tensors of the networks
    before it, by job; history: one record an epoch, over all jobs; best: the network's tensors at its least
    validation loss so far, empty without early stopping; average: the moving average of its weights, empty
    without `fit.ema`.
    """

    job: int
    epoch: int
    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    finished: dict[int, dict[str, Tensor]]
    history: list[dict[str, Any]]
    best: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)


def write_folder(folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, str]) -> None:
    """Write `folder`/model.safetensors beside text files by name, replacing an older one as a whole.

    What else the folder holds is kept; its files are then replaced one by one.
    """
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, fresh / WEIGHTS)
    for name, text in files.items():
        (fresh / name).write_text(text, encoding="utf-8")
    if folder.exists() and {path.name for path in folder.iterdir()} - {WEIGHTS, *files}:
        for path in fresh.iterdir():
            path.replace(folder / path.name)
        fresh.rmdir()
    else:
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)


def read_folder(folder: Path, name: str, schema: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON object `folder`/`name` and the tensors of `folder`/model.safetensors.

    Raises:
        FolderError: when either is absent, damaged or a link that leaves the folder, or of another schema.
    """
    try:
        paths = [folder / name, folder / WEIGHTS]
        for path in paths:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise FolderError(
                    f"{path} is a link to {path.resolve()}, outside the folder; a folder must hold its files "
                    "itself, so that nothing else is read: copy them there"
                )
        values = json.loads(paths[0].read_text(encoding="utf-8"))
        tensors = load_file(paths[1])
    except FolderError:
        raise
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise FolderError(f"{folder} cannot be read: {error}; it must hold {name} and {WEIGHTS}") from error
    if not isinstance(values, dict):
        raise FolderError(f"{folder / name} holds a {type(values).__name__}; it must hold a JSON object")
    if values.get("schema") != schema:
        writer = values.get("version")
        raise FolderError(
            f"{folder} has schema {values.get('schema')!r}; this version reads schema {schema}: use "
            f"{f'hilbert-ray {writer}' if writer else 'the version'}, which wrote it"
        )
    return values, tensors


def save(folder: Path, state: TrainingState) -> None:
    """Write a training state as `folder`."""
    tensors = {f"network/{name}": tensor for name, tensor in state.network.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in state.average.items()}
    for job, network in state.finished.items():
        tensors |= {f"finished/{job}/{name}": tensor for name, tensor in network.items()}
    values = {"schema": SCHEMA, "job": state.job, "epoch": state.epoch, "history": state.history}
    write_folder(folder, tensors, {"state.json": json.dumps(values, indent=1)})


def restore(folder: Path) -> TrainingState:
    """Read a training state back.

    Raises:
        CheckpointError: when the folder is incomplete, damaged or of another schema version.
    """
    try:
        values, tensors = read_folder(folder, "state.json", SCHEMA)
    except FolderError as error:
        raise CheckpointError(f"checkpoint {error}; delete it to start afresh") from error
    finished: dict[int, dict[str, Tensor]] = {}
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "best": {}, "average": {}}
    for key, tensor in tensors.items():
        part, name = key.split("/", 1)
        if part == "finished":
            job, name = name.split("/", 1)
            finished.setdefault(int(job), {})[name] = tensor
        else:
            parts[part][name] = tensor
    return TrainingState(
        job=values["job"], epoch=values["epoch"], history=values["history"], finished=finished, **parts
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state by parameter name, as `load_optimizer` takes it."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned, each on its parameter's device."""
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        device = torch.device("cpu") if field == "step" else parameter.device
        optimizer.state[parameter][field] = tensor.to(device)
