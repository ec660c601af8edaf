"""The alignment terms, their total and gradient caching: golden values, brute force, fast against plain."""

import importlib.util
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hilbert_ray import losses
from hilbert_ray.config import LossConfig
from hilbert_ray.losses import structure
from hilbert_ray.losses.contrast import nce

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden_objectives.json").read_text())
ESTIMATORS: tuple[structure.Estimator, ...] = ("unbiased", "biased")
KERNELS: tuple[structure.Kernel, ...] = ("linear", "rbf")
Term = Callable[[Tensor, Tensor, Tensor], Tensor]
TERMS: dict[str, Term] = {
    "contrastive": lambda a, t, j: losses.contrastive(a, t, j, 20.0),
    "contrastive, grouped": lambda a, t, j: losses.contrastive(a, t, j, 20.0, torch.arange(len(j)) // 2),
    "contrastive, chunked": lambda a, t, j: losses.contrastive(a, t, j, 20.0, chunk=2),
    "cka": losses.cka_loss,
    "cka, biased": lambda a, t, j: losses.cka_loss(a, t, j, "biased"),
    "cka, rbf": lambda a, t, j: losses.cka_loss(a, t, j, kernel="rbf"),
    "balance": lambda a, t, j: losses.balance(a, t, j, 20.0),
    "balance, weaker": lambda a, t, j: losses.balance(a, t, j, 20.0, gradient="weaker"),
    "balance, smile": lambda a, t, j: losses.balance(a, t, j, 20.0, "smile"),
}
"""Each alignment term and its variants, as functions of the three embeddings."""


def doubles(values: Any) -> Tensor:  # noqa: ANN401 - nested lists
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return a float64 leaf that wants a gradient."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


def three(rows: int, dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return audio, text and joint embeddings that share some of what they hold."""
    a, t, j = (random(rows, dim, seed=3 * seed + k) for k in range(3))
    return a, t, (j + a + 0.5 * t).detach().requires_grad_()


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for x, g in zip(of, _grad(loss, of), strict=True)]


def _grad(loss: Tensor, of: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, of, allow_unused=True, retain_graph=True)


def embeddings() -> tuple[Tensor, Tensor, Tensor, float, Tensor]:
    """Return the golden inputs: audio, text, joint, scale, group."""
    a, t, j = (doubles(GOLDEN["inputs"][name]).requires_grad_() for name in ("audio", "text", "joint"))
    return a, t, j, GOLDEN["inputs"]["scale"], torch.tensor(GOLDEN["inputs"]["group"])


def golden(*path: str) -> Any:  # noqa: ANN401 - numbers and nested lists
    value = GOLDEN
    for name in path:
        value = value[name]
    return pytest.approx(value, rel=1e-9, abs=0) if isinstance(value, float) else value


# Golden values


@pytest.mark.parametrize("chunk", [None, 5])
def test_nce_has_the_golden_values(chunk: int | None) -> None:
    a, t, j, scale, group = embeddings()
    for x, name in ((a, "audio"), (t, "text")):
        forward, backward = nce(x, j, scale, chunk=chunk)
        assert forward.mean().item() == golden("contrastive", f"{name}_to_joint")
        assert backward.mean().item() == golden("contrastive", f"joint_to_{name}")
    forward, backward = nce(a, j, scale, group, chunk=chunk)
    assert forward.mean().item() == golden("contrastive", "audio_to_joint_same_group_masked")
    assert backward.mean().item() == golden("contrastive", "joint_to_audio_same_group_masked")
    assert losses.contrastive(a, t, j, scale, chunk=chunk).item() == golden("contrastive", "loss")


def test_cka_has_the_golden_values() -> None:
    a, t, j, _, _ = embeddings()
    for x, name in ((a, "audio"), (t, "text")):
        assert losses.cka(x, j).item() == golden("cka", f"debiased_{name}_joint")
        assert losses.cka(x, j, "biased").item() == golden("cka", f"biased_{name}_joint")
    assert losses.cka_loss(a, t, j).item() == golden("cka", "loss")


def test_balance_has_the_golden_values() -> None:
    a, t, j, scale, _ = embeddings()
    assert losses.information(a, j, scale).item() == golden("balance", "information_audio_nats")
    assert losses.information(t, j, scale).item() == golden("balance", "information_text_nats")
    assert losses.balance(a, t, j, scale).item() == golden("balance", "loss")


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_total_has_the_golden_value_and_gradients(chunk: int | None) -> None:
    a, t, j, scale, _ = embeddings()
    terms = losses.Terms(
        contrastive=losses.contrastive(a, t, j, scale, chunk=chunk),
        cka=losses.cka_loss(a, t, j),
        balance=losses.balance(a, t, j, scale, chunk=chunk),
    )
    loss = losses.weighted_sum(terms, LossConfig(task=0.0, **GOLDEN["total"]["weights"]))
    assert loss.item() == golden("total", "loss")
    for gradient, name in zip(gradients(loss, a, t, j), ("audio", "text", "joint"), strict=True):
        torch.testing.assert_close(gradient, doubles(golden("total", f"grad_{name}")), rtol=0, atol=1e-6)


# Contrast


def brute_nce(x: Tensor, y: Tensor, scale: float, group: list[int] | None) -> float:
    """Return NCE(x, y) by the formula, one logit at a time."""
    rows = len(x)
    cosine = [
        [float(x[i] @ y[k]) / (float(x[i] @ x[i]) * float(y[k] @ y[k])) ** 0.5 for k in range(rows)]
        for i in range(rows)
    ]
    row_losses = []
    for i in range(rows):
        others = [k for k in range(rows) if k != i and (group is None or group[k] != group[i])]
        if others:
            own = scale * cosine[i][i]
            forward = math.log(sum(math.exp(scale * cosine[i][k]) for k in [i, *others])) - own
            backward = math.log(sum(math.exp(scale * cosine[k][i]) for k in [i, *others])) - own
            row_losses.append((forward + backward) / 2)
    return sum(row_losses) / len(row_losses) if row_losses else 0.0


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 9),
    dim=st.integers(1, 4),
    scale=st.floats(0.1, 40),
    groups=st.integers(1, 5) | st.none(),
    chunk=st.integers(1, 4) | st.none(),
    seed=st.integers(0, 1000),
)
def test_contrast_equals_brute_force(
    rows: int, dim: int, scale: float, groups: int | None, chunk: int | None, seed: int
) -> None:
    a, t, j = three(rows, dim, seed)
    draw = torch.Generator().manual_seed(seed)
    group = None if groups is None else torch.randint(groups, (rows,), generator=draw)
    present = torch.rand(2, rows, generator=draw) < 0.7
    members = None if group is None else [group[p].tolist() for p in present]
    expected = sum(
        brute_nce(x[p].detach(), j[p].detach(), scale, None if members is None else members[m])
        for m, (x, p) in enumerate(((a, present[0]), (t, present[1])))
    )
    actual = losses.contrastive(
        a, t, j, scale, group, audio_present=present[0], text_present=present[1], chunk=chunk
    )
    assert actual.item() == pytest.approx(expected / 2, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("rows", [2, 3, 16, 37])
def test_chunked_contrast_equals_the_plain_one_in_value_and_gradient(rows: int, grouped: bool) -> None:
    a, t, j = three(rows)
    scale = doubles(9.0).requires_grad_()
    group = torch.arange(rows) // 3 if grouped else None
    same = torch.zeros(rows, rows, dtype=torch.bool) if group is None else group[:, None] == group
    same = same & ~torch.eye(rows, dtype=torch.bool)

    def plain(x: Tensor) -> Tensor:
        logits = scale * F.normalize(x, dim=1) @ F.normalize(j, dim=1).T
        logits = logits.masked_fill(same, -math.inf)
        here = same.sum(1) < rows - 1
        rows_of = [F.cross_entropy(z[here], torch.arange(rows)[here]) for z in (logits, logits.T)]
        return (rows_of[0] + rows_of[1]) / 2 if here.any() else (x.sum() + j.sum()) * scale * 0

    expected = (plain(a) + plain(t)) / 2
    for chunk in (None, 1, 2, 5, 16, 100):
        actual = losses.contrastive(a, t, j, scale, group, chunk=chunk)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
        pairs = zip(gradients(actual, a, t, j, scale), gradients(expected, a, t, j, scale), strict=True)
        for gradient, expected_gradient in pairs:
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-13)


def test_large_batches_are_chunked_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    a, t, j = three(11)
    expected = gradients(losses.contrastive(a, t, j, 9.0), a, t, j)
    monkeypatch.setattr(losses.contrast, "MAX_KEPT_ROWS", 10)
    monkeypatch.setattr(losses.contrast, "CHUNK_ROWS", 4)
    for gradient, expected_gradient in zip(
        gradients(losses.contrastive(a, t, j, 9.0), a, t, j), expected, strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def transformers_clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    loss: Tensor = image_text_contrastive_loss(scale * x @ y.T)
    return loss


def open_clip_loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Return open_clip's ClipLoss from its file alone: the package imports torchvision, which is not here."""
    package = importlib.util.find_spec("open_clip")  # finds it without importing it
    if package is None or package.origin is None:
        pytest.skip("open_clip_torch is not installed; `make setup` installs it without its dependencies")
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(package.origin).with_name("loss.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss: Tensor = module.ClipLoss()(x, y, scale)
    return loss


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("peer", [transformers_clip_loss, open_clip_loss])
def test_the_clip_losses_of_others_agree_in_value_and_gradient(
    peer: Callable[[Tensor, Tensor, Tensor], Tensor], chunk: int | None
) -> None:
    for rows, dim in ((13, 5), (2, 7), (40, 3)):
        x, y, scale = random(rows, dim, seed=1), random(rows, dim, seed=2), doubles(14.3).requires_grad_()
        expected = peer(F.normalize(x, dim=1), F.normalize(y, dim=1), scale)
        actual = losses.info_nce(x, y, scale, chunk=chunk)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
        pairs = zip(gradients(actual, x, y, scale), gradients(expected, x, y, scale), strict=True)
        for gradient, expected_gradient in pairs:
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-14)


def test_a_document_of_the_same_group_is_no_negative() -> None:
    """Three documents, two of one group: what each of the two says of the other does not matter."""
    x = torch.eye(3, dtype=torch.float64)
    x[1] = x[0]
    assert losses.info_nce(x, x, 20.0) > 0.1
    assert losses.info_nce(x, x, 20.0, torch.tensor([0, 0, 1])) < 1e-6
    assert losses.info_nce(x, x, 20.0, torch.tensor([4, 4, 4])) == 0


def test_absent_rows_neither_count_nor_receive_gradients() -> None:
    a, t, j = three(9)
    has_audio, has_text = torch.arange(9) % 3 != 0, torch.arange(9) != 1
    both = has_audio & has_text
    contrast = losses.contrastive(a, t, j, 7.0, audio_present=has_audio, text_present=has_text)
    d_a, d_t = gradients(contrast, a, t)
    assert (d_a[~has_audio] == 0).all()
    assert (d_t[~has_text] == 0).all()
    assert (d_a[has_audio] != 0).any(1).all()
    apart = (
        losses.info_nce(a[has_audio], j[has_audio], 7.0) + losses.info_nce(t[has_text], j[has_text], 7.0)
    ) / 2
    torch.testing.assert_close(contrast, apart)
    balance = losses.balance(a, t, j, 7.0, present=has_audio & has_text)
    torch.testing.assert_close(balance, losses.balance(a[both], t[both], j[both], 7.0))
    cka = losses.cka_loss(a, t, j, audio_present=has_audio, text_present=has_text)
    expected = 1 - (losses.cka(a[has_audio], j[has_audio]) + losses.cka(t[has_text], j[has_text])) / 2
    torch.testing.assert_close(cka, expected)


# CKA


def brute_hsic(K: Tensor, L: Tensor, estimator: str) -> float:
    """Return HSIC: biased as tr(KHLH) / (n - 1)^2, unbiased as the U-statistic over quadruples."""
    n = len(K)
    if estimator == "biased":
        H = torch.eye(n, dtype=K.dtype) - 1 / n
        return float(torch.trace(K @ H @ L @ H)) / (n - 1) ** 2
    quadruples = list(itertools.permutations(range(n), 4))
    return sum(float(K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])) for i, j, q, r in quadruples) / len(
        quadruples
    )


