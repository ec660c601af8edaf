"""Checkpoints: where training stands at the end of an epoch, and the newest ones of a run.

The random state needs no saving: each epoch seeds its own generators, see `fit`.
"""

import json
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hilbert_ray.errors import HilbertError
from hilbert_ray.storage import WEIGHTS, Files, TensorFolderError, read_tensor_folder, write_tensor_folder

SCHEMA = 1
STATE_FILES = (WEIGHTS, "state.json")
"""The files of a checkpoint."""


class CheckpointError(HilbertError, ValueError):
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


def write_state(folder: Path, state: TrainingState) -> None:
    """Write a training state as `folder`."""
    tensors = {f"network/{name}": tensor for name, tensor in state.network.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state.optimizer.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average/{name}": tensor for name, tensor in state.average.items()}
    for job, network in state.finished.items():
        tensors |= {f"finished/{job}/{name}": tensor for name, tensor in network.items()}
    values = {"schema": SCHEMA, "job": state.job, "epoch": state.epoch, "history": state.history}
    write_tensor_folder(folder, tensors, {"state.json": json.dumps(values, indent=1)})


def read_state(folder: Path) -> TrainingState:
    """Read a training state back.

    Raises:
        CheckpointError: when the folder is incomplete, damaged or of another schema version.
    """
    try:
        values, tensors = read_tensor_folder(folder, "state.json", SCHEMA)
    except TensorFolderError as error:
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


_CHECKPOINT = re.compile(r"/(\d{6}-[0-9a-f]{8})\.(model\.safetensors|state\.json)$")


class Checkpoints:
    """The checkpoints of a run, RUN/checkpoints/NAME/EPOCHS-RANDOM.state.json and the tensors of each.

    A state.json is written last: a process that is killed leaves tensors without one, which count for
    nothing. Workers of a killed driver may still write for seconds, so no name is used twice.
    """

    def __init__(self, run: str, name: str) -> None:
        self._files, self._folder = Files(run), f"checkpoints/{name}"

    def save(self, state: TrainingState) -> None:
        """Write one, and delete all but the newest two."""
        name = f"{len(state.history):06}-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as fresh:
            write_state(Path(fresh) / "state", state)
            for file in STATE_FILES:
                self._files.put_from(self._path(name, file), f"{fresh}/state/{file}")
        found = self._found()
        oldest_kept = _whole(found)[-2:][0]
        for match in reversed(found):  # a state.json before its tensors
            if match[1] < oldest_kept:
                self._files.delete(match.string)

    def newest(self) -> str:
        """Return the name of the newest one; empty where there is none."""
        return (_whole(self._found()) or [""])[-1]

    def read(self, name: str) -> TrainingState:
        """Read one back.

        Raises:
            CheckpointError: when it is damaged or of another schema version.
        """
        with tempfile.TemporaryDirectory() as fresh:
            for file in STATE_FILES:
                with suppress(FileNotFoundError):
                    (Path(fresh) / file).write_bytes(self._files.read(self._path(name, file)))
            try:
                return read_state(Path(fresh))
            except CheckpointError as error:
                where = f"{self._files.uri}/{self._path(name, '')}"
                raise CheckpointError(str(error).replace(f"{fresh}/", where).replace(fresh, where)) from error

    def _path(self, name: str, file: str) -> str:
        return f"{self._folder}/{name}.{file}"

    def _found(self) -> list[re.Match[str]]:
        """Return all their files, oldest first; of each, group 1 is the checkpoint's name, 2 the file's."""
        found = map(_CHECKPOINT.search, self._files.names(self._folder))
        return [match for match in found if match]


def _whole(found: Sequence[re.Match[str]]) -> list[str]:
    """Return the names of the checkpoints that are whole, oldest first."""
    return [match[1] for match in found if match[2] == STATE_FILES[-1]]
