"""What may be searched, which trial is chosen, and what importances say; none of it needs Ray's cluster."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hilbert_ray.config import Config, ConfigError, LossConfig, Scalar, SpaceConfig, from_dict, to_dict
from hilbert_ray.tuning.importance import LEAST_TRIALS, importances
from hilbert_ray.tuning.search import choose_trial
from hilbert_ray.tuning.space import apply, defaults, make_space, nearest, nested

SPACE = {
    "loss.cka": [0.1, 2],
    "fit.warmup": {"low": 0, "high": 0.2},
    "fit.epochs": {"low": 5, "high": 40},
    "moe.hidden_dim": {"low": 16, "high": 64, "log": True},
    "model.layers": {"choices": [0, 1, 2]},
    "model.wide": {"choices": [True, False]},
    "loss.penalty": {"choices": ["off_diagonal", "lin"]},
    "model.dropout": {"choices": [0, 0.5]},
}


def settings(space: dict[str, Any], **changes: Any) -> Config:  # noqa: ANN401
    return from_dict(Config, {"tune": {"space": space, **changes}})


def test_the_type_of_a_field_makes_its_distribution() -> None:
    found = make_space(settings(SPACE))
    assert found == {
        "loss.cka": FloatDistribution(0.1, 2.0, log=True),
        "fit.warmup": FloatDistribution(0.0, 0.2),
        "fit.epochs": IntDistribution(5, 40),
        "moe.hidden_dim": IntDistribution(16, 64, log=True),
        "model.layers": CategoricalDistribution([0, 1, 2]),
        "model.wide": CategoricalDistribution([True, False]),
        "loss.penalty": CategoricalDistribution(["off_diagonal", "lin"]),
        "model.dropout": CategoricalDistribution([0.0, 0.5]),
    }
    config = settings(SPACE)
    assert from_dict(Config, to_dict(config)) == config


def test_what_a_search_chooses_reads_back_as_settings() -> None:
    changes: dict[str, Scalar] = {
        "fit.epochs": 7,
        "model.wide": False,
        "loss.penalty": "lin",
        "loss.cka": 0.5,
    }
    changed = from_dict(Config, nested(changes), Config())
    assert changed == apply(Config(), changes)
    assert (changed.fit.epochs, changed.model.wide, changed.loss.penalty, changed.loss.cka) == (
        7, False, "lin", 0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"loss.ckaa": [0.1, 1.0]}, r"`loss\.ckaa`, which is not a setting; use a name such as `loss\.cka`"),
        ({"loss": [0.1, 1.0]}, r"`loss`, which is {.*; use one of its fields instead"),
        (
            {"folds.folds": {"choices": [3, 5]}},
            r"`folds\.folds`, which trials do not depend on; use a field of",
        ),
        ({"fit.seeds": {"choices": [1, 3]}}, "which trials do not depend on"),
        ({"model.wide": [0.1, 1.0]}, r"`model\.wide` the range 0\.1 to 1, but it is True; give choices"),
        ({"fit.epochs": [1.5, 4]}, "the range 1.5 to 4, but it is 20; give whole numbers"),
        ({"model.dropout": {"low": 0.1, "high": 1}}, r"`model\.dropout` to be 1\.0, but .*below 1"),
        ({"loss.penalty": {"choices": ["lin", "lim"]}}, "to be 'lim', but .*the choices are off_diagonal"),
        ({"fit.epochs": {"choices": [5, 7.5]}}, r"`fit\.epochs` to be 7\.5, but .*must be of type int"),
        (
            {"model.dim": {"low": 32, "high": 64}},
            r"allows model\.dim \d+, but .*heads must divide dim.*list valid choices",
        ),
        (
            {"model.dim": {"choices": [36, 40]}, "model.heads": {"choices": [3, 4, 5]}},
            r"`model\.heads` to be 3, but .*heads must divide dim",
        ),
        (
            {"moe.experts": {"choices": [2, 4]}, "moe.top_k": {"choices": [2, 4]}},
            r"allows moe\.experts 2, moe\.top_k 4, but .*top_k must be from 1 to experts",
        ),
    ],
)
def test_a_space_that_cannot_be_trained_is_refused_by_name(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"tune\.space.*{message}"):
        make_space(settings(space))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {"loss.cka": {"low": 1, "high": 1}}}, r"in tune\.space\.loss\.cka: low is 1\.0 and high"),
        ({"space": {"loss.cka": {"low": 1}}}, "low is 1.0 and high is None; set both, or choices"),
        ({"space": {"loss.cka": {"low": 0, "high": 1, "log": True}}}, "must begin above 0: leave out `log`"),
        ({"space": {"loss.cka": {"choices": [1]}}}, "list at least two, each once"),
        ({"space": {"loss.cka": {"choices": [1, 2], "low": 1}}}, "and a range are both set; set only one"),
        ({"space": {"loss.cka": {"lo": 1}}}, r"unknown setting `tune\.space\.loss\.cka\.lo`: did you mean"),
        ({"space": {"loss.cka": [0, 1]}}, r"gives `loss\.cka` the range .*two rising numbers above 0"),
        ({"space": {}}, "tune.space is empty; name at least one field"),
        ({"scheduler": "pb2"}, "`tune.scheduler` is 'pb2'; the choices are asha, hyperband, none"),
        ({"algorithm": "grid"}, "`tune.algorithm` is 'grid'; the choices are tpe, random"),
        ({"objectives": ["brier"]}, r"the choices are \[score\] and \[score, brier\]"),
        ({"objectives": ["score", "brier"]}, "scheduler is asha, which stops trials by a single number; set"),
        ({"cpus_per_trial": 0}, "tune.cpus_per_trial is 0.0; it must be from 0.001 to 10000"),
        ({"gpus_per_trial": 2}, "a worker runs on at most one GPU"),
        ({"workers_per_trial": 0}, "tune.workers_per_trial is 0; it must be from 1 to"),
        ({"workers_per_trial": 2, "gpus_per_trial": 0.5}, "the ranks of a trial cannot share a GPU"),
    ],
)
def test_wrong_settings_of_a_search_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, {"tune": values})


def test_defaults_outside_the_space_have_a_stand_in() -> None:
    config = replace(settings(SPACE), loss=LossConfig(cka=0.0))
    space = make_space(config)
    assert defaults(config)["loss.cka"] == 0.0
    first = nearest(config, space)
    assert first == {**defaults(config), "loss.cka": 0.1, "model.dropout": 0.0}
    assert all(space[name]._contains(space[name].to_internal_repr(first[name])) for name in space)


@pytest.mark.parametrize("form", [{"low": 0.5, "high": 8.0, "log": True}, {"low": -1.0, "high": 3.0}])
def test_places_of_a_range_are_taken_back(form: dict[str, Any]) -> None:
    wanted = SpaceConfig(**form)
    assert [wanted.place(wanted.between(place)) for place in (0.0, 0.25, 1.0)] == pytest.approx([0, 0.25, 1])
    assert wanted.between(0.5) == pytest.approx(2.0 if wanted.log else 1.0)
    assert SpaceConfig(choices=("a", "b", "c")).place("b") == 0.5


def trial(folds: list[float], briers: list[float] | None = None, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    briers = briers or [0.5] * len(folds)
    means = {"score": float(np.mean(folds or [0])), "brier": float(np.mean(briers or [2]))}
    return {"settings": {}, "is_default": False, "folds": folds, "briers": briers, **means, **changes}


BASE = trial([0.6, 0.7, 0.8], [0.4, 0.5, 0.6], is_default=True)  # standard errors 0.0577 and 0.0577


def test_the_defaults_stay_unless_beaten_by_more_than_their_standard_error() -> None:
    near, far, short = trial([0.75, 0.75, 0.75]), trial([0.76, 0.76, 0.76]), trial([0.99])
    assert choose_trial([BASE, near, short], ["score"]) == BASE
    assert choose_trial([BASE, near, short, far], ["score"]) == far
    assert choose_trial([near, far], ["score"]) is None
    assert choose_trial([trial([], is_default=True), far], ["score"]) is None


def test_of_two_objectives_the_second_decides_within_one_standard_error_of_the_first() -> None:
    best = trial([0.70, 0.80, 0.90], [0.5, 0.5, 0.5])  # standard error 0.0577
    near = trial([0.75, 0.75, 0.75], [0.3, 0.3, 0.3])
    poor = trial([0.73, 0.73, 0.73], [0.1, 0.1, 0.1])  # calibrated, but more than one error below
    both = ["score", "brier"]
    assert choose_trial([BASE, best, near, poor], both) == near
    assert choose_trial([BASE, best, poor], both) == best
    worse = trial([0.9, 0.9, 0.9], [0.6, 0.6, 0.6])  # a better score paid for with calibration
    assert choose_trial([BASE, worse], both) == BASE
    assert choose_trial([BASE, worse], ["score"]) == worse


def planted(count: int, seed: int) -> list[dict[str, Any]]:
    """Return trials in which `loss.cka` matters (on its logarithm) and the others do not; some end early."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 0.2, 3)  # inner folds differ more than trials do
    found = []
    for i in range(count):
        sample = {
            "loss.cka": float(10 ** rng.uniform(-2, 1)),
            "fit.epochs": int(rng.integers(2, 10)),
            "model.layers": int(rng.integers(0, 3)),
        }
        value = -0.1 * abs(np.log10(sample["loss.cka"]) + 1) + rng.normal(0, 0.01, 3) + level
        found.append(trial(value[: 1 + i % 3].tolist(), settings=sample, is_default=i == 2))
    return found


