"""Supervised losses, probabilities and decisions: golden values and the formulas one entry at a time."""

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

from hilbert_ray import losses
from hilbert_ray.config import Imbalance, TaskConfig, TaskKind
from hilbert_ray.losses.tasks import class_weights

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden_objectives.json").read_text())
IMBALANCES: tuple[Imbalance, ...] = ("none", "class_balanced", "logit_adjustment", "focal")
CLASSES: dict[TaskKind, tuple[str, ...]] = {
    "binary": ("no", "yes"), "multiclass": ("a", "b", "c", "d"), "multilabel": ("p", "q", "r"),
    "ordinal": ("0", "1", "2", "3"), "regression": (),
}  # fmt: skip
TASKS = [
    TaskConfig(kind=kind, classes=classes, imbalance=imbalance)
    for kind, classes in CLASSES.items()
    for imbalance in (IMBALANCES if kind != "regression" else IMBALANCES[:1])
]


def named(task: TaskConfig) -> str:
    return f"{task.kind}, {task.imbalance}"


def doubles(values: Any) -> Tensor:  # noqa: ANN401 - nested lists
    return torch.tensor(values, dtype=torch.float64)


def outputs(task: TaskConfig) -> int:
    """Return the width of a task's logits."""
    return len(task.classes) - 1 if task.kind == "ordinal" else losses.num_outputs(task)


def drawn(task: TaskConfig, rows: int, seed: int = 0, labelled: float = 0.7) -> tuple[Tensor, Tensor]:
    """Return logits that want a gradient, and targets of which some are missing."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, outputs(task), generator=draw, dtype=torch.float64)
    if task.kind == "regression":
        targets = 40 + 9 * torch.randn(rows, generator=draw, dtype=torch.float64)
        targets[torch.rand(rows, generator=draw) > labelled] = torch.nan
    elif task.kind == "multilabel":
        targets = torch.randint(0, 2, (rows, len(task.classes)), generator=draw).double()
        targets[torch.rand(targets.shape, generator=draw) > labelled] = torch.nan
    else:
        targets = torch.randint(0, len(task.classes), (rows,), generator=draw)
        targets[torch.rand(rows, generator=draw) > labelled] = -1
    return logits.requires_grad_(), targets


def statistics(task: TaskConfig) -> Tensor:
    """Return the training part's statistics: skewed, and one class was never seen."""
    if task.kind == "regression":
        return doubles([41.0, 8.0])
    if task.kind == "multilabel":
        return doubles([[90, 10], [40, 60], [100, 0]])
    return doubles([120, 40, 9, 0])[: len(task.classes)]


# Golden values


def test_class_weights_have_the_golden_values() -> None:
    golden = GOLDEN["imbalance"]
    expected = doubles(golden["effective_number_weights"])
    torch.testing.assert_close(
        class_weights(doubles(golden["inputs"]["counts"])), expected, rtol=1e-9, atol=0
    )
    assert golden["inputs"]["beta"] == losses.tasks.BETA


@pytest.mark.parametrize(
    ("imbalance", "name"),
    [
        ("class_balanced", "weighted_cross_entropy"),
        ("logit_adjustment", "logit_adjusted_cross_entropy"),
    ],
)
def test_treatments_of_imbalance_have_the_golden_losses(imbalance: Imbalance, name: str) -> None:
    inputs = GOLDEN["imbalance"]["inputs"]
    task = TaskConfig(kind="multiclass", classes=("a", "b", "c", "d"), imbalance=imbalance)
    targets = torch.tensor(inputs["targets"])
    total, count = losses.task_loss(task, doubles(inputs["logits"]), targets, doubles(inputs["counts"]))
    assert (total / count).item() == pytest.approx(GOLDEN["imbalance"][name], rel=1e-9)


