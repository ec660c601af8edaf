"""Settings: round trip, unknown keys, contradictions."""

import dataclasses
import json
from pathlib import Path

import pytest

from hilbert_ray.config.presets import PRESETS, ablations, preset
from hilbert_ray.config.reading import from_dict, load_file, to_dict
from hilbert_ray.config.settings import Config, ConfigError, FitConfig, LossConfig, TaskConfig


def test_settings_survive_json() -> None:
    config = Config(
        tasks={"mood": TaskConfig(kind="ordinal", classes=("low", "high"))}, loss=LossConfig(cka=0.3)
    )
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": {"ckaa": 0.3}}, r"unknown setting `loss\.ckaa`: did you mean `cka`\?"),
        ({"los": {}}, r"unknown setting `los`: did you mean `loss`\?"),
        ({"loss": {"cka": "much"}}, r"`loss\.cka` is 'much'; it must be of type float"),
        ({"loss": {"cka": -1}}, r"loss\.cka is -1\.0; a weight must be 0 or more"),
        ({"segment": {"hop_s": 20}}, r"segment\.hop_s is 20\.0 and segment\.window_s is 10\.0: a hop above"),
        ({"segment": {"audio": "word"}}, r"`segment\.audio` is 'word'; the choices are window, pause, turns"),
        ({"segment": {"roles": "participant"}}, r"`segment\.roles` is 'participant'; it must be a list"),
        ({"model": {"heads": 3}}, r"model\.heads is 3 and model\.dim is 64: heads must divide dim"),
        ({"moe": {"top_k": 9}}, r"moe\.top_k is 9 and moe\.experts is 4"),
        ({"audio": "none", "text": "none"}, "at least one modality must have an encoder"),
        ({"audio": "mfccc"}, r"audio encoder is 'mfccc'; the choices are `mfcc`, `hf:"),
        (
            {"tasks": {"t": {"kind": "binary", "classes": ["a"]}}},
            r"in tasks\.t: .*exactly 2|needs at least 2",
        ),
        ({"tasks": {"t": {"kind": "regression", "classes": ["a"]}}}, "a regression task has no classes"),
        ({"audio_encoder": {"layer": "12:6"}}, "encoder layer is '12:6'"),
        ({"fit": {"epochs": 0}}, "nothing would be trained"),
        ({"fit": {"ema": 1.0}}, r"fit\.ema is 1\.0; it must be 0 \(off\) or a decay below 1"),
        ({"fit": {"memory_gib": -1}}, r"fit\.memory_gib is -1\.0; it must be 0 \(automatic\) or more GiB"),
        ({"tune": {"space": {"loss.cka": [2.0, 1.0]}}}, r"gives `loss\.cka` the range"),
        ({"loss": 3}, "loss is 3; it must be a mapping"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, values)


def test_values_are_laid_over_a_base() -> None:
    base = Config(fit=FitConfig(epochs=7, seed=3))
    changed = from_dict(Config, {"fit": {"seed": 4}}, base)
    assert (changed.fit.epochs, changed.fit.seed) == (7, 4)


def test_every_field_has_a_help_text() -> None:
    import ast

    from hilbert_ray import config

    for node in ast.parse(Path(config.__file__).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config") and node.name != "Config":
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                    assert isinstance(after, ast.Expr), (
                        f"{node.name}.{ast.unparse(field.target)} has no docstring"
                    )


def test_a_settings_file_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    good = tmp_path / "c.yaml"
    good.write_text("loss: {cka: 0.3}\n")
    assert load_file(good) == {"loss": {"cka": 0.3}}
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_file(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_file(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="no settings file at"):
        load_file(tmp_path / "absent.yaml")


def test_presets_and_ablations_differ_where_their_names_say() -> None:
    assert set(PRESETS) == {"small", "large", "paper"}
    assert not preset("paper").model.wide
    assert not preset("paper").model.unimodal_heads
    with pytest.raises(ConfigError, match="the choices are small, paper, large"):
        preset("medium")
    base = Config()
    found = ablations(base)
    assert found["no_fusion"].model.layers == 0
    assert found["mlp_head"].moe.kind == "mlp"
    assert found["direct_contrast"].loss.direct
    for name, changed in found.items():
        assert changed != base, name
        assert dataclasses.replace(changed, model=base.model, moe=base.moe, loss=base.loss) == base, name
