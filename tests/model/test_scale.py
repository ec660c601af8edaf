"""The contrastive scale: bounded, and able to come back from its bound."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.model import network
from hilbert_ray.model.network import MAX_SCALE, Network
from hilbert_ray.training import fit
from tests import make

CONFIG = Config(
    tasks={"heard": TaskConfig(kind="binary", classes=("no", "yes"))},
    model=ModelConfig(dim=8, hops=1),
    fit=FitConfig(epochs=1, seeds=1, batch_size=16),
    folds=FoldsConfig(inner=0),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scale_beyond_its_bound_has_a_gradient_after_the_step(dtype: torch.dtype) -> None:
    """The clamp alone left it without any: the scale stayed at its bound for the rest of the training."""
    net = Network(CONFIG, {"audio": 12, "text": 20}).to(dtype)
    with torch.no_grad():
        net.logit_scale.fill_(math.log(MAX_SCALE) + 0.5)
    assert net.scale == MAX_SCALE
    net.bound_scale()
    assert net.scale <= MAX_SCALE
    scale = net.scale.detach().item()
    assert scale == pytest.approx(MAX_SCALE, rel=1e-5)
    net.scale.backward()  # type: ignore[no-untyped-call]
    assert net.logit_scale.grad is not None
    assert net.logit_scale.grad.item() == pytest.approx(scale)


def test_a_scale_within_its_bound_is_left_as_it_is() -> None:
    net = Network(CONFIG, {"audio": 12, "text": 20})
    before = net.logit_scale.detach().clone()
    net.bound_scale()
    assert torch.equal(net.logit_scale, before)


def test_training_brings_a_scale_back_from_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "FIRST_SCALE", 2 * MAX_SCALE)
    # Random pairs at a scale of 100: the contrastive loss falls with the scale.
    settings = replace(CONFIG.fit, epochs=3, learning_rate=0.02)
    fitted = fit(replace(CONFIG, fit=settings), make.features(32, groups=8), np.arange(32))
    assert fitted.networks[0].scale.item() < 0.99 * MAX_SCALE
