"""Places in a range, random members of a space, importances and the rule of choice, against formulas."""

import math
import random
from typing import Any

import numpy as np
import optuna.importance  # by name: the attribute of the package is replaced when it is first used
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import kstest, sem

from hilbert_ray.config import Config, SpaceConfig, from_dict
from hilbert_ray.tuning.importance import importances
from hilbert_ray.tuning.search import _standard_error, choose_trial
from hilbert_ray.tuning.space import _draw, defaults, nearest

lows, ratios, places = st.floats(1e-6, 1e6), st.floats(1.01, 1e6), st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(lows, ratios, places, st.booleans())
def test_the_value_at_a_place_is_at_that_place(low: float, ratio: float, place: float, log: bool) -> None:
    searched = SpaceConfig(low=low, high=low * ratio, log=log)
    value = searched.between(place)
    assert low * (1 - 1e-12) <= value <= low * ratio * (1 + 1e-12)
    assert searched.place(value) == pytest.approx(place, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(lows, ratios, st.floats(1e-7, 1e9))
def test_places_are_interpolated_between_the_ends_or_their_logarithms(
    low: float, ratio: float, value: float
) -> None:
    """Outside the range too: the line through both ends goes on."""
    assume(not math.isclose(value, low))
    high = low * ratio
    plain = SpaceConfig(low=low, high=high).place(value)
    assert plain * (high - low) + low == pytest.approx(value, rel=1e-9, abs=1e-9 * high)
    logarithmic = SpaceConfig(low=low, high=high, log=True).place(value)
    assert math.exp(logarithmic * math.log(ratio)) * low == pytest.approx(value, rel=1e-6)
    assert (plain < 0) == (logarithmic < 0) == (value < low)


@settings(max_examples=30, deadline=None)
@given(lows, ratios)
def test_the_middle_of_a_range_is_the_mean_of_its_ends_on_its_scale(low: float, ratio: float) -> None:
    high = low * ratio
    assert SpaceConfig(low=low, high=high).between(0.5) == pytest.approx((low + high) / 2)
    assert SpaceConfig(low=low, high=high, log=True).between(0.5) == pytest.approx(
        math.sqrt(low) * math.sqrt(high)
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=3), min_size=2, max_size=9, unique=True))
def test_choices_are_evenly_spaced(choices: list[str]) -> None:
    searched = SpaceConfig(choices=tuple(choices))
    np.testing.assert_allclose([searched.place(c) for c in choices], np.linspace(0, 1, len(choices)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 99))
def test_random_members_of_a_range_are_uniform_within_its_bounds(low: int, more: int, seed: int) -> None:
    generator = random.Random(seed)
    drawn = [_draw(IntDistribution(low, low + more), generator) for _ in range(300)]
    assert all(isinstance(value, int) and low <= value <= low + more for value in drawn)
    reals = [_draw(FloatDistribution(low, low + more + 1.0), generator) for _ in range(300)]
    assert kstest(reals, "uniform", args=(low, more + 1.0)).pvalue > 1e-5
    assert {_draw(CategoricalDistribution((low, "a")), generator) for _ in range(300)} == {low, "a"}


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 8), st.integers(1, 60), st.floats(0.01, 1), st.floats(1.1, 8))
def test_the_stand_in_of_the_defaults_is_the_nearest_member(
    cka: float, epochs: int, low: float, ratio: float
) -> None:
    searched = {"loss.cka": [low, low * ratio], "fit.epochs": {"low": 5, "high": 40}}
    values = {"tune": {"space": searched}, "loss": {"cka": cka}, "fit": {"epochs": epochs}}
    config = from_dict(Config, values)
    assert defaults(config) == {"loss.cka": cka, "fit.epochs": epochs}
    space = {"loss.cka": FloatDistribution(low, low * ratio, log=True), "fit.epochs": IntDistribution(5, 40)}
    found = nearest(config, space)
    assert found["loss.cka"] == pytest.approx(np.clip(cka, low, low * ratio))
    assert found["fit.epochs"] == np.clip(epochs, 5, 40)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_the_standard_error_of_folds_is_that_of_scipy(values: list[float]) -> None:
    assert _standard_error(values) == pytest.approx(sem(values), abs=1e-12)
    assert _standard_error(values[:1]) == 0.0


