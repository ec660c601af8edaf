"""The linear baseline, against a plain implementation and on awkward data."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from hilbert_ray.config import Config, TaskConfig
from hilbert_ray.evaluation.baselines import logistic
from hilbert_ray.features.arrays import Features
from tests import make

pytestmark = pytest.mark.usefixtures("one_thread")


def labelled_features(y: np.ndarray, groups: np.ndarray, seed: int = 0) -> Features:
    """Return audio alone in which the documents of class k lie around k."""
    rng = np.random.default_rng(seed)
    audio = make.ragged(rng.integers(2, 5, len(y)), 6, np.maximum(y, 0).astype(np.float32), rng)
    ids = np.array([f"d{i:03d}" for i in range(len(y))])
    return Features(doc_ids=ids, groups=groups, audio=audio, text=None, targets={"state": y})


def test_the_baseline_equals_a_plain_regression_whose_strength_is_searched_by_hand() -> None:
    y = np.tile([0, 0, 1, 0, 2, 0, 1, 0, 0, 1], 9)  # skewed: decisions are corrected by the prior
    y[::11] = -1
    features = labelled_features(y, np.arange(90) // 10)
    assert features.audio is not None
    x, groups = features.audio.wide, features.groups
    train, test = np.flatnonzero(groups < 6), np.flatnonzero(groups >= 6)
    known = train[y[train] >= 0]

    def fitted(c: float, at: np.ndarray) -> tuple[StandardScaler, LogisticRegression]:
        scaler = StandardScaler().fit(x[at])
        return scaler, LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(x[at]), y[at])

    def score(c: float) -> float:
        found = []
        for a, b in GroupKFold(3).split(known, groups=groups[known]):
            scaler, model = fitted(c, known[a])
            held = known[b]
            found.append(-log_loss(y[held], model.predict_proba(scaler.transform(x[held])), labels=[0, 1, 2]))
        return float(np.mean(found))

    scaler, model = fitted(max(np.logspace(-4, 0, 5), key=score), known)
    expected = model.predict_proba(scaler.transform(x[test]))
    tasks = {"state": TaskConfig(classes=("a", "b", "c"))}
    probabilities, decisions = logistic(features, Config(tasks=tasks), train, test)
    np.testing.assert_allclose(probabilities["state"], expected, atol=1e-6)
    np.testing.assert_array_equal(decisions["state"], (expected / np.bincount(y[known])).argmax(1))
    assert (decisions["state"] != expected.argmax(1)).any()


def test_classes_that_training_lacks_get_no_probability_and_no_decision() -> None:
    y = np.arange(60) % 3
    groups = np.arange(60) % 6
    groups[y == 2] = 5  # only the tested group has it
    features = labelled_features(y, groups)
    train, test = np.flatnonzero(groups < 5), np.flatnonzero(groups == 5)
    tasks = {"state": TaskConfig(classes=("a", "b", "c", "never"))}
    probabilities, decisions = logistic(features, Config(tasks=tasks), train, test)
    assert (probabilities["state"][:, 2:] == 0).all()
    np.testing.assert_allclose(probabilities["state"].sum(1), 1.0, atol=1e-6)
    assert set(decisions["state"]) <= {0, 1}
    one_class = np.flatnonzero((groups < 5) & (y == 1))
    probabilities, decisions = logistic(features, Config(tasks=tasks), one_class, test)
    assert (probabilities["state"][:, 1] == 1).all()
    assert set(decisions["state"]) == {1}


def test_a_class_of_one_training_group_does_not_switch_the_search_for_a_strength_off() -> None:
    """An inner fold without it has one class left, which failed and made all strengths look alike."""
    groups = np.arange(120) % 6
    y = ((groups == 0) | (groups == 5)).astype(np.int64)
    features = labelled_features(y, groups)
    train, test = np.flatnonzero(groups < 5), np.flatnonzero(groups == 5)
    tasks = {"state": TaskConfig(kind="binary", classes=("no", "yes"))}
    probabilities, _ = logistic(features, Config(tasks=tasks), train, test)
    assert probabilities["state"][:, 1].mean() > 0.5, "the weakest strength gives the class's share, 0.2"


@pytest.mark.parametrize("groups", [np.zeros(40, np.int64), np.arange(40) % 2])
def test_one_training_group_or_groups_of_one_class_each_are_no_crash(groups: np.ndarray) -> None:
    y = np.arange(40) % 2
    features = labelled_features(y, groups)
    tasks = {"state": TaskConfig(kind="binary", classes=("no", "yes"))}
    probabilities, decisions = logistic(features, Config(tasks=tasks), np.arange(40), np.arange(40))
    assert (probabilities["state"][y == 1, 1].mean()) > probabilities["state"][y == 0, 1].mean()
    assert (decisions["state"] == y).mean() > 0.8


def test_the_linear_model_reads_the_modality_that_tells_the_task() -> None:
    """An idle and much wider modality would hurt it: inner folds leave it out, for each task by itself."""
    rng = np.random.default_rng(4)
    heard, read = rng.integers(0, 2, 120), rng.integers(0, 2, 120)
    lengths = np.full(120, 4)
    features = replace(
        make.features(120, groups=24, absent=0.0),
        audio=make.ragged(lengths, 40, 0.8 * heard, rng),
        text=make.ragged(lengths, 300, 0.8 * read, rng),
        targets={"heard": heard, "read": read},
    )
    tasks = {name: TaskConfig(kind="binary", classes=("no", "yes")) for name in ("heard", "read")}
    train, test = np.flatnonzero(features.groups < 16), np.flatnonzero(features.groups >= 16)
    chosen, _ = logistic(features, Config(tasks=tasks), train, test)
    for task, modality in (("heard", "audio"), ("read", "text")):
        single, _ = logistic(features.only(modality), Config(tasks=tasks), train, test)  # type: ignore[arg-type]
        np.testing.assert_allclose(chosen[task], single[task], atol=1e-6)


def test_numbers_are_predicted_by_the_strength_with_the_least_error_on_inner_groups() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(50, 10, 90).astype(np.float32)
    y[3] = np.nan
    audio = make.ragged(np.full(90, 4), 12, np.nan_to_num((y - 50) / 10), rng)
    features = replace(make.features(90, groups=15, absent=0.0), audio=audio, text=None, targets={"score": y})
    train, test = np.flatnonzero(features.groups < 12), np.flatnonzero(features.groups >= 12)
    known = train[np.isfinite(y[train])]
    x = audio.wide

    def fitted(alpha: float, at: np.ndarray) -> tuple[StandardScaler, Ridge]:
        scaler = StandardScaler().fit(x[at])
        return scaler, Ridge(alpha).fit(scaler.transform(x[at]), y[at].astype(np.float64))

    def error(alpha: float) -> float:
        errors = []
        for a, b in GroupKFold(3).split(known, groups=features.groups[known]):
            scaler, model = fitted(alpha, known[a])
            errors.append(np.square(model.predict(scaler.transform(x[known[b]])) - y[known[b]]).mean())
        return float(np.mean(errors))

    scaler, model = fitted(min(np.logspace(0, 5, 11), key=error), known)
    expected = model.predict(scaler.transform(x[test]))
    predicted, _ = logistic(features, Config(tasks={"score": TaskConfig(kind="regression")}), train, test)
    np.testing.assert_allclose(predicted["score"], expected, rtol=1e-5)
