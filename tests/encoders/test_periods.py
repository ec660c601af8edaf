"""Periods, jitter and shimmer of pulses whose times and amplitudes are known."""

import numpy as np
import pytest

from hilbert_ray.encoders.periods import jitter, period_marks, shimmer, voiced_runs
from tests.encoders.test_pitch import tracked
from tests.encoders.voices import pulses


def varying(count: int, deviation: float, seed: int) -> np.ndarray:
    return 1 + deviation * np.random.default_rng(seed).uniform(-1, 1, count)


def measured(samples: np.ndarray) -> tuple[list[np.ndarray], float, float]:
    marks = period_marks(samples, tracked(samples).f0)
    return marks, jitter(marks), shimmer(samples, marks)


def local_variation(values: np.ndarray) -> float:
    """Return the mean difference of neighbours in percent of the mean: the definition of both measures."""
    return float(100 * np.abs(np.diff(values)).mean() / values.mean())


def test_a_steady_voice_has_neither() -> None:
    [marks], varies, swells = measured(pulses(500 + 117.3 * np.arange(200), np.ones(200)))
    np.testing.assert_allclose(np.diff(marks), 117.3, atol=0.05)
    assert len(marks) >= 190
    assert varies < 0.02
    assert swells < 0.1


@pytest.mark.parametrize("deviation", [0.005, 0.01, 0.03])
def test_jitter_is_that_of_the_true_periods(deviation: float) -> None:
    periods = 117.3 * varying(200, deviation, 0)
    starts = 500 + np.cumsum(periods)
    [marks], varies, swells = measured(pulses(starts, np.ones(200)))
    assert varies == pytest.approx(local_variation(np.diff(starts)), rel=0.05)
    assert swells < 1
    # The first and the last pulses may be outside of the voiced frames.
    assert len(marks) >= 190
    lengths, true = np.diff(marks), np.diff(starts)
    errors = [np.abs(lengths - true[k : k + len(lengths)]).max() for k in range(200 - len(marks) + 1)]
    assert min(errors) < 0.3


@pytest.mark.parametrize("deviation", [0.02, 0.1, 0.2])
def test_shimmer_is_that_of_the_true_amplitudes(deviation: float) -> None:
    amplitudes = varying(200, deviation, 1)
    _, varies, swells = measured(pulses(500 + 117.3 * np.arange(200), amplitudes))
    assert swells == pytest.approx(local_variation(amplitudes), rel=0.05)
    assert varies < 0.1


def test_a_pause_is_no_period() -> None:
    voice = pulses(500 + 117.3 * np.arange(60), np.ones(60))
    marks, varies, swells = measured(np.concatenate([voice, np.zeros(8000), voice]))
    assert len(marks) == 2
    assert [len(run) for run in marks] == pytest.approx([60, 60], abs=5)
    assert varies < 0.02
    assert swells < 0.1


def test_what_has_no_two_periods_has_no_jitter_and_no_shimmer() -> None:
    assert jitter([]) == jitter([np.array([1.0]), np.array([0.0, 100.0])]) == 0
    assert shimmer(np.ones(1000), [np.array([100.0, 200.0, 300.0])]) == 0


def test_stretches_of_voiced_frames() -> None:
    assert list(voiced_runs(np.array([0, 100, 100, 0, 0, 90]))) == [(1, 3), (5, 6)]
    assert list(voiced_runs(np.zeros(3))) == []
