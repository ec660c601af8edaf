"""Declared bounds and choices: each number has both bounds, and values just outside them are refused."""

import ast
import dataclasses
import math
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from hilbert_ray.config import (
    Config,
    ConfigError,
    EmbedConfig,
    EncoderConfig,
    FitConfig,
    FoldsConfig,
    LossConfig,
    ModelConfig,
    MoEConfig,
    RecognitionConfig,
    SegmentConfig,
    SpaceConfig,
    TrainConfig,
    TuneConfig,
)
from hilbert_ray.config import search as search_settings
from hilbert_ray.config import settings as all_settings
from hilbert_ray.config.constraints import Constraint, check_fields, constraints

SECTIONS: dict[str, type[Any]] = {
    "segment": SegmentConfig,
    "encoder": EncoderConfig,
    "embed": EmbedConfig,
    "recognition": RecognitionConfig,
    "model": ModelConfig,
    "moe": MoEConfig,
    "loss": LossConfig,
    "fit": FitConfig,
    "folds": FoldsConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
}
NUMBERS = [
    (section, constraint)
    for section, settings_class in SECTIONS.items()
    for constraint in constraints(settings_class)
    if constraint.kind is not None
]
COMPANIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("segment", "window_s"): {"hop_s": 0.001},
    ("segment", "hop_s"): {"window_s": 604_800.0},
    ("model", "dim"): {"heads": 1},
    ("model", "heads"): {"dim": 65_536},
    ("moe", "experts"): {"top_k": 1},
    ("moe", "top_k"): {"experts": 10_000},
    ("fit", "epochs"): {"align_epochs": 1},
    ("fit", "micro_batch_size"): {"batch_size": 1_000_000},
}
"""Values of other fields with which a field can take both of its bounds."""


def name_of(case: object) -> str | None:
    return case.field if isinstance(case, Constraint) else None


def bounds_of(constraint: Constraint) -> tuple[float, float, float, float]:
    """Return the least and greatest values allowed, then the nearest refused ones below and above."""
    meta, is_whole = constraint.meta, constraint.kind is int
    assert meta is not None
    step = meta.multiple_of or 1

    def beside(value: float, direction: int) -> float:
        return int(value) + direction * step if is_whole else math.nextafter(value, direction * math.inf)

    low, high = meta.ge, meta.le
    if low is None:
        assert meta.gt is not None
        low = beside(meta.gt, +1)
    if high is None:
        assert meta.lt is not None
        high = beside(meta.lt, -1)
    below, above = beside(low, -1), beside(high, +1)
    kind = constraint.kind or float
    return kind(low), kind(high), kind(below), kind(above)


def build(section: str, constraint: Constraint, value: object) -> Any:  # noqa: ANN401 - any settings class
    companions = COMPANIONS.get((section, constraint.field), {})
    return SECTIONS[section](**{**companions, constraint.field: value})


@pytest.mark.parametrize("settings_class", [*SECTIONS.values(), SpaceConfig], ids=lambda kind: kind.__name__)
def test_every_number_declares_a_lower_and_an_upper_bound(settings_class: type[Any]) -> None:
    for constraint in constraints(settings_class):
        if constraint.kind is not None:
            meta = constraint.meta
            assert meta is not None, f"{settings_class.__name__}.{constraint.field} declares no bounds"
            assert (meta.ge is None) != (meta.gt is None), constraint.field
            assert (meta.le is None) != (meta.lt is None), constraint.field


def test_every_settings_class_is_under_test_and_no_number_escapes_the_check() -> None:
    nested = {hint for hint in typing.get_type_hints(Config).values() if dataclasses.is_dataclass(hint)}
    assert nested == set(SECTIONS.values())
    for settings_class in SECTIONS.values():
        hints = typing.get_type_hints(settings_class)
        numbers = {field.name for field in dataclasses.fields(settings_class)}
        numbers = {name for name in numbers if hints[name] in (int, float, int | None, float | None)}
        assert numbers == {item.field for item in constraints(settings_class) if item.kind is not None}