def test_the_ordinal_loss_has_the_golden_value() -> None:
    inputs = GOLDEN["ordinal"]["inputs"]
    task = TaskConfig(kind="ordinal", classes=("0", "1", "2", "3"), imbalance="none")
    logits, targets = doubles(inputs["cumulative_logits"]), torch.tensor(inputs["targets"])
    total, count = losses.task_loss(task, logits, targets, statistics(task))
    assert (total / count).item() == pytest.approx(GOLDEN["ordinal"]["loss"], rel=1e-9)


# Losses


def brute_prior(task: TaskConfig, counts: Tensor) -> list[float]:
    """Return log n_k / n (multiclass), or the logit of each label's or cut's positive share."""
    n = [[max(float(c), 0.5) for c in row] for row in counts.reshape(-1, counts.shape[-1])]
    if task.kind == "multiclass":
        return [math.log(c / sum(n[0])) for c in n[0]]
    if task.kind == "multilabel":
        return [math.log(positive / negative) for negative, positive in n]
    return [math.log(sum(n[0][k + 1 :]) / sum(n[0][: k + 1])) for k in range(len(n[0]) - 1)]


def brute_loss(task: TaskConfig, logits: Tensor, targets: Tensor, counts: Tensor) -> tuple[float, int]:
    """Return the sum of losses and the number of labelled entries, one logit at a time."""
    total, entries = 0.0, 0
    if task.kind == "regression":
        mean, deviation = counts.tolist()
        for o, y in zip(logits[:, 0].tolist(), targets.tolist(), strict=True):
            if not math.isnan(y):
                total, entries = total + (o - (y - mean) / deviation) ** 2, entries + 1
        return total, entries
    prior = brute_prior(task, counts) if task.imbalance == "logit_adjustment" else [0.0] * logits.shape[1]
    n = counts.reshape(-1, counts.shape[-1]).clamp_min(0.5)
    weight = 0.001 / (1 - 0.999**n)
    weight = weight / weight.mean(dim=1, keepdim=True)

    def treated(p: float, label: int, truth: int) -> float:
        loss = -math.log(p)
        if task.imbalance == "focal":
            loss *= (1 - p) ** 2
        return loss * (float(weight[label, truth]) if task.imbalance == "class_balanced" else 1.0)

    for i, row in enumerate(logits.tolist()):
        z = [o + b for o, b in zip(row, prior, strict=True)]
        if task.kind == "multilabel":
            for k, y in enumerate(targets[i].tolist()):
                if not math.isnan(y):
                    p = 1 / (1 + math.exp(-z[k]))
                    total, entries = total + treated(p if y else 1 - p, k, int(y)), entries + 1
            continue
        y = int(targets[i])
        if y < 0:
            continue
        entries += 1
        if task.kind == "multiclass":
            total += treated(math.exp(z[y]) / sum(math.exp(o) for o in z), 0, y)
        else:
            for k, o in enumerate(z):
                p = 1 / (1 + math.exp(-o))
                total += treated(p if y > k else 1 - p, 0, y)
    return total, entries


@pytest.mark.parametrize("task", TASKS, ids=named)
@settings(deadline=None, max_examples=15)
@given(rows=st.integers(1, 9), seed=st.integers(0, 1000))
def test_losses_equal_brute_force(task: TaskConfig, rows: int, seed: int) -> None:
    logits, targets = drawn(task, rows, seed)
    total, count = losses.task_loss(task, logits, targets, statistics(task))
    expected, entries = brute_loss(task, logits.detach(), targets, statistics(task))
    assert total.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert count.item() == entries


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_gradients_are_those_of_finite_differences_and_zero_where_nothing_is_labelled(
    task: TaskConfig,
) -> None:
    logits, targets = drawn(task, 6)
    assert torch.autograd.gradcheck(lambda o: losses.task_loss(task, o, targets, statistics(task))[0], logits)
    total, _ = losses.task_loss(task, logits, targets, statistics(task))
    (gradient,) = torch.autograd.grad(total, logits)
    labelled = ~targets.isnan() if targets.is_floating_point() else targets >= 0
    assert not labelled.all()
    shown = gradient if task.kind == "multilabel" else gradient.abs().sum(dim=1)
    assert torch.equal(shown != 0, labelled)


