"""Checkpoints: where training stands at the end of an epoch, and the newest ones of a run.

Random states need not be saved: each epoch seeds its own generators, see `LoopState.seed_epoch`.
"""

import json
import logging
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
from hilbert_ray.run import RunDir
from hilbert_ray.storage import (
    WEIGHTS,
    DamagedError,
    Files,
    TensorFolderError,
    read_tensor_folder,
    write_tensor_folder,
)

log = logging.getLogger(__name__)
SCHEMA = 1
"""Of a checkpoint; a version of this package reads its own schema only."""
STATE_FILES = (WEIGHTS, "state.json")
"""The files of a checkpoint, in the order in which they are written: one without the last is incomplete."""


class CheckpointError(HilbertError, ValueError):
    """A checkpoint that is incomplete, or belongs to another version or configuration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Where a training run stands at the end of an epoch.

    job: number of the network that is being trained (inner folds first, then the seeds). epoch: how many of
    its epochs are done, over both phases. network, optimizer: its tensors. finished: tensors of the networks
    before it, by number. history: one record per epoch, over all networks. best: the network's tensors at its
    least validation loss so far, empty without early stopping. average: the moving average of its weights,
    empty without `fit.ema`.
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
    # One flat file of tensors: the first part of a name says which field, what is JSON goes to state.json.
    values = {"schema": SCHEMA, "job": state.job, "epoch": state.epoch, "history": state.history}
    write_tensor_folder(folder, tensors, {"state.json": json.dumps(values, indent=1)})


def read_state(folder: Path) -> TrainingState:
    """Read a training state back.

    Raises:
        CheckpointError: when the folder is incomplete or of another schema version.
        DamagedError: when a file is not what was written.
    """
    try:
        values, tensors = read_tensor_folder(folder, "state.json", SCHEMA, "delete it to start again")
    except TensorFolderError as error:
        raise CheckpointError(f"checkpoint {error}; delete it to start again") from error
    finished: dict[int, dict[str, Tensor]] = {}
    by_field: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "best": {}, "average": {}}
    for key, tensor in tensors.items():
        field_name, name = key.split("/", 1)
        if field_name == "finished":
            job, name = name.split("/", 1)
            finished.setdefault(int(job), {})[name] = tensor
        else:
            by_field[field_name][name] = tensor
    return TrainingState(
        job=values["job"], epoch=values["epoch"], history=values["history"], finished=finished, **by_field
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state by parameter name, as `load_optimizer` takes it."""
    # By name, where torch's own `state_dict` has numbers: those change with the order of parameter groups.
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}/{key}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` returned, each tensor on its parameter's device."""
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        name, _, field_name = key.rpartition("/")
        parameter = parameters[name]
        # Step counts too: a fused optimiser (`new_optimizer`) reads them in its kernel.
        optimizer.state[parameter][field_name] = tensor.to(parameter.device)


_CHECKPOINT = re.compile(r"/(\d{6}-[0-9a-f]{8})\.(model\.safetensors|state\.json)$")
_KEPT = 2
"""Checkpoints kept: a process about to read the newest still finds it after another has written one more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _CheckpointFile:
    """A file of a checkpoint: its path in the run, the checkpoint's name, and one of `STATE_FILES`."""

    path: str
    checkpoint: str
    file: str


class Checkpoints:
    """The checkpoints of a run, RUN/checkpoints/NAME/EPOCHS-RANDOM.state.json and the tensors of each.

    An object store has no rename, so that completeness is by order: state.json is written last, and tensors
    without one, as a killed process leaves them, are ignored. Workers of a killed driver may still write for
    some seconds: names are never used twice.
    """

    def __init__(self, run: str, name: str) -> None:
        self._files, self._folder = Files(run), f"{RunDir.CHECKPOINTS}/{name}"

    def save(self, state: TrainingState) -> None:
        """Write one, and delete all but the newest two."""
        # Epochs first in the name: the order of names is that of progress, whichever process wrote them.
        name = f"{len(state.history):06}-{secrets.token_hex(4)}"
        with tempfile.TemporaryDirectory() as folder:
            write_state(Path(folder) / "state", state)
            for file in STATE_FILES:
                self._files.put_from(self._path(name, file), f"{folder}/state/{file}")
        files = self._list()
        oldest_kept = _complete(files)[-_KEPT:][0]
        # Newest first, so that a state.json goes before its tensors: no reader sees one without them.
        for listed in reversed(files):
            if listed.checkpoint < oldest_kept:
                self._files.delete(listed.path)

    def newest(self) -> str:
        """Return the name of the newest one that can be read; empty if there is none.

        A damaged one is passed over with a warning.

        Raises:
            CheckpointError, DamagedError: when there are some, and none can be read.
        """
        unreadable: HilbertError | None = None
        for name in reversed(_complete(self._list())):
            try:
                self.read(name)
            except (CheckpointError, DamagedError) as error:
                log.warning("%s: resuming from the one before", error)
                unreadable = unreadable or error
            else:
                return name
        if unreadable:
            raise unreadable
        return ""

    def read(self, name: str) -> TrainingState:
        """Read one back.

        Raises:
            CheckpointError: when it is incomplete or of another schema version.
            DamagedError: when a file is not what was written.
        """
        with tempfile.TemporaryDirectory() as folder:
            for file in STATE_FILES:
                with suppress(FileNotFoundError):
                    (Path(folder) / file).write_bytes(self._files.read(self._path(name, file)))
            try:
                return read_state(Path(folder))
            except (CheckpointError, DamagedError) as error:
                # The message names the copy; the user knows the original.
                original = f"{self._files.uri}/{self._path(name, '')}"
                message = str(error).replace(f"{folder}/", original).replace(folder, original)
                raise type(error)(message) from error

    def _path(self, name: str, file: str) -> str:
        return f"{self._folder}/{name}.{file}"

    def _list(self) -> list[_CheckpointFile]:
        """Return all their files, oldest first, the tensors of each before its state.json."""
        matches = map(_CHECKPOINT.search, self._files.names(self._folder))
        return [
            _CheckpointFile(path=match.string, checkpoint=match[1], file=match[2])
            for match in matches
            if match
        ]


def _complete(files: Sequence[_CheckpointFile]) -> list[str]:
    """Return the names of the complete checkpoints, oldest first."""
    return [listed.checkpoint for listed in files if listed.file == STATE_FILES[-1]]
