"""The optimiser: torch's AdamW to the last bit, without torch's compiler."""

import sys

import numpy as np
import pytest
import torch

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.training.loop import fit
from hilbert_ray.training.optimization import EagerAdamW
from tests import make


def trained_by(
    optimizer_class: type[torch.optim.AdamW], steps: int
) -> tuple[torch.Tensor, dict[str, object]]:
    """Return the weights after some steps on a noisy quadratic, half-way through a saved state."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(7, 5, generator=generator))
    optimizer = optimizer_class([{"params": [weights], "weight_decay": 0.1}], lr=0.05, fused=True)
    for step in range(steps):
        if step == steps // 2:
            saved = optimizer.state_dict()
            optimizer = optimizer_class([{"params": [weights]}], lr=1.0, fused=True)
            optimizer.load_state_dict(saved)
        optimizer.zero_grad()
        (weights - torch.randn(7, 5, generator=generator)).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weights.detach(), optimizer.state_dict()


def test_steps_are_those_of_torchs_adamw_to_the_last_bit() -> None:
    weights, state = trained_by(EagerAdamW, 20)
    expected, expected_state = trained_by(torch.optim.AdamW, 20)
    assert torch.equal(weights, expected)
    assert str(state) == str(expected_state)


def test_training_does_not_load_torchs_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # importing it raises ImportError
    config = Config(
        model=ModelConfig(dim=8, hops=1),
        fit=FitConfig(epochs=1, seeds=1, batch_size=16),
        folds=FoldsConfig(inner=0),
        tasks={"heard": TaskConfig(kind="binary", classes=("no", "yes"))},
    )
    fitted = fit(config, make.features(24, groups=4), np.arange(24))
    assert np.isfinite(fitted.history[-1]["loss"])