@pytest.mark.parametrize("task", TASKS, ids=named)
@pytest.mark.parametrize("rows", range(5))
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_small_batches_huge_logits_and_missing_labels_are_finite_in_float32(
    task: TaskConfig, rows: int, size: float
) -> None:
    for labelled in (0.7, 0.0):
        logits, targets = drawn(task, rows, labelled=labelled)
        o = (size * logits.detach().float()).requires_grad_()
        total, count = losses.task_loss(task, o, targets, statistics(task).float())
        assert total.isfinite()
        (gradient,) = torch.autograd.grad(total, o)
        assert gradient.isfinite().all()
        if not labelled:
            assert total == count == 0
            assert not gradient.any()


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_losses_stay_in_float32_under_autocast(task: TaskConfig) -> None:
    logits, targets = drawn(task, 20)
    o, counts = logits.detach().bfloat16(), statistics(task).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = losses.task_loss(task, o, targets, counts)[0], losses.probabilities(task, o, counts)
    assert actual[0].dtype == actual[1].dtype == torch.float32
    expected = (
        losses.task_loss(task, o.float(), targets, counts)[0],
        losses.probabilities(task, o.float(), counts),
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_a_binary_task_is_a_multilabel_one_of_a_single_label() -> None:
    binary, single = (
        TaskConfig(kind="binary", classes=("n", "y")),
        TaskConfig(kind="multilabel", classes=("y",)),
    )
    logits, targets = drawn(binary, 12)
    as_labels = torch.where(targets < 0, torch.nan, targets.double())[:, None]
    counts = doubles([90.0, 10.0])
    torch.testing.assert_close(
        losses.task_loss(binary, logits, targets, counts)[0],
        losses.task_loss(single, logits, as_labels, counts[None])[0],
    )


def test_focal_loss_of_a_sure_and_right_answer_keeps_its_gradient_finite() -> None:
    task = TaskConfig(kind="multiclass", classes=("a", "b"), imbalance="focal")
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    total, _ = losses.task_loss(task, logits, torch.tensor([0]), torch.ones(2))
    (gradient,) = torch.autograd.grad(total, logits)
    assert total == 0
    assert gradient.isfinite().all()


# Statistics of the training part


def test_statistics_count_labelled_entries_alone() -> None:
    of = losses.label_statistics
    classes = TaskConfig(kind="multiclass", classes=("a", "b", "c"))
    assert of(classes, torch.tensor([0, 2, -1, 2])).tolist() == [1, 0, 2]
    labels = TaskConfig(kind="multilabel", classes=("p", "q"))
    targets = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [1.0, 1.0]])
    assert of(labels, targets).tolist() == [[1, 2], [0, 2]]
    number = TaskConfig(kind="regression")
    assert of(number, torch.tensor([1.0, torch.nan, 5.0])).tolist() == [3, 2]
    assert of(number, torch.full((3,), torch.nan)).tolist() == [0, 0]
    for task in TASKS:
        assert of(task, drawn(task, 5)[1]).shape == losses.statistics_shape(task)


def test_a_number_that_does_not_vary_is_predicted_as_it_is() -> None:
    task, targets = TaskConfig(kind="regression"), torch.full((4,), 7.0)
    statistics = losses.label_statistics(task, targets)
    assert losses.task_loss(task, torch.zeros(4, 1), targets, statistics)[0] == 0
    assert losses.probabilities(task, torch.zeros(4, 1), statistics).tolist() == [7.0] * 4


# Probabilities and decisions


