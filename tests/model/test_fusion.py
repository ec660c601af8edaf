"""Fusion and pooling: golden values, the formulas one document at a time, masks, and edge cases."""

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from hilbert_ray.model.fusion import (
    CrossAttention,
    CrossModalFusion,
    SelfAttentivePool,
    redundancy_penalty,
    time_embedding,
)

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden_objectives.json").read_text())[
    "pooling"
]
LENGTHS = {"audio": (5, 1, 0, 3), "text": (2, 4, 4, 0)}


def doubles(values: Any) -> Tensor:  # noqa: ANN401 - nested lists
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return a float64 leaf that wants a gradient."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def golden_pool() -> tuple[SelfAttentivePool, Tensor, Tensor]:
    """Return a pool with the golden weights, which returns its hops side by side, and the golden inputs."""
    inputs = GOLDEN["inputs"]
    w1, b1, w2 = (doubles(inputs[name]) for name in ("w1", "b1", "w2"))
    pool = SelfAttentivePool(w1.shape[1], hops=len(w2), hidden_dim=len(w1)).double()
    pool.projection = nn.Identity()
    with torch.no_grad():
        pool.w1.weight.copy_(w1)
        pool.w1.bias.copy_(b1)
        pool.w2.weight.copy_(w2)
    return pool, doubles(inputs["hidden"]), torch.tensor(inputs["mask"])


# Pooling


def test_pooling_has_the_golden_values() -> None:
    pool, hidden, mask = golden_pool()
    pooled, attention = pool(hidden, mask)
    torch.testing.assert_close(attention, doubles(GOLDEN["attention"]), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(pooled, doubles(GOLDEN["pooled"]).flatten(1), rtol=1e-9, atol=1e-15)
    assert redundancy_penalty(attention, "lin").mean().item() == pytest.approx(
        GOLDEN["redundancy_penalty"], rel=1e-9
    )


@pytest.mark.parametrize("form", ["off_diagonal", "lin"])
def test_the_penalty_equals_its_formula(form: Literal["off_diagonal", "lin"]) -> None:
    attention = random(3, 4, 7).softmax(dim=-1).detach()
    for a, penalty in zip(attention, redundancy_penalty(attention, form), strict=True):
        overlap = a @ a.T
        expected = sum(
            float(overlap[h, k] - (1 if h == k and form == "lin" else 0)) ** 2
            for h in range(4)
            for k in range(4)
            if h != k or form == "lin"
        )
        assert penalty.item() == pytest.approx(expected, rel=1e-12)


def test_hops_on_different_segments_have_no_penalty_and_equal_hops_the_largest() -> None:
    apart, alike = torch.eye(3)[None], torch.eye(3)[:1].expand(1, 3, 3)
    assert redundancy_penalty(apart) == redundancy_penalty(apart, "lin") == 0
    assert redundancy_penalty(alike) == 3 * 2


def test_padding_reaches_neither_the_pooled_vector_nor_its_gradients() -> None:
    hidden, mask = random(4, 5, 6), mask_of(LENGTHS["audio"])
    pool = SelfAttentivePool(6, hops=2).double()
    with torch.no_grad():
        filled = hidden.masked_fill(~mask[..., None], math.inf).requires_grad_()
    pooled, attention = pool(hidden, mask)
    again, _ = pool(filled, mask)
    torch.testing.assert_close(again, pooled, rtol=0, atol=0)
    torch.testing.assert_close(attention.sum(dim=2)[mask.any(1)], torch.ones(3, 2, dtype=torch.float64))
    assert not (attention * ~mask[:, None, :]).any()
    assert not attention[~mask.any(1)].any(), "a document without segments attends to nothing"
    pooled.square().sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[~mask].any()
    assert hidden.grad[mask].any(dim=1).all()


def test_pooling_one_segment_gives_that_segment() -> None:
    pool = SelfAttentivePool(6, hops=2).double()
    pool.projection = nn.Identity()
    hidden = random(3, 1, 6)
    pooled, attention = pool(hidden, torch.ones(3, 1, dtype=torch.bool))
    torch.testing.assert_close(pooled, hidden.expand(3, 2, 6).flatten(1))
    assert (attention == 1).all()


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_pooling_and_fusion_stay_finite_on_constant_and_huge_values(size: float) -> None:
    torch.manual_seed(0)
    pool, fusion = SelfAttentivePool(8, hops=2), CrossModalFusion(8, layers=2, heads=2, dropout=0.0)
    audio = torch.full((4, 5, 8), size).requires_grad_()
    text = torch.full((4, 4, 8), -size).requires_grad_()
    masks = mask_of(LENGTHS["audio"]), mask_of(LENGTHS["text"])
    fused = fusion(audio, text, *masks)
    pooled, attention = pool(fused.audio, masks[0])
    (pooled.square().mean() + redundancy_penalty(attention).mean() + fused.text.mean()).backward()
    for x in (pooled, attention, audio.grad, text.grad, *(p.grad for p in fusion.parameters())):
        assert x is not None
        assert x.isfinite().all()


def test_the_penalty_is_computed_in_float32_under_autocast() -> None:
    attention = random(3, 2, 9).softmax(dim=-1).detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = redundancy_penalty(attention)
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, redundancy_penalty(attention.float()), rtol=0, atol=0)


# Cross-modal attention


