"""Numbers of settings: how they are read, what bounds messages state, and weights of ablations."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from hilbert_ray.config import Config, ConfigError, LossConfig, from_dict, to_dict
from hilbert_ray.config.constraints import Constraint, _check_number, _rule
from hilbert_ray.config.presets import ablations, without

WEIGHTS = LossConfig.WEIGHTS


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 100) | st.floats(0, 100), st.integers(1, 500))
def test_whole_numbers_become_fractions_and_fractions_no_whole_numbers(weight: float, epochs: int) -> None:
    config = from_dict(Config, {"loss": {"cka": weight}, "fit": {"epochs": epochs}})
    assert isinstance(config.loss.cka, float)
    assert config.loss.cka == pytest.approx(weight, rel=1e-15)
    assert to_dict(config)["loss"]["cka"] == config.loss.cka
    assert from_dict(Config, to_dict(config)) == config
    with pytest.raises(ConfigError, match=r"`fit\.epochs` is .*; it must be of type int"):
        from_dict(Config, {"fit": {"epochs": float(epochs)}})


@settings(max_examples=60, deadline=None)
@given(
    st.none() | st.tuples(st.sampled_from(["ge", "gt"]), st.integers(-50, 50)),
    st.none() | st.tuples(st.sampled_from(["le", "lt"]), st.integers(-50, 50)),
    st.floats(-60, 60) | st.integers(-60, 60),
)
def test_a_number_passes_exactly_if_it_is_within_the_bounds_that_the_message_states(
    low: tuple[str, int] | None, high: tuple[str, int] | None, value: float
) -> None:
    bounds: dict[str, Any] = dict(end for end in (low, high) if end is not None)
    meta = Meta(**bounds)
    lower, upper = -math.inf if low is None else low[1], math.inf if high is None else high[1]
    is_above = value >= lower if "gt" not in bounds else value > lower
    is_below = value <= upper if "lt" not in bounds else value < upper
    constraint = Constraint(field="x", kind=float, meta=meta)
    if is_above and is_below:
        _check_number("x", value, constraint)
    else:
        with pytest.raises(ConfigError, match=re.escape(f"x is {value}; it must be {_rule(meta)}")):
            _check_number("x", value, constraint)
    stated = [float(number) for number in re.findall(r"-?\d+", _rule(meta))]
    assert stated == pytest.approx([end for end in (lower, upper) if math.isfinite(end)])


weights = st.fixed_dictionaries({name: st.floats(0.01, 10) for name in WEIGHTS})


@settings(max_examples=15, deadline=None)
@given(weights, st.sets(st.sampled_from(WEIGHTS)))
def test_a_loss_term_that_is_left_out_has_weight_0_and_the_others_keep_theirs(
    values: dict[str, float], terms: set[str]
) -> None:
    config = replace(Config(), loss=LossConfig(**values))  # type: ignore[arg-type]
    left = without(config, *terms)
    assert [getattr(left.loss, name) for name in WEIGHTS] == pytest.approx(
        [0.0 if name in terms else values[name] for name in WEIGHTS]
    )
    assert replace(left, loss=config.loss) == config


@settings(max_examples=5, deadline=None)
@given(weights)
def test_each_ablation_changes_the_weights_that_its_name_says(values: dict[str, float]) -> None:
    config = replace(Config(), loss=LossConfig(**values))  # type: ignore[arg-type]
    off = {
        name: {term for term in WEIGHTS if getattr(made.loss, term) == 0}
        for name, made in ablations(config).items()
        if name != "paper"
    }
    router = {"load_balance", "router_z"}
    assert off == {
        "reciprocal_contrast": set(), "direct_contrast": {"cka", "balance"},
        "no_fusion": set(), "mlp_head": set(), "without_wide": set(),
        "without_unimodal": {"unimodal"}, "without_contrastive": {"contrastive"}, "without_cka": {"cka"},
        "without_balance": {"balance"}, "without_router_losses": router,
        "without_redundancy": {"redundancy"},
        "task_only": {"contrastive", "cka", "balance", "redundancy", *router},
    }  # fmt: skip
    for name, made in ablations(config).items():
        if name != "paper":
            kept = [term for term in WEIGHTS if term not in off[name]]
            assert [getattr(made.loss, term) for term in kept] == pytest.approx(
                [values[term] for term in kept]
            )