def trial(score: list[float], brier: list[float], is_default: bool = False) -> dict[str, Any]:
    means = {"score": float(np.mean(score)), "brier": float(np.mean(brier))}
    return {"settings": {}, "is_default": is_default, "folds": score, "briers": brier, **means}


three = st.lists(st.integers(0, 8).map(lambda k: k / 8), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@example(folds=[([0.5] * 3, [0.5] * 3)] * 2, has_brier=False)
@given(folds=st.lists(st.tuples(three, three), min_size=1, max_size=6), has_brier=st.booleans())
def test_the_chosen_trial_is_that_of_a_plain_reading_of_the_rule(
    folds: list[tuple[list[float], list[float]]], has_brier: bool
) -> None:
    """The last trial has the defaults. Of equal trials the first counts, but none instead of the defaults."""
    trials = [trial(score, brier, i == len(folds) - 1) for i, (score, brier) in enumerate(folds)]
    scores, briers = np.array(folds).mean(2).T
    error, brier_error = sem(folds[-1][0]), sem(folds[-1][1])
    best = int(scores.argmax())
    if has_brier:
        threshold = scores[best] - sem(folds[best][0])
        assume(not np.isclose(scores, threshold, rtol=0, atol=1e-9).any() or sem(folds[best][0]) == 0)
        best = min(np.flatnonzero(scores >= threshold).tolist(), key=lambda i: (briers[i], i))
    gains = [(scores[best] - scores[-1], error), (briers[-1] - briers[best], brier_error)][: 1 + has_brier]
    assume(all(not np.isclose(abs(gain), bound, rtol=0, atol=1e-9) or gain == 0 for gain, bound in gains))
    is_better = any(gain > bound for gain, bound in gains) and all(gain >= -bound for gain, bound in gains)
    chosen = choose_trial(trials, ["score", "brier"][: 1 + has_brier])
    assert chosen is trials[best if is_better else -1]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.floats(0.01, 1), st.floats(2, 1e3))
def test_importances_are_asked_of_gains_over_the_defaults_and_of_places(
    seed: int, searches: int, low: float, ratio: float
) -> None:
    """A gain is the mean difference from the defaults over those folds that a trial finished."""
    rng = np.random.default_rng(seed)
    space = {
        "loss.cka": SpaceConfig(low=low, high=low * ratio, log=True),
        "layers": SpaceConfig(choices=(0, 1)),
    }
    found, gains, at = [], [], []
    for _ in range(searches):
        folds = rng.normal(size=(20, 3))
        u, finished = rng.random(20), [3, *rng.integers(1, 4, 19)]
        found.append(
            [
                {
                    "folds": folds[i, :n].tolist(),
                    "settings": {"loss.cka": low * ratio ** u[i], "layers": i % 2},
                    "is_default": i == 0,
                }
                for i, n in enumerate(finished)
            ]
        )
        gains += [float((folds[i, :n] - folds[0, :n]).mean()) for i, n in enumerate(finished)]
        at += u.tolist()
    shares = iter([{"loss.cka": 0.5 + k / 20, "layers": 0.5 - k / 20} for k in range(5)])
    asked = []

    def answer(study: optuna.Study, **_: object) -> dict[str, float]:
        asked.append(study.get_trials())
        return next(shares)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.importance, "get_param_importances", answer)
        result, count = importances(found, space)
    assert count == 20 * searches
    np.testing.assert_allclose([one.value for one in asked[0]], gains, atol=1e-12)
    np.testing.assert_allclose([one.params["loss.cka"] for one in asked[0]], at, atol=1e-9)
    assert [one.params["layers"] for one in asked[0]] == [0, 1] * (10 * searches)
    assert result["loss.cka"] == pytest.approx({"mean": 0.6, "least": 0.5, "most": 0.7})
    assert result["layers"] == pytest.approx({"mean": 0.4, "least": 0.3, "most": 0.5})
