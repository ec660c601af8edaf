"""Weights of heads: fits against known truth and plain optimisation, few labels, no signal, one class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.features.arrays import Features
from hilbert_ray.model.heads import BOTH, EVEN
from hilbert_ray.training.head_weights import (
    EVEN_STRENGTH,
    GREATEST_MEAN,
    GREATEST_OFFSET,
    LEAST_MEAN,
    OFFSET_STRENGTH,
    SCALE_STRENGTH,
    HeldOut,
    fit_weights,
)
from hilbert_ray.training.loop import fit
from tests import make

BINARY = TaskConfig(kind="binary", classes=("no", "yes"))
ALL = (True, True, True)


def held_out(
    members: np.ndarray, targets: np.ndarray, prior: np.ndarray, rest: np.ndarray | None = None
) -> HeldOut:
    rest = np.zeros((len(members), len(prior))) if rest is None else rest
    return HeldOut(
        documents=np.arange(len(members)),
        members=torch.from_numpy(members),
        rest=torch.from_numpy(rest),
        prior=torch.from_numpy(np.broadcast_to(prior, rest.shape).copy()),
        targets=torch.from_numpy(targets),
    )


def drawn(documents: int, weights: tuple[float, float, float], prevalence: float, seed: int) -> HeldOut:
    """Return scores of three heads, and labels whose log odds are their weighted sum plus the prior."""
    rng = np.random.default_rng(seed)
    members = rng.normal(size=(documents, 3, 1))
    prior = np.log([prevalence / (1 - prevalence)])
    logits = (members * np.array(weights)[:, None]).sum(1) + prior
    return held_out(members, (rng.random(documents) < expit(logits[:, 0])).astype(np.int64), prior)


def test_many_labels_recover_the_weights_that_made_them() -> None:
    fitted = fit_weights(BINARY, drawn(20_000, (0.2, 1.3, 0.0), 0.3, seed=1), ALL)
    assert np.array(fitted.values()) / fitted.temperature == pytest.approx([0.2, 1.3, 0.0], abs=0.06)
    assert np.mean(fitted.values()) == pytest.approx(1.0)


def test_an_idle_head_loses_its_weight_and_costs_nothing() -> None:
    """A head of mere noise, as sure as the other two."""
    truth = drawn(400, (1.0, 1.0, 0.0), 0.3, seed=2)
    fitted = fit_weights(BINARY, truth, ALL)
    assert fitted.text < 0.25
    assert min(fitted.experts, fitted.audio) > 1.0


@pytest.mark.parametrize("prevalence", [0.05, 0.11, 0.5])
def test_without_signal_probabilities_stay_near_the_frequency(prevalence: float) -> None:
    """Scores that say nothing are divided by much, and the prior by nothing."""
    data = drawn(400, (0.0, 0.0, 0.0), prevalence, seed=3)
    fitted = fit_weights(BINARY, data, ALL)
    assert 1 / GREATEST_MEAN <= fitted.temperature <= 1 / LEAST_MEAN
    assert fitted.temperature > 5
    evidence = (data.members * torch.tensor(fitted.values())[:, None]).sum(1) / fitted.temperature
    p = expit((evidence + data.prior).numpy())[:, 0]
    assert p.mean() == pytest.approx(prevalence, abs=0.02)
    fresh = np.random.default_rng(4).random(len(p)) < prevalence
    loss = np.where(fresh, -np.log(p), -np.log1p(-p)).mean()
    base = np.where(fresh, -np.log(prevalence), -np.log1p(-prevalence)).mean()
    assert loss < base + 0.01


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), documents=st.integers(4, 60))
def test_the_fit_is_the_least_of_the_stated_loss_less_what_chance_gains(seed: int, documents: int) -> None:
    """Against a search without derivatives on the formula written out with NumPy."""
    rng = np.random.default_rng(seed)
    task = TaskConfig(classes=("a", "b", "c"))
    members, rest = rng.normal(size=(documents, 3, 3)), rng.normal(size=(documents, 3))
    targets, prior = rng.integers(0, 3, documents), np.log([0.6, 0.3, 0.1])
    targets[:2] = (0, 1)
    # Half of the data sets have a signal.
    if seed % 2:
        members[np.arange(documents), 0, targets] += 3
    fitted = fit_weights(task, held_out(members, targets, prior, rest), ALL)

    def log_loss(w: np.ndarray, b: np.ndarray) -> float:
        logits = (members * w[:, None]).sum(1) + w.mean() * rest + b + prior
        return float(-log_softmax(logits, axis=1)[np.arange(documents), targets].sum())

    def loss(values: np.ndarray) -> float:
        w, b = values[:3], values[3:]
        total = log_loss(w, b) + EVEN_STRENGTH / 2 * np.square(w - w.mean()).sum()
        return float(total + SCALE_STRENGTH / 2 * (w.mean() - 1) ** 2 + OFFSET_STRENGTH / 2 * (b @ b))

    bounds = [(0, GREATEST_MEAN)] * 3 + [(-GREATEST_OFFSET, GREATEST_OFFSET)] * 3
    start, precise = np.array([0.5, 0.5, 0.5, 0.0, 0.0, 0.0]), {"ftol": 1e-15, "gtol": 1e-9}
    plain = minimize(loss, start, method="L-BFGS-B", bounds=bounds, options=precise).x
    w, b = plain[:3], plain[3:]
    gain = log_loss(np.zeros(3), b) - log_loss(w, b)
    mean = max(w.mean() * (1 - 6 / (2 * gain)) if gain > 0 else 0, LEAST_MEAN)
    w = w / w.mean() * mean if w.mean() > 0 else np.full(3, mean)
    b = minimize(
        lambda b: loss(np.r_[w, b]), b, method="L-BFGS-B", bounds=bounds[3:], options=precise
    ).x  # fmt: skip
    assert np.array(fitted.values()) / fitted.temperature == pytest.approx(w, abs=2e-3)
    assert fitted.offsets == pytest.approx(b, abs=2e-3)


def test_offsets_make_probabilities_as_frequent_as_the_classes() -> None:
    """Scores that all lean to one side, as those of a network trained on few cases do."""
    data = drawn(2000, (1.0, 0.5, 0.5), 0.2, seed=8)
    leaning = replace(data, rest=data.rest - 0.8)
    fitted = fit_weights(BINARY, leaning, ALL)
    evidence = (leaning.members * torch.tensor(fitted.values())[:, None]).sum(1) + leaning.rest
    logits = evidence / fitted.temperature + torch.tensor(fitted.offsets) + leaning.prior
    observed = leaning.targets.double().mean()
    assert float(logits.sigmoid().mean()) == pytest.approx(float(observed), abs=0.002)
    without = evidence / fitted.temperature + leaning.prior
    assert float(without.sigmoid().mean()) < float(observed) - 0.05


def test_an_ordinal_task_has_one_offset_and_a_regression_none() -> None:
    rng = np.random.default_rng(9)
    members, rest = rng.normal(size=(200, 3, 1)), np.tile([1.0, -1.0], (200, 1))
    ordinal = TaskConfig(kind="ordinal", classes=("low", "middle", "high"))
    y = np.digitize(members.sum((1, 2)) + 0.5, [-1.0, 1.0])
    fitted = fit_weights(ordinal, held_out(members, y, np.array([0.5, -0.5]), rest), ALL)
    assert len(fitted.offsets) == 1
    numbers = fit_weights(TaskConfig(kind="regression"), held_out(members, rest[:, 0], np.zeros(1)), ALL)
    assert numbers.offsets == ()


def test_the_fewer_labels_the_more_even_are_the_weights() -> None:
    """Gaps are between the head that says all and those that say nothing."""
    gaps = []
    for documents in (6, 60, 6000):
        fitted = fit_weights(BINARY, drawn(documents, (0.0, 2.0, 0.0), 0.5, seed=5), ALL)
        assert fitted.labels == documents
        gaps.append((fitted.audio - max(fitted.experts, fitted.text)) / fitted.temperature)
    assert gaps[0] < gaps[1] < gaps[2]
    assert gaps[0] < 0.8
    assert gaps[2] == pytest.approx(2.0, abs=0.15)


def test_heads_that_are_not_in_use_get_no_weight_and_one_class_fits_nothing() -> None:
    data = drawn(300, (1.0, 1.0, 1.0), 0.4, seed=6)
    fitted = fit_weights(BINARY, data, (True, True, False))
    assert fitted.text == 0
    assert fitted.experts + fitted.audio == pytest.approx(2.0)
    alike = replace(data, targets=torch.zeros_like(data.targets))
    assert fit_weights(BINARY, alike, ALL) == EVEN


def test_numbers_are_fitted_by_least_squares() -> None:
    rng = np.random.default_rng(7)
    members = rng.normal(size=(5000, 3, 1))
    y = 0.9 * members[:, 0, 0] + 0.4 * members[:, 2, 0] + 0.5 * rng.normal(size=5000)
    fitted = fit_weights(TaskConfig(kind="regression"), held_out(members, y, np.zeros(1)), ALL)
    assert np.array(fitted.values()) / fitted.temperature == pytest.approx([0.9, 0.0, 0.4], abs=0.03)


def test_weights_of_a_trained_model_are_of_its_held_out_documents() -> None:
    """They improve the log loss of the very documents that they are fitted on, which even weights do not."""
    features = make.features(160, groups=40, seed=3)
    read = features.targets["level"] - features.targets["heard"]
    features = Features(
        doc_ids=features.doc_ids, groups=features.groups, audio=features.audio, text=features.text,
        targets={"heard": features.targets["heard"], "read": read},
    )  # fmt: skip
    config = Config(
        tasks={"heard": BINARY, "read": BINARY},
        model=ModelConfig(dim=16),
        fit=FitConfig(epochs=12, seeds=1),
        folds=FoldsConfig(inner=2),
    )
    fitted = fit(config, features, np.arange(len(features)))
    for task in ("heard", "read"):
        held_out, weights = fitted.held_out[task], fitted.heads[task][BOTH]
        p = expit((held_out.members[:, 0, 0] + held_out.prior[:, 0]).numpy())
        truth = held_out.targets.numpy()
        loss = -np.log(np.where(truth == 1, p, 1 - p)).mean()
        assert loss < np.log(2), "held-out documents are told apart"
        assert np.mean(weights.values()) == pytest.approx(1.0)
    assert sorted(fitted.heads["heard"]) == ["audio", BOTH, "text"]
    has_both = (features.by_modality["audio"].lengths > 0) & (features.by_modality["text"].lengths > 0)
    assert sorted(fitted.held_out["heard"].documents) == np.flatnonzero(has_both).tolist()
    assert fitted.heads["heard"][BOTH].labels == has_both.sum()
