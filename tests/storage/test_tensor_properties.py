"""Tensors of any type and layout come back from a folder as they are, and paths keep their meaning."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.storage.tensor_folder import read_tensor_folder, write_tensor_folder
from hilbert_ray.storage.uri import absolute, is_local, is_uri, local_path

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back_whatever_their_type_shape_and_layout(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = (100 * torch.rand(6, 8, generator=generator)).to(dtype)
    tensors = {
        "whole": whole,
        "scalar": whole[0, 0].clone(),
        "transposed": whole.clone().T,
        "strided": whole.clone()[::2, 1::3],
        "expanded": whole[:1].clone().expand(4, 8),
        "empty": whole[:0].clone(),
    }
    write_tensor_folder(tmp_path / "model", tensors, {"config.json": json.dumps({"schema": 3, "x": 0.1})})
    values, found = read_tensor_folder(tmp_path / "model", "config.json", 3, "write it again")
    assert values["x"] == pytest.approx(0.1, rel=1e-16)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (dtype, tensor.shape)
        np.testing.assert_allclose(found[name].double(), tensor.double(), rtol=0, atol=0)


def test_weights_that_need_gradients_are_stored_by_value_and_without_them(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
    write_tensor_folder(tmp_path / "model", {"weight": weight}, {"c.json": '{"schema": 1}'})
    with torch.no_grad():
        weight.zero_()
    _, found = read_tensor_folder(tmp_path / "model", "c.json", 1, "write it again")
    np.testing.assert_allclose(found["weight"].flatten(), np.linspace(-1, 1, 12), atol=1e-7)
    assert not found["weight"].requires_grad


names = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="._- "), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4), st.integers(0, 3)
)
def test_an_absolute_name_is_made_once_and_keeps_its_kind(parts: list[str], slashes: int) -> None:
    path = "/".join(parts)
    for prefix in ("", "/", "file:///", "s3://"):
        made = absolute(prefix + path + "/" * slashes)
        assert absolute(made) == made
        assert is_uri(made) == is_uri(prefix)
        assert is_local(made) == (prefix != "s3://")
        own = local_path(made)
        assert (own is None) == (prefix == "s3://")
        assert own is None or own == os.path.abspath(("" if prefix == "" else "/") + path)
