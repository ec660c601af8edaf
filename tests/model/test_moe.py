"""Routing and experts: golden values, the formulas one document at a time, and the peers' losses."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hilbert_ray.config import MoEConfig
from hilbert_ray.model.moe import Experts, OrdinalThresholds, load_balance_loss, route, router_z_loss

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden_objectives.json").read_text())[
    "moe"
]
LOGITS = torch.tensor(GOLDEN["inputs"]["router_logits"], dtype=torch.float64)
TOP_K = GOLDEN["inputs"]["top_k"]
WIDTHS = {"one": 3, "a task: with a dot.": 1}


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return a float64 leaf that wants a gradient."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


# Routing


def test_gates_and_router_losses_have_the_golden_values() -> None:
    gates = route(LOGITS, TOP_K)
    expected = torch.tensor(GOLDEN["gates"], dtype=torch.float64)
    torch.testing.assert_close(gates, expected, rtol=1e-9, atol=1e-15)
    load = (gates > 0).double().mean(dim=0) / TOP_K
    assert load.tolist() == pytest.approx(GOLDEN["load_fraction"], rel=1e-12)
    assert load_balance_loss(LOGITS, TOP_K).item() == pytest.approx(GOLDEN["load_balancing_loss"], rel=1e-9)
    assert router_z_loss(LOGITS).item() == pytest.approx(GOLDEN["router_z_loss"], rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 7), experts=st.integers(1, 6), seed=st.integers(0, 1000), data=st.data())
def test_gates_and_router_losses_equal_brute_force(
    rows: int, experts: int, seed: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, experts))
    logits = 3 * random(rows, experts, seed=seed).detach()
    gates, counts, shares = route(logits, top_k), [0] * experts, [0.0] * experts
    for i in range(rows):
        p = [math.exp(float(z)) for z in logits[i]]
        chosen = sorted(range(experts), key=lambda e: -p[e])[:top_k]
        kept = sum(p[e] for e in chosen)
        for e in range(experts):
            assert gates[i, e].item() == pytest.approx(p[e] / kept if e in chosen else 0.0, rel=1e-12)
            counts[e] += e in chosen
            shares[e] += p[e] / sum(p) / rows
    expected = experts * sum(n / (rows * top_k) * share for n, share in zip(counts, shares, strict=True))
    assert load_balance_loss(logits, top_k).item() == pytest.approx(expected, rel=1e-12)
    squares = [math.log(sum(math.exp(float(z)) for z in row)) ** 2 for row in logits]
    assert router_z_loss(logits).item() == pytest.approx(sum(squares) / rows, rel=1e-9)


def test_several_routers_are_averaged() -> None:
    logits = random(9, 3, 4)
    each = [load_balance_loss(logits[:, t], 2) for t in range(3)]
    torch.testing.assert_close(load_balance_loss(logits, 2), torch.stack(each).mean())
    each = [router_z_loss(logits[:, t]) for t in range(3)]
    torch.testing.assert_close(router_z_loss(logits), torch.stack(each).mean())


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_transformers_load_balancing_loss_is_top_k_times_ours_in_value_and_gradient(top_k: int) -> None:
    """Mixtral counts top_k assignments a token and divides by the tokens alone."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    ours, theirs = random(37, 4), random(37, 4)
    actual, expected = load_balance_loss(ours, top_k), load_balancing_loss_func((theirs,), 4, top_k)
    torch.testing.assert_close(
        top_k * actual, expected, rtol=1e-6, atol=0, check_dtype=False
    )  # float32 there
    (top_k * actual).backward()  # type: ignore[no-untyped-call]
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_switch_transformers_router_losses_agree_in_value_and_gradient() -> None:
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        load_balancing_loss_func,
        router_z_loss_func,
    )

    logits = random(5, 7, 4)
    flat = logits.flatten(0, 1)
    pairs = [
        (router_z_loss(flat), router_z_loss_func(logits)),
        (
            load_balance_loss(flat, 1),
            load_balancing_loss_func(flat.softmax(-1)[None], flat.argmax(-1, keepdim=True)[None]),
        ),
    ]
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0, check_dtype=False)
        gradients = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (actual, expected))
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


