"""Calibration: equal to scikit-learn, golden values and counts by hand."""

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from hilbert_ray.metrics.calibration import (
    brier,
    calibration_slope,
    decision_curve,
    expected_calibration_error,
    reliability,
)
from tests.metrics.helpers import GOLDEN, of_all


def test_calibration_error_equals_the_golden_value() -> None:
    golden = GOLDEN["calibration"]
    p, y = np.array(golden["inputs"]["probabilities"]), np.array(golden["inputs"]["targets"])
    assert of_all(expected_calibration_error, p, y) == pytest.approx(golden["ece"], abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_equals_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(classes), 50), rng.integers(0, classes, 50)
    expected = sk.brier_score_loss(y, p[:, 1] if classes == 2 else p, labels=range(classes))
    assert of_all(brier, p, y) == pytest.approx(expected, abs=1e-12)


def test_calibration_slope_equals_an_unpenalised_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=400)
    positive = rng.random(400) < special.expit(0.5 * logit - 0.3)
    result = calibration_slope(special.expit(logit), positive, np.zeros(400, np.int64))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], positive)
    assert result.value == pytest.approx(float(fitted.coef_[0, 0]), abs=1e-6)


def test_influences_on_the_slope_are_what_leaving_a_row_out_changes() -> None:
    rng = np.random.default_rng(0)
    p, positive = special.expit(rng.normal(size=300)), rng.random(300) < 0.4
    problem = np.repeat([0, 1], 150)
    whole = calibration_slope(p, positive, problem)
    for row in (0, 77, 299):
        kept = np.arange(300) != row
        without = calibration_slope(p[kept], positive[kept], problem[kept])
        assert whole.value - without.value == pytest.approx(whole.influence[row], rel=0.1, abs=1e-4)


def test_the_slope_is_undefined_for_separated_or_one_class_rows() -> None:
    p = np.linspace(0.01, 0.99, 20)
    assert np.isnan(calibration_slope(p, p > 0.5, np.zeros(20, np.int64)).value)
    assert np.isnan(calibration_slope(p, np.ones(20, bool), np.zeros(20, np.int64)).value)
    mixed = np.arange(20) % 2 == 0
    alone = calibration_slope(p, mixed, np.zeros(20, np.int64)).value
    beside_a_constant = calibration_slope(
        np.tile(p, 2), np.concatenate([mixed, np.ones(20, bool)]), np.repeat([0, 1], 20)
    ).value
    assert beside_a_constant == pytest.approx(alone, abs=1e-9)


def test_net_benefit_is_counted_by_hand() -> None:
    p, positive = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True])
    curve = decision_curve(p, positive, np.array([0.2, 0.5]))
    # At 0.2 three are acted on: 2 true, 1 false; at 0.5 two: 1 true, 1 false.
    assert curve["model"] == pytest.approx([2 / 4 - 1 / 4 * 0.25, 1 / 4 - 1 / 4])
    assert curve["all"] == pytest.approx([0.5 - 0.5 * 0.25, 0.0])


def test_reliability_bins_hold_every_row() -> None:
    result = reliability(np.array([0.05, 0.06, 0.95, 1.0]), np.array([False, True, True, True]))
    assert result["count"] == [2, 2]
    assert result["predicted"] == pytest.approx([0.055, 0.975])
    assert result["observed"] == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("bins", [5, 10])
def test_reliability_equals_scikit_learn(bins: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200)
    positive = rng.random(200) < p**2
    result = reliability(p, positive, bins)
    observed, predicted = calibration_curve(positive, p, n_bins=bins)
    assert result["observed"] == pytest.approx(observed)
    assert result["predicted"] == pytest.approx(predicted)
