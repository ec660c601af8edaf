"""Dropout: the share it drops, the mean it keeps, and that its mask repeats with the random state."""

import pytest
import torch

from hilbert_ray.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.4, 0.8, 1 / 3])
def test_a_share_is_dropped_and_the_others_are_scaled_so_that_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1003)
    dropped = Dropout(p)(x)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / (1 - p), rel=1e-4)]
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert float((dropped == 0).double().mean()) == pytest.approx(p, abs=5 * spread + 2**-17)
    assert float(dropped.double().mean()) == pytest.approx(1, abs=5 * spread / (1 - p))


def test_every_number_of_a_draw_is_dropped_alike_and_independently() -> None:
    """Four neighbours share 64 bits; each is dropped as often as the others, and pairs as chance has it."""
    torch.manual_seed(1)
    kept = (Dropout(0.4)(torch.ones(250_000, 4)) > 0).double()
    torch.testing.assert_close(kept.mean(0), torch.full((4,), 0.6).double(), rtol=0, atol=0.005)
    expected = torch.full((4, 4), 0.36).double().fill_diagonal_(0.6)
    torch.testing.assert_close(kept.T @ kept / len(kept), expected, rtol=0, atol=0.005)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_stay_and_the_mask_is_the_gradient(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(2)
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    dropped = Dropout(0.5)(x)
    dropped.sum().backward()
    assert (dropped.shape, dropped.dtype) == (x.shape, dtype)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, dropped.detach())


def test_the_mask_repeats_with_the_random_state_and_changes_without() -> None:
    x, layer = torch.ones(10_000), Dropout(0.5)
    state = torch.get_rng_state()
    first, second = layer(x), layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_outside_training_or_with_a_share_of_0() -> None:
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_a_probability_outside_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="the probability must be at least 0 and below 1"):
        Dropout(p)