WHERE = {
    "loss.cka": SpaceConfig(low=0.01, high=10.0, log=True),
    "fit.epochs": SpaceConfig(low=2, high=9),
    "model.layers": SpaceConfig(choices=(0, 1, 2)),
}


def test_the_setting_that_matters_has_the_greatest_importance() -> None:
    """Trials that saw other folds are compared on these: without, the folds' levels would drown it."""
    for seed in (0, 1):
        shares, counted = importances([planted(30, seed), planted(30, seed + 10)], WHERE)
        assert counted == 60
        assert next(iter(shares)) == "loss.cka"
        assert shares["loss.cka"]["least"] > 0.7
        assert sum(share["mean"] for share in shares.values()) == pytest.approx(1)
        for share in shares.values():
            assert share["least"] <= share["mean"] <= share["most"]


def test_too_few_trials_or_equal_ones_have_no_importance() -> None:
    assert importances([planted(LEAST_TRIALS - 1, 0)], WHERE) == ({}, LEAST_TRIALS - 1)
    same = [{**one, "folds": [0.5] * len(one["folds"])} for one in planted(40, 0)]
    assert importances([same], WHERE) == ({}, 40)


def test_trials_that_diverged_have_no_importance_and_are_not_counted() -> None:
    diverged = [trial([], settings=one["settings"], error="loss is nan") for one in planted(5, 1)]
    assert importances([[*planted(30, 0), *diverged]], WHERE)[1] == 30


def test_layers_are_searched_as_any_other_choice() -> None:
    config = settings({"model.audio_layers": {"choices": ["all", "2", "1:3"]}})
    assert list(make_space(config)) == ["model.audio_layers"]
    assert apply(config, {"model.audio_layers": "1:3"}).model.layers_of("audio", 5) == slice(1, 4)
    with pytest.raises(ConfigError, match=r"model\.audio_layers is 'first'; set it to `all`"):
        make_space(settings({"model.audio_layers": {"choices": ["all", "first"]}}))