@pytest.mark.parametrize("imbalance", ["none", "logit_adjustment"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_the_loss_is_that_of_the_probabilities(kind: TaskKind, imbalance: Imbalance) -> None:
    """Cross-entropy of the truth under `probabilities` at T = 1 is the loss that was trained."""
    task = TaskConfig(kind=kind, classes=CLASSES[kind], imbalance=imbalance)
    logits, targets = drawn(task, 12, labelled=1.1)
    evidence = logits - losses.learned_prior(task, statistics(task))
    p = losses.probabilities(task, evidence, statistics(task))
    total, _ = losses.task_loss(task, logits, targets, statistics(task))
    if task.kind == "multilabel":
        expected = F.binary_cross_entropy(p, targets, reduction="sum")
    else:
        expected = F.nll_loss(p.log(), targets, reduction="sum")
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("imbalance", IMBALANCES)
def test_cumulative_probabilities_are_those_of_the_ordinal_loss(imbalance: Imbalance) -> None:
    task = TaskConfig(kind="ordinal", classes=("0", "1", "2", "3"), imbalance=imbalance)
    logits = drawn(task, 9)[0].detach().sort(dim=1, descending=True).values
    counts = doubles([10, 30, 20, 40])
    p = losses.probabilities(task, logits / 1.7, counts)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(9, dtype=torch.float64))
    above = (logits / 1.7 + losses.log_prior(task, counts)).sigmoid()
    falling = above.cummin(dim=1).values
    torch.testing.assert_close(p.flip(1).cumsum(1).flip(1)[:, 1:], falling)


@pytest.mark.parametrize("task", [task for task in TASKS if task.kind != "regression"], ids=named)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_probabilities_lie_between_0_and_1_also_of_free_and_huge_logits(
    task: TaskConfig, size: float
) -> None:
    logits = size * drawn(task, 30)[0].detach()
    for temperature in (0.2, 1.0, 5.0):
        p = losses.probabilities(task, logits / temperature, statistics(task))
        assert p.shape == (30, len(task.classes))
        assert ((p >= 0) & (p <= 1)).all()
        if task.kind != "multilabel":
            torch.testing.assert_close(p.sum(dim=1), torch.ones(30, dtype=torch.float64))


def test_a_regression_task_predicts_in_the_unit_of_its_targets() -> None:
    task = TaskConfig(kind="regression")
    actual = losses.probabilities(task, doubles([[0.0], [1.5]]), doubles([41.0, 8.0]))
    assert actual.tolist() == losses.decide(task, doubles([[0.0], [1.5]]), doubles([41.0, 8.0])).tolist()
    assert actual.tolist() == [41.0, 53.0]


def test_decisions_are_taken_on_logits_without_the_prior() -> None:
    """Menon et al. 2021: after training o + log prior, argmax o minimises the balanced error."""
    multiclass = TaskConfig(kind="multiclass", classes=("a", "b", "c"))
    logits, counts = doubles([[0.0, 0.1, -1.0]]), doubles([98.0, 1.0, 1.0])
    assert losses.decide(multiclass, logits, counts).tolist() == [1]
    assert losses.probabilities(multiclass, logits, counts).argmax(1).tolist() == [0]
    binary = TaskConfig(kind="binary", classes=("n", "y"))
    assert losses.decide(binary, doubles([[0.1], [-0.1]]), doubles([99.0, 1.0])).tolist() == [1, 0]
    ordinal = TaskConfig(kind="ordinal", classes=("0", "1", "2", "3"))
    cumulative = doubles([[1.0, 0.5, -0.5], [-1, -2, -3], [3, 2, 1]])
    assert losses.decide(ordinal, cumulative, doubles([1, 1, 1, 1])).tolist() == [2, 0, 3]
    multilabel = TaskConfig(kind="multilabel", classes=("p", "q"))
    assert losses.decide(multilabel, doubles([[0.1, -3.0]]), doubles([[9, 1], [9, 1]])).tolist() == [[1, 0]]


def test_rules_without_balancing_decide_for_the_most_probable_class() -> None:
    logits, counts = doubles([[0.0, 0.1, -1.0]]), doubles([98.0, 1.0, 1.0])
    for imbalance in IMBALANCES:
        task = TaskConfig(kind="multiclass", classes=("a", "b", "c"), imbalance=imbalance)
        expected = 0 if imbalance in ("none", "focal") else 1
        assert losses.decide(task, logits, counts).tolist() == [expected]


PRIORS: dict[TaskKind, tuple[list[list[float]] | list[float], list[float]]] = {
    "binary": ([6.0, 2.0], [2 / 6]),
    "multiclass": ([6.0, 2.0, 0.0], [6 / 8.5, 2 / 8.5, 0.5 / 8.5]),
    "ordinal": ([6.0, 2.0, 0.0], [2.5 / 6, 0.5 / 8]),
    "multilabel": ([[6.0, 2.0], [3.0, 0.0]], [2 / 6, 0.5 / 3]),
}
"""Counts of classes, and the odds (probabilities for multiclass) by hand; an unseen class is half a case."""


@pytest.mark.parametrize("kind", list(PRIORS))
def test_training_adds_the_prior_or_leaves_it_to_be_learned(kind: TaskKind) -> None:
    counts, odds = PRIORS[kind]
    statistics, expected = doubles(counts), [math.log(each) for each in odds]
    zeros = [0.0] * len(expected)
    for imbalance in IMBALANCES:
        task = TaskConfig(kind=kind, classes=CLASSES[kind], imbalance=imbalance)
        assert losses.log_prior(task, statistics).tolist() == pytest.approx(expected)
        is_added = imbalance == "logit_adjustment"
        assert losses.added_prior(task, statistics).tolist() == pytest.approx(expected if is_added else zeros)
        learned = losses.learned_prior(task, statistics).tolist()
        if imbalance == "class_balanced":
            assert max(map(abs, learned)) < max(map(abs, expected)), "weights even classes out"
        else:
            assert learned == pytest.approx(zeros if is_added else expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_a_temperature_moves_no_probability_away_from_the_frequencies(temperature: float) -> None:
    """Evidence of 0 gives the frequencies of the classes, whatever it is divided by."""
    task = TaskConfig(kind="multiclass", classes=("a", "b", "c"))
    counts = doubles([89.0, 8.0, 3.0])
    p = losses.probabilities(task, doubles([[0.0, 0.0, 0.0]]) / temperature, counts)
    torch.testing.assert_close(p, (counts / counts.sum())[None])


@pytest.mark.parametrize("kind", list(PRIORS))
@pytest.mark.parametrize("imbalance", ["none", "class_balanced"])
def test_a_constant_that_training_finds_is_the_learned_prior(kind: TaskKind, imbalance: Imbalance) -> None:
    """Without a feature the loss is least at logits that hold the prior and no evidence."""
    task = TaskConfig(kind=kind, classes=CLASSES[kind], imbalance=imbalance)
    if kind == "multilabel":
        counts = [[30.0, 10.0], [5.0, 35.0], [20.0, 20.0]]
        columns = [torch.tensor([0.0] * int(no) + [1.0] * int(yes)) for no, yes in counts]
        targets = torch.stack(columns, 1)
    else:
        counts = [40.0, 9.0, 6.0, 3.0][: len(task.classes)]  # type: ignore[assignment]
        targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts).long())
    statistics = doubles(counts)
    width = len(losses.log_prior(task, statistics))
    constant = torch.zeros(width, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = losses.task_loss(task, constant.expand(len(targets), width), targets, statistics)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    evidence = constant.detach()[None] - losses.learned_prior(task, statistics)
    expected = losses.probabilities(task, torch.zeros_like(evidence), statistics)
    torch.testing.assert_close(losses.probabilities(task, evidence, statistics), expected, atol=1e-5, rtol=0)
