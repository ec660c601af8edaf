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
    LEAST_MEAN,
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
def test_the_fit_is_the_least_of_the_stated_loss(seed: int, documents: int) -> None:
    """Against a derivative-free search on the formula written out with NumPy."""
    rng = np.random.default_rng(seed)
    task = TaskConfig(classes=("a", "b", "c"))
    members, rest = rng.normal(size=(documents, 3, 3)), rng.normal(size=(documents, 3))
    targets, prior = rng.integers(0, 3, documents), np.log([0.6, 0.3, 0.1])
    targets[:2] = (0, 1)
    fitted = fit_weights(task, held_out(members, targets, prior, rest), ALL)

    def loss(w: np.ndarray) -> float:
        logits = (members * w[:, None]).sum(1) + w.mean() * rest + prior
        total = -log_softmax(logits, axis=1)[np.arange(documents), targets].sum()
        total += EVEN_STRENGTH / 2 * np.square(w - w.mean()).sum()
        return float(total + SCALE_STRENGTH / 2 * (w.mean() - 1) ** 2)

    bounds = [(0, GREATEST_MEAN)] * 3
    plain = minimize(
        loss, np.ones(3), method="Nelder-Mead", bounds=bounds, options={"fatol": 1e-10, "xatol": 1e-7}
    )
    actual = np.array(fitted.values()) / fitted.temperature
    if plain.x.mean() > LEAST_MEAN:
        assert loss(actual) <= plain.fun + 1e-6


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