@pytest.mark.parametrize(("section", "constraint"), NUMBERS, ids=name_of)
def test_a_number_is_accepted_at_its_bounds_and_refused_just_outside(
    section: str, constraint: Constraint
) -> None:
    low, high, below, above = bounds_of(constraint)
    for allowed in (low, high):
        assert getattr(build(section, constraint, allowed), constraint.field) == allowed
    for refused in (below, above):
        with pytest.raises(ConfigError, match=rf"^{section}\.{constraint.field} is .*; it must be "):
            build(section, constraint, refused)


@given(data=st.data())
def test_any_number_outside_its_bounds_is_refused(data: st.DataObject) -> None:
    section, constraint = data.draw(st.sampled_from(NUMBERS))
    _, _, below, above = bounds_of(constraint)
    outside: st.SearchStrategy[float]
    if constraint.kind is int:
        outside = st.integers(max_value=int(below)) | st.integers(min_value=int(above))
    else:
        outside = st.floats(max_value=below) | st.floats(min_value=above) | st.just(math.nan)
    with pytest.raises(ConfigError, match=rf"^{section}\.{constraint.field} is "):
        build(section, constraint, data.draw(outside))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_in_every_field(value: float) -> None:
    for section, constraint in NUMBERS:
        rule = "which is not a finite number" if constraint.kind is float else "it must be a whole number"
        with pytest.raises(ConfigError, match=rf"^{section}\.{constraint.field} is -?(nan|inf)[,;] {rule}$"):
            build(section, constraint, value)


@pytest.mark.parametrize(
    ("settings_class", "values", "message"),
    [
        (FitConfig, {"seeds": 0}, "fit.seeds is 0; it must be from 1 to 1000"),
        (FitConfig, {"epochs": -1}, "fit.epochs is -1; it must be from 0 to 100000"),
        (FitConfig, {"ema": 1.0}, "fit.ema is 1.0; it must be at least 0 and below 1 (0: off)"),
        (FitConfig, {"memory_gib": -1}, "fit.memory_gib is -1; it must be from 0 to 1048576 (0: automatic)"),
        (FitConfig, {"epochs": 2.0}, "fit.epochs is 2.0; it must be a whole number"),
        (FitConfig, {"epochs": True}, "fit.epochs is True; it must be a whole number"),
        (FitConfig, {"ema": "0.9"}, "fit.ema is '0.9'; it must be a number"),
        (FitConfig, {"ema": None}, "fit.ema is None; it must be a number"),
        (ModelConfig, {"dim": 7}, "model.dim is 7; it must be from 2 to 65536 and a multiple of 2"),
        (SegmentConfig, {"max_s": 0}, "segment.max_s is 0; it must be from 0.001 to 604800"),
        (FoldsConfig, {"inner": 1}, "folds.inner is 1; it must be 0 (off) or at least 2"),
        (EmbedConfig, {"gpu": "maybe"}, "embed.gpu is 'maybe'; the choices are auto, yes, no"),
        (SpaceConfig, {"low": 0, "high": 1e13}, "high is 10000000000000.0; it must be from -1e+12 to 1e+12"),
    ],
)
def test_a_message_names_the_setting_the_value_and_the_rule(
    settings_class: type[Any], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_class(**values)
    assert str(caught.value) == message


def test_numbers_of_numpy_are_accepted() -> None:
    assert FitConfig(epochs=np.int64(3), ema=np.float32(0.5)).epochs == 3  # type: ignore[arg-type]


def test_only_declared_fields_are_checked_and_none_only_where_it_is_declared() -> None:
    @dataclasses.dataclass
    class Example:
        share: Annotated[float, Meta(gt=0, lt=1)] | None = None
        form: Literal["a", "b"] | None = None
        free: int = 0
        word: str = ""

    check_fields(Example())
    check_fields(Example(share=0.5, form="b", free=-(10**30)))
    with pytest.raises(ConfigError, match=r"^x\.share is 1\.0; it must be above 0 and below 1$"):
        check_fields(Example(share=1.0), "x")
    with pytest.raises(ConfigError, match=r"^form is 'c'; the choices are a, b$"):
        check_fields(Example(form="c"))  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [all_settings, search_settings], ids=["settings", "search"])
def test_every_field_has_a_help_text(module: Any) -> None:  # noqa: ANN401 - a module
    classes = [
        node
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config") and node.name != "Config"
    ]
    assert classes
    for node in classes:
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                name = f"{node.name}.{ast.unparse(field.target)}"
                assert isinstance(after, ast.Expr), f"{name} has no docstring"