def test_balanced_experts_have_loss_1_and_a_single_busy_one_the_largest() -> None:
    even = 20 * torch.eye(4, dtype=torch.float64).repeat(3, 1)
    assert load_balance_loss(even, 1).item() == pytest.approx(1)
    assert load_balance_loss(even[:1].expand(12, 4), 1).item() == pytest.approx(4, rel=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    """The fraction f_e has no gradient: a small step changes no choice."""
    logits = random(6, 2, 4)
    assert torch.autograd.gradcheck(lambda x: route(x, 2), logits)
    assert torch.autograd.gradcheck(lambda x: load_balance_loss(x, 2), logits)
    assert torch.autograd.gradcheck(router_z_loss, logits)


@pytest.mark.parametrize("rows", range(5))
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_small_batches_equal_and_huge_logits_are_finite_in_float32(rows: int, size: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (size * torch.randn(rows, 2, 4, generator=draw)).requires_grad_()
    gates = route(logits, 2)
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(rows, 2))
    assert ((gates > 0).sum(dim=-1) <= 2).all()
    loss = load_balance_loss(logits, 2) + router_z_loss(logits)
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if not rows:
        assert loss == 0


def test_routing_stays_in_float32_under_autocast() -> None:
    logits = random(9, 4).detach().bfloat16()
    expected = [route(logits.float(), 2), load_balance_loss(logits.float(), 2), router_z_loss(logits.float())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = [route(logits, 2), load_balance_loss(logits, 2), router_z_loss(logits)]
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("top_k", [0, 5])
def test_top_k_outside_the_experts_is_refused(top_k: int) -> None:
    for function in (route, load_balance_loss):
        with pytest.raises(ValueError, match=f"routing to top_k {top_k} of 4 experts: top_k must be from 1"):
            function(LOGITS, top_k)


# Experts


def test_each_task_mixes_the_experts_that_its_own_router_chooses() -> None:
    torch.manual_seed(0)
    config = MoEConfig(experts=4, top_k=2, hidden_dim=5)
    experts, x = Experts(6, WIDTHS, config, dropout=0.0).double(), random(7, 6)
    logits, router_logits = experts(x)
    assert router_logits is not None
    assert experts.router is not None
    assert list(logits) == list(WIDTHS)
    for i in range(7):
        outputs = [
            F.gelu(experts.hidden.weight[5 * e : 5 * e + 5] @ x[i] + experts.hidden.bias[5 * e : 5 * e + 5])
            for e in range(4)
        ]
        for t, (task, tower) in enumerate(zip(WIDTHS, experts.towers, strict=True)):
            z = experts.router.weight[4 * t : 4 * t + 4] @ x[i] + experts.router.bias[4 * t : 4 * t + 4]
            torch.testing.assert_close(router_logits[i, t], z)
            chosen = z.topk(2).indices
            gates = z[chosen].softmax(dim=0)
            mixed = sum(g * outputs[int(e)] for g, e in zip(gates, chosen, strict=True))
            torch.testing.assert_close(logits[task][i], tower(mixed))


def test_an_expert_that_no_task_chooses_does_not_change_a_document() -> None:
    torch.manual_seed(0)
    experts = Experts(6, {"one": 3}, MoEConfig(experts=4, top_k=1, hidden_dim=5), dropout=0.0)
    x = torch.randn(1, 6)
    before, router_logits = experts(x)
    assert router_logits is not None
    last = int(router_logits[0, 0].argmin())
    with torch.no_grad():
        experts.hidden.weight[5 * last : 5 * last + 5] += 3
    assert torch.equal(experts(x)[0]["one"], before["one"])


def test_the_plain_mlp_has_as_many_hidden_units_and_about_as_many_weights() -> None:
    sizes = {}
    for kind in ("experts", "mlp"):
        head = Experts(192, {"pattern": 4}, MoEConfig(kind=kind), dropout=0.0)
        sizes[kind] = sum(p.numel() for p in head.parameters())
        assert head.hidden.out_features == 4 * 32
    assert sizes["mlp"] == pytest.approx(sizes["experts"], rel=0.05)
    torch.manual_seed(0)
    plain, x = Experts(6, WIDTHS, MoEConfig(kind="mlp"), dropout=0.0), torch.randn(7, 6)
    logits, router_logits = plain(x)
    assert router_logits is None
    for task, tower in zip(WIDTHS, plain.towers, strict=True):
        torch.testing.assert_close(logits[task], tower(F.gelu(plain.hidden(x))))


# Ordinal thresholds


def test_thresholds_rise_whatever_their_weights_and_begin_one_apart_around_zero() -> None:
    thresholds = OrdinalThresholds(5)
    torch.testing.assert_close(thresholds.thresholds(), torch.tensor([-1.5, -0.5, 0.5, 1.5]))
    with torch.no_grad():
        thresholds.first.fill_(7.0)
        thresholds.increments.copy_(torch.tensor([-9.0, 0.0, 40.0]))
    assert (thresholds.thresholds().diff() > 0).all()
    actual = thresholds(torch.tensor([[2.0], [-3.0]]))
    torch.testing.assert_close(actual, torch.tensor([[2.0], [-3.0]]) - thresholds.thresholds())
    assert (actual.diff() < 0).all(), "P(y > k) falls with k"


def test_two_classes_have_one_threshold_and_one_class_is_refused() -> None:
    assert OrdinalThresholds(2).thresholds().tolist() == [0.0]
    with pytest.raises(
        ValueError, match="ordinal thresholds for 1 classes: an ordinal task needs at least 2"
    ):
        OrdinalThresholds(1)
