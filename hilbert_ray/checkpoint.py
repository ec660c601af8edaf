"""Saving and restoring without pickle: tensors as safetensors, everything else as JSON.

A folder is written under a temporary name and renamed, so a reader sees a whole one or none. The random state
of training needs no saving: each epoch seeds its own generators from (seed, network, epoch, rank), see `fit`.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SCHEMA = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another version or configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Where a training run stands at the end of an epoch.

    job: which of the run's networks is being trained (inner folds first, then the seeds); epoch: how many of
    its epochs are done, over both phases; network, optimizer: its tensors; finished: tensors of the networks
    before it, by job; history: one record an epoch, over all jobs.
    """

    job: int
    epoch: int
    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    finished: dict[int, dict[str, Tensor]]
    history: list[dict[str, Any]]


def write_folder(folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, str]) -> None:
    """Write `folder`/model.safetensors beside text files by name, replacing the folder as a whole."""
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        fresh / "model.safetensors",
    )
    for name, text in files.items():
        (fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def save(folder: Path, state: TrainingState) -> None:
    """Write a training state as `folder`."""
    tensors = {f"network/{name}": tensor for name, tensor in state.network.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    for job, network in state.finished.items():
        tensors |= {f"finished/{job}/{name}": tensor for name, tensor in network.items()}
    values = {"schema": SCHEMA, "job": state.job, "epoch": state.epoch, "history": state.history}
    write_folder(folder, tensors, {"state.json": json.dumps(values, indent=1)})


def restore(folder: Path) -> TrainingState:
    """Read a training state back.

    Raises:
        CheckpointError: when the folder is incomplete or of another schema version.
    """
    try:
        values = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {folder} cannot be read: {error}; delete it to start afresh"
        ) from error
    if values.get("schema") != SCHEMA:
        raise CheckpointError(
            f"checkpoint {folder} has schema {values.get('schema')}; this version reads {SCHEMA}: use the "
            "version that wrote it, or delete it to start afresh"
        )
    finished: dict[int, dict[str, Tensor]] = {}
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}}
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
