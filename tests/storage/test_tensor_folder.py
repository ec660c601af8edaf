"""Folders of tensors: whole or not at all, nothing executed, nothing read from elsewhere."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hilbert_ray.storage.files import DamagedError
from hilbert_ray.storage.tensor_folder import TensorFolderError, read_tensor_folder, write_tensor_folder
from hilbert_ray.training.checkpoints import (
    CheckpointError,
    TrainingState,
    load_optimizer,
    optimizer_tensors,
    read_state,
    write_state,
)

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}
VALUES = {"schema": 1, "version": "9.9", "names": ["é", "b"]}


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return read_tensor_folder(folder, "config.json", 1, "write it again")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tensor_folder(
        tmp_path / "model", TENSORS, {"config.json": json.dumps(VALUES), "README.md": "a card"}
    )
    return tmp_path / "model"


def test_a_folder_reads_back_as_it_was_written(folder: Path) -> None:
    values, tensors = read(folder)
    assert values == VALUES
    assert set(tensors) == set(TENSORS)
    assert all(
        torch.equal(tensors[name], x) and tensors[name].dtype == x.dtype for name, x in TENSORS.items()
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "no temporary folder is left"


def test_a_folder_is_replaced_as_a_whole(folder: Path) -> None:
    write_tensor_folder(
        folder, {"c": torch.ones(1)}, {"config.json": json.dumps({"schema": 1}), "README.md": ""}
    )
    values, tensors = read(folder)
    assert (values, list(tensors)) == ({"schema": 1}, ["c"])


def test_a_folder_that_cannot_be_written_leaves_the_older_one_whole(folder: Path) -> None:
    with pytest.raises(TypeError):
        write_tensor_folder(folder, {"c": torch.ones(1)}, {"config.json": 3})  # type: ignore[dict-item]
    assert read(folder)[0] == VALUES


def test_files_of_others_are_kept(folder: Path) -> None:
    """Publishing into a folder that holds more (a repository, one's home) must not empty it."""
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    write_tensor_folder(folder, {"c": torch.ones(1)}, {"config.json": json.dumps({"schema": 1})})
    assert (folder / "notes" / "mine.txt").read_text() == "mine"
    assert (folder / "README.md").read_text() == "a card"
    assert list(read(folder)[1]) == ["c"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


class Trap:
    """Something that runs code when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return Path.write_text, (self.sprung, "sprung")  # type: ignore[return-value]


def test_no_pickle_is_executed(folder: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists(), "the trap works"
    sprung.unlink()
    for name in ("pytorch_model.bin", "model.pt", "optimizer.pt"):
        (folder / name).write_bytes(trap)
    read(folder)
    (folder / "model.safetensors").write_bytes(trap)
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
        read(folder)
    torch.save(TENSORS, folder / "model.safetensors")
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
        read(folder)
    (folder / "model.safetensors").unlink()
    torch.save(TENSORS, folder / "pytorch_model.bin")
    with pytest.raises(
        TensorFolderError, match=r"cannot be read: .*it must hold config\.json and model\.safetensors"
    ):
        read(folder)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(Path("..") / name)
    with pytest.raises(TensorFolderError, match=r"is a link to .*, outside the folder; .*copy them there"):
        read(folder)
    linked = tmp_path / "linked"
    (folder / name).unlink()
    (tmp_path / name).rename(folder / name)
    linked.symlink_to(folder)
    assert read(linked)[0] == VALUES, "the folder itself may be a link"


def test_an_index_of_weights_elsewhere_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(TENSORS, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TensorFolderError, match=r"it must hold config\.json and model\.safetensors"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"schema": 2, "version": "9.9"}',
            "has schema 2; this version reads schema 1: use hilbert-ray 9.9",
        ),
        (b'{"names": []}', "has schema None; this version reads schema 1"),
        (b'{"schema": "1"}', "has schema '1'; this version reads schema 1"),
    ],
)
def test_settings_of_another_schema_are_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(TensorFolderError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "JSONDecodeError: Expecting property name"),
        (b"\xff\xfe", "UnicodeDecodeError: 'utf-8' codec"),
        (b"[" * 100_000, "RecursionError: maximum recursion depth"),
        (b"[1]", "a list, not a JSON object"),
    ],
)
def test_settings_that_cannot_be_read_are_damaged(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(DamagedError, match=rf"config\.json is damaged \({message}.*; write it again"):
        read(folder)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_tensor_folder(tmp_path / "model", TENSORS, {"config.json": json.dumps(VALUES)})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors"), 0o666 & ~umask)


def test_a_full_disk_leaves_the_older_folder_whole(folder: Path) -> None:
    """A bound on the size of files fails as a full disk does: after some bytes."""
    code = (
        "import resource, sys, torch; from pathlib import Path\n"
        "from hilbert_ray.storage import WriteError, write_tensor_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_tensor_folder(Path(sys.argv[1]), {'w': torch.ones(1000)}, {'config.json': '{}'})\n"
        "except WriteError as error: print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert shown.stdout.startswith(f"cannot write {folder}: File too large; what was there before is intact")
    assert read(folder)[0] == VALUES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_every_cut_of_the_weights_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for length in range(0, len(whole), 7):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
            read(folder)


def test_no_flipped_bit_of_either_file_is_read_as_other_values(folder: Path) -> None:
    """One bit in every byte of both files: an error, or the values that were written."""
    for name in ("config.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            (folder / name).write_bytes(flipped)
            try:
                values, tensors = read(folder)
            # A name or a schema may be what is flipped.
            except (DamagedError, TensorFolderError):
                continue
            assert {key: value for key, value in values.items() if key in VALUES} == VALUES, (name, place)
            assert all(torch.equal(tensors[key], x) for key, x in TENSORS.items()), (name, place)
        (folder / name).write_bytes(whole)


def test_an_edit_is_accepted_once_its_hashes_are_deleted(folder: Path) -> None:
    edited = json.loads((folder / "config.json").read_text())
    edited["names"] = ["c"]
    (folder / "config.json").write_text(json.dumps(edited))
    with pytest.raises(DamagedError, match=r"config\.json is damaged .*write it again.*delete the entry"):
        read(folder)
    del edited["sha256"]
    (folder / "config.json").write_text(json.dumps(edited))
    assert read(folder)[0] == VALUES | {"names": ["c"]}


# Training states


def trained() -> tuple[nn.Linear, torch.optim.AdamW]:
    """Return a layer and its optimiser after a step; the bias is frozen."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return layer, optimizer


def test_a_training_state_reads_back_and_the_optimiser_goes_on(tmp_path: Path) -> None:
    layer, optimizer = trained()
    state = TrainingState(
        job=2,
        epoch=7,
        network=dict(layer.state_dict()),
        optimizer=optimizer_tensors(optimizer, layer),
        finished={0: {"a/b": torch.ones(2)}, 1: {"c": torch.zeros(1)}},
        history=[{"job": "inner 0", "loss": 0.5}],
    )
    write_state(tmp_path / "state", state)
    restored = read_state(tmp_path / "state")
    assert (restored.job, restored.epoch, restored.history) == (state.job, state.epoch, state.history)
    torch.testing.assert_close(restored.finished, state.finished, rtol=0, atol=0)
    again = nn.Linear(3, 2)
    again.load_state_dict(restored.network)
    again.bias.requires_grad_(False)
    other = torch.optim.AdamW(again.parameters(), lr=0.1)
    load_optimizer(other, again, restored.optimizer)
    for one, adam in ((layer, optimizer), (again, other)):
        adam.zero_grad()
        one(torch.tensor([[1.0, -2.0, 3.0]])).sum().backward()
        adam.step()
    assert torch.equal(layer.weight, again.weight)


def test_a_damaged_foreign_or_absent_training_state_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    write_state(folder, TrainingState(job=0, epoch=1, network={}, optimizer={}, finished={}, history=[]))
    (folder / "state.json").write_text('{"schema": 7}')
    with pytest.raises(CheckpointError, match=r"schema 7; this version reads schema 1.*delete it to start"):
        read_state(folder)
    (folder / "state.json").write_text('{"schema": 1, "job": 0, "epoch": 1, "history": []}')
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged .*delete it to start again"):
        read_state(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path / "absent")