def by_hand(attention: CrossAttention, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Return what one document's queries read, and the mean of the weights over heads, head by head."""
    query, (key, value) = attention.query(x), attention.key_value(context).chunk(2, dim=1)
    width = x.shape[1] // attention.heads
    read, weights = [], []
    for head in range(attention.heads):
        own = slice(head * width, (head + 1) * width)
        weight = torch.softmax(query[:, own] @ key[:, own].T / math.sqrt(width), dim=1)
        read.append(weight @ value[:, own])
        weights.append(weight)
    return attention.output(torch.cat(read, dim=1)), torch.stack(weights).mean(0)


@pytest.mark.parametrize("need_attention", [False, True])
def test_attention_equals_the_formula_a_document_at_a_time(need_attention: bool) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(6, heads=3).double()
    x, context, lengths = random(4, 3, 6, seed=1), random(4, 4, 6, seed=2), LENGTHS["text"]
    read, weights = attention(x, context, mask_of(lengths), need_attention)
    assert (weights is not None) == need_attention
    for i, length in enumerate(lengths):
        if not length:
            assert not read[i].any(), "nothing to read gives zeros"
            continue
        expected, shares = by_hand(attention, x[i], context[i, :length])
        torch.testing.assert_close(read[i], expected)
        if weights is not None:
            torch.testing.assert_close(weights[i, :, :length], shares)
            torch.testing.assert_close(weights[i].sum(dim=1), torch.ones(3, dtype=torch.float64))
            assert not weights[i, :, length:].any()


def test_the_fast_path_equals_the_one_that_shows_its_weights_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    fusion = CrossModalFusion(8, layers=2, heads=2, dropout=0.0).double()
    audio, text = random(4, 5, 8, seed=1), random(4, 4, 8, seed=2)
    masks = mask_of(LENGTHS["audio"]), mask_of(LENGTHS["text"])
    both = [fusion(audio, text, *masks, need_attention) for need_attention in (False, True)]
    gradients = []
    for fused in both:
        loss = fused.audio[masks[0]].square().sum() + fused.text[masks[1]].sum()
        gradients.append(torch.autograd.grad(loss, (audio, text, *fusion.parameters())))
    torch.testing.assert_close(both[0].audio[masks[0]], both[1].audio[masks[0]])
    torch.testing.assert_close(both[0].text[masks[1]], both[1].text[masks[1]])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_both_directions_of_a_layer_read_the_layer_before() -> None:
    torch.manual_seed(0)
    fusion = CrossModalFusion(8, layers=1, heads=2, dropout=0.0).double()
    layer: Any = fusion.layers[0]
    audio, text = random(2, 5, 8, seed=1), random(2, 4, 8, seed=2)
    here = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    a, t = layer.audio_norm(audio), layer.text_norm(text)
    heard = audio + layer.audio_to_text(a, t, here[1])[0]
    read = text + layer.text_to_audio(t, a, here[0])[0]
    fused = fusion(audio, text, *here)
    torch.testing.assert_close(fused.audio, heard + layer.audio_feed_forward(heard))
    torch.testing.assert_close(fused.text, read + layer.text_feed_forward(read))


def test_no_layer_is_the_identity() -> None:
    fusion = CrossModalFusion(8, layers=0, heads=2, dropout=0.5)
    audio, text = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    fused = fusion(audio, text, torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool), True)
    assert fused.audio is audio
    assert fused.text is text
    assert fused.audio_to_text is None
    assert not list(fusion.parameters())


def test_padding_changes_nothing_that_is_read() -> None:
    torch.manual_seed(0)
    fusion = CrossModalFusion(8, layers=2, heads=2, dropout=0.0).double()
    masks = mask_of(LENGTHS["audio"]), mask_of(LENGTHS["text"])
    audio, text = random(4, 5, 8, seed=1).detach(), random(4, 4, 8, seed=2).detach()
    fused = fusion(audio, text, *masks)
    other = fusion(
        torch.where(masks[0][..., None], audio, 99.0), torch.where(masks[1][..., None], text, -99.0), *masks
    )
    torch.testing.assert_close(other.audio[masks[0]], fused.audio[masks[0]], rtol=0, atol=1e-12)
    torch.testing.assert_close(other.text[masks[1]], fused.text[masks[1]], rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    fusion = CrossModalFusion(4, layers=1, heads=2, dropout=0.0).double()
    pool = SelfAttentivePool(4, hops=2).double()
    masks = mask_of((2, 1)), mask_of((1, 3))

    def through(audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        pooled, attention = pool(fusion(audio, text, *masks).audio, masks[0])
        return pooled, redundancy_penalty(attention, "lin")

    assert torch.autograd.gradcheck(through, (random(2, 2, 4, seed=1), random(2, 3, 4, seed=2)))


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="attention of dim 10 with 4 heads: heads must divide dim"):
        CrossModalFusion(10, layers=1, heads=4, dropout=0.0)


# Time


def test_the_time_embedding_holds_sines_and_cosines_of_rising_frequency() -> None:
    embedding = time_embedding(doubles([[0.0, 0.25, 1.0]]), 6)[0]
    cycles = [0.5 * 512 ** (k / 2) for k in range(3)]
    for position, row in zip((0.0, 0.25, 1.0), embedding, strict=True):
        angles = [2 * math.pi * c * position for c in cycles]
        expected = [*(math.sin(a) for a in angles), *(math.cos(a) for a in angles)]
        torch.testing.assert_close(row, doubles(expected), rtol=1e-9, atol=1e-9)


def test_start_end_and_neighbours_of_a_long_recording_can_be_told_apart() -> None:
    embedded = time_embedding((torch.arange(1000) + 0.5)[None] / 1000, 64)[0]
    distance = torch.cdist(embedded, embedded) + 99 * torch.eye(1000)
    assert distance.min() > 1
    assert distance[0, -1] > 1


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="time embedding of dim 7: sines and cosines come in pairs"):
        time_embedding(torch.zeros(1, 2), 7)