def brute_kernel(x: Tensor, kernel: str) -> Tensor:
    if kernel == "linear":
        return x @ x.T
    distance = torch.cdist(x, x)
    median = sorted(float(distance[i, j]) for i, j in itertools.combinations(range(len(x)), 2))
    return torch.exp(-(distance**2) / (2 * median[(len(median) - 1) // 2] ** 2))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "dims"), [(4, (3, 2)), (6, (2, 4)), (7, (9, 3))])
def test_cka_equals_brute_force(
    rows: int, dims: tuple[int, int], kernel: structure.Kernel, estimator: structure.Estimator
) -> None:
    x, y = (random(rows, dim, seed=k).detach() for k, dim in enumerate(dims))
    K, L = brute_kernel(x, kernel), brute_kernel(y, kernel)
    xy, xx, yy = (brute_hsic(*pair, estimator) for pair in ((K, L), (K, K), (L, L)))
    actual = losses.cka(x + 3, 5 * y, estimator, kernel)
    assert actual.item() == pytest.approx(xy / (xx * yy) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("rows", [4, 9, 33])
def test_feature_space_equals_kernel_space_in_value_and_gradient(
    rows: int, estimator: structure.Estimator
) -> None:
    x, y = random(rows, 3, seed=1), random(rows, 5, seed=2)
    fast = structure.feature_sums(x, y, estimator)
    plain = structure.kernel_sums(x @ x.T, y @ y.T, estimator)
    for actual, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(gradients(actual.sum(), x, y), gradients(expected.sum(), x, y))


def test_wide_batches_use_feature_space_and_agree_with_kernel_space(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = random(20, 6, seed=1), random(20, 4, seed=2)
    fast = losses.cka(x, y)
    monkeypatch.setattr(structure, "feature_sums", lambda x, y, e: structure.kernel_sums(x @ x.T, y @ y.T, e))
    plain = losses.cka(x, y)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(fast, x, y), gradients(plain, x, y))


def test_unbiased_cka_of_independent_data_is_near_zero_where_the_biased_one_is_near_one() -> None:
    actual = {
        estimator: torch.stack([losses.cka(random(32, 1000, seed=s), random(32, 1000, seed=99 + s), estimator)
                                for s in range(10)]).mean()
        for estimator in ESTIMATORS
    }  # fmt: skip
    assert abs(actual["unbiased"]) < 0.05
    assert actual["biased"] > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rows", [6, 24])
def test_shift_scale_and_rotation_change_no_cka(
    rows: int, kernel: structure.Kernel, estimator: structure.Estimator
) -> None:
    x, y = random(rows, 8, seed=1), random(rows, 8, seed=2)
    turn = torch.linalg.qr(random(8, 8, seed=3)).Q
    expected = losses.cka(x, y, estimator, kernel)
    torch.testing.assert_close(losses.cka(1e3 * x @ turn - 40, 0.01 * y + 7, estimator, kernel), expected)
    torch.testing.assert_close(losses.cka(x, x @ turn, estimator, kernel), doubles(1.0))


def test_cka_of_too_few_documents_names_the_rule() -> None:
    with pytest.raises(
        ValueError, match=r"CKA of 3 rows: unbiased HSIC divides by n - 3, so it needs at least 4"
    ):
        losses.cka(random(3, 2), random(3, 2))


def test_a_half_of_the_cka_loss_below_its_minimum_is_zero() -> None:
    a, t, j = three(20)
    few = torch.arange(20) < 15
    whole = 1 - losses.cka(t, j)
    torch.testing.assert_close(losses.cka_loss(a, t, j, audio_present=few, minimum=16), whole / 2)
    assert losses.cka_loss(a, t, j, audio_present=few, text_present=few, minimum=16) == 0
    assert losses.cka_loss(a, t, j, audio_present=few, text_present=few, minimum=15) > 0


def test_cka_takes_references_of_another_width() -> None:
    a, t, j = random(18, 40, seed=1), random(18, 7, seed=2), random(18, 5, seed=3)
    expected = 1 - (losses.cka(a, j) + losses.cka(t, j)) / 2
    torch.testing.assert_close(losses.cka_loss(a, t, j, minimum=16), expected)


# Balance


def test_balance_leaves_the_scale_alone() -> None:
    a, t, j = three(9)
    scale = doubles(5.0).requires_grad_()
    for estimator in ("infonce", "smile"):
        assert gradients(losses.balance(a, t, j, scale, estimator), scale) == [0.0]


@pytest.mark.parametrize("estimator", ["infonce", "smile"])
def test_balance_is_the_squared_difference_of_information(estimator: Literal["infonce", "smile"]) -> None:
    a, t, j = three(9)
    gap = losses.information(a, j, 5.0, estimator) - losses.information(t, j, 5.0, estimator)
    unit = math.log(9) if estimator == "infonce" else 1
    torch.testing.assert_close(losses.balance(a, t, j, 5.0, estimator), (gap / unit) ** 2)


def test_smile_equals_brute_force() -> None:
    x, y, tau = random(7, 4, seed=1).detach(), random(7, 4, seed=2).detach(), 2.0
    critic = 6 * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
    assert (critic.abs() > tau).any(), "the clip is tested"
    shuffled = [
        math.exp(min(max(float(critic[i, k]), -tau), tau)) for i, k in itertools.permutations(range(7), 2)
    ]
    expected = sum(float(critic[i, i]) for i in range(7)) / 7 - math.log(sum(shuffled) / len(shuffled))
    assert losses.information(x, y, 6.0, "smile", tau).item() == pytest.approx(expected, rel=1e-9)


def test_the_weaker_gradient_lifts_the_weaker_side_alone() -> None:
    a, t, j = three(9)
    assert losses.information(a, j, 5.0) > losses.information(t, j, 5.0)
    both = losses.balance(a, t, j, 5.0)
    weaker = losses.balance(a, t, j, 5.0, gradient="weaker")
    torch.testing.assert_close(weaker, both)
    d_a, d_t, d_j = gradients(weaker, a, t, j)
    assert (d_a == 0).all()
    assert (d_j == 0).all()
    torch.testing.assert_close(d_t, gradients(both, t)[0])
    nearer = (t - 1e-3 * d_t / d_t.norm()).detach()
    assert losses.information(nearer, j, 5.0) > losses.information(t, j, 5.0)


# All alignment terms


@pytest.mark.parametrize("name", [name for name in TERMS if name != "balance, weaker"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """`weaker` has its own test: on purpose its gradient is not that of its value."""
    for rows, dim in ((6, 3), (5, 7)):
        assert torch.autograd.gradcheck(TERMS[name], three(rows, dim))


def test_the_scale_has_the_gradient_of_finite_differences() -> None:
    a, t, j = (x.detach() for x in three(6))
    for chunk in (None, 2):
        assert torch.autograd.gradcheck(
            lambda scale, chunk=chunk: losses.contrastive(a, t, j, scale, chunk=chunk),
            doubles(4.0).requires_grad_(),
        )


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
def test_the_order_of_documents_changes_nothing(term: Term) -> None:
    a, t, j = three(12)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3)).repeat_interleave(2) * 2
    order[1::2] += 1  # whole groups of two move
    torch.testing.assert_close(term(a[order], t[order], j[order]), term(a, t, j))


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
@pytest.mark.parametrize("rows", range(5))
@pytest.mark.parametrize("case", ["random", "equal rows", "zeros", "1e4", "1e4 and equal", "huge offset"])
def test_small_and_degenerate_batches_are_finite_in_float32(term: Term, rows: int, case: str) -> None:
    one = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0)).expand(3, rows, 8)
    many = torch.randn(3, rows, 8, generator=torch.Generator().manual_seed(1))
    values = {
        "random": many, "equal rows": one, "zeros": 0 * many, "1e4": 1e4 * many.sign(),
        "1e4 and equal": 1e4 * one, "huge offset": 1e4 + 1e-3 * many,
    }[case]  # fmt: skip
    inputs = [x.clone().requires_grad_() for x in values]
    loss = term(*inputs)
    assert loss.isfinite()
    assert loss.requires_grad, "also a term without enough documents stays in the graph"
    assert all(gradient.isfinite().all() for gradient in gradients(loss, *inputs))
    if rows < 2:
        assert loss == 0


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
@pytest.mark.parametrize("rows", [20, 4])
def test_embeddings_of_size_1e4_give_what_float64_gives(term: Term, rows: int) -> None:
    inputs = [(1e4 * x).detach() for x in three(rows, 16)]
    torch.testing.assert_close(
        term(*(x.float() for x in inputs)).double(), term(*inputs), rtol=2e-4, atol=1e-5
    )


def test_constant_embeddings_have_no_structure() -> None:
    """Centring equal rows in float32 leaves rounding, whose structure would be perfect."""
    same = torch.full((12, 4), 1e4 / 3)
    assert losses.cka(same, same) == 0
    assert losses.cka(same, torch.randn(12, 4)) == 0
    assert losses.cka(torch.randn(12, 4), same, kernel="rbf") == 0


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
def test_losses_stay_in_float32_under_autocast(term: Term) -> None:
    inputs = [x.detach().bfloat16() for x in three(12, 16)]
    expected = term(*(x.float() for x in inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = [term(*inputs), term(*(x.float() for x in inputs))]
    assert [x.dtype for x in actual] == [torch.float32, torch.float32]
    torch.testing.assert_close(actual, [expected, expected], rtol=0, atol=0)


# Diagnostics and the total


def test_diagnostics_tell_saturation_and_the_control_of_cka() -> None:
    x = random(64, 8, seed=1).detach()
    figures = losses.embedding_diagnostics(
        x, random(64, 8, seed=2), x, 100.0, text_present=torch.arange(64) < 40
    )
    assert (figures["rows_audio"], figures["rows_text"], figures["rows_both"]) == (64, 40, 40)
    assert figures["information_audio"] == pytest.approx(losses.information(x[:40], x[:40], 100.0).item())
    assert figures["saturation_audio"] > 0.99
    assert figures["saturation_text"] < 0.1
    assert figures["cka_audio"] == pytest.approx(1)
    assert abs(figures["cka_shuffled_audio"]) < 0.15


def test_diagnostics_leave_out_what_is_not_defined() -> None:
    a, t, j = three(5)
    figures = losses.embedding_diagnostics(a, t, j, 5.0, audio_present=torch.arange(5) < 1, minimum=5)
    assert {"rows_both", "rows_audio", "rows_text", "cka_text", "cka_shuffled_text"} == set(figures)


def test_terms_and_weights_have_the_same_names() -> None:
    assert tuple(field.name for field in fields(losses.Terms)) == LossConfig.WEIGHTS


def test_the_total_weights_each_term_by_its_name() -> None:
    values = dict(zip(LossConfig.WEIGHTS, (2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0), strict=True))
    terms = losses.Terms(**{name: torch.tensor(value) for name, value in values.items()})
    assert terms.values() == values
    for name in LossConfig.WEIGHTS:
        weights: dict[str, Any] = {other: 0.5 if other == name else 0.0 for other in LossConfig.WEIGHTS}
        assert losses.weighted_sum(terms, LossConfig(**weights)) == values[name] / 2


def test_a_term_of_weight_zero_stays_in_the_graph() -> None:
    x = random(1)
    weights = LossConfig(task=1.0, cka=0.0)
    loss = losses.weighted_sum(losses.Terms(task=doubles(2.0), cka=x.sum()), weights)
    assert _grad(loss, (x,))[0] == 0.0


# Embedding-gradient caching


class Towers(nn.Module):
    """Two towers with dropout and a scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.audio = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 6))
        self.text = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 6))
        self.unused = nn.Linear(4, 2)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.to(torch.float64)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        audio, text = self.audio(batch[0]), self.text(batch[1])
        rows = torch.arange(len(audio))
        return {
            "audio": audio,
            "text": text,
            "joint": audio + text,
            "unused": self.unused(batch[0]),
            "rows": rows,
        }

    def objective(self, output: dict[str, Tensor]) -> Tensor:
        a, t, j = output["audio"], output["text"], output["joint"]
        scale = self.logit_scale.exp()
        terms = losses.Terms(
            contrastive=losses.contrastive(a, t, j, scale, output["rows"]),
            cka=losses.cka_loss(a, t, j),
            balance=losses.balance(a, t, j, scale),
        )
        return losses.weighted_sum(terms, LossConfig())


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (1, 9, 1)])
def test_caching_gradients_changes_neither_loss_nor_gradients_nor_the_random_state(
    sizes: tuple[int, ...],
) -> None:
    documents = random(sum(sizes), 4, seed=1).detach(), random(sum(sizes), 3, seed=2).detach()
    batches = list(zip(*(torch.split(x, list(sizes)) for x in documents), strict=True))
    plain, cached = Towers(), Towers()

    torch.manual_seed(6)
    outputs = [plain(batch) for batch in batches]
    expected = plain.objective({name: torch.cat([o[name] for o in outputs]) for name in outputs[0]})
    expected.backward()  # type: ignore[no-untyped-call]
    after_plain = torch.rand(3)

    torch.manual_seed(6)
    actual = losses.cached_backward(cached, batches, cached.objective, torch.device("cpu"))
    after_cached = torch.rand(3)

    torch.testing.assert_close(actual, expected.detach())
    torch.testing.assert_close(after_cached, after_plain)
    for (name, p), q in zip(plain.named_parameters(), cached.parameters(), strict=True):
        if name.startswith("unused"):
            assert p.grad is None
            assert q.grad is None
        else:
            torch.testing.assert_close(q.grad, p.grad, msg=name)


def test_caching_gradients_adds_to_those_that_are_there() -> None:
    towers, batch = Towers().eval(), (random(6, 4).detach(), random(6, 3).detach())
    losses.cached_backward(towers, [batch], towers.objective, torch.device("cpu"))
    once = [None if p.grad is None else p.grad.clone() for p in towers.parameters()]
    losses.cached_backward(towers, [batch], towers.objective, torch.device("cpu"))
    for p, gradient in zip(towers.parameters(), once, strict=True):
        assert (p.grad is None) == (gradient is None)
        if p.grad is not None and gradient is not None:
            torch.testing.assert_close(p.grad, 2 * gradient)


def test_caching_gradients_of_no_batch_names_the_rule() -> None:
    towers = Towers()
    with pytest.raises(ValueError, match="gradient caching of 0 micro batches: a step needs at least one"):
        losses.cached_backward(towers, [], towers.objective, torch.device("cpu"))
