"""Settings: round trip, unknown keys, contradictions."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.config import (
    Config,
    ConfigError,
    EncoderConfig,
    FitConfig,
    LossConfig,
    TaskConfig,
    from_dict,
    load_file,
    to_dict,
)
from hilbert_ray.config.presets import PRESETS, ablations, preset


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
        ({"loss": {"cka": -1}}, r"^loss\.cka is -1\.0; it must be from 0 to 1000000$"),
        ({"segment": {"hop_s": 20}}, r"segment\.hop_s is 20\.0 and segment\.window_s is 10\.0: a hop above"),
        ({"segment": {"audio": "word"}}, r"`segment\.audio` is 'word'; the choices are window, pause, turns"),
        ({"segment": {"roles": "participant"}}, r"`segment\.roles` is 'participant'; it must be a list"),
        ({"model": {"heads": 3}}, r"model\.heads is 3 and model\.dim is 64: heads must divide dim"),
        ({"moe": {"top_k": 9}}, r"moe\.top_k is 9 and moe\.experts is 4"),
        ({"audio": "none", "text": "none"}, "at least one modality must have an encoder"),
        ({"audio": "mfccc"}, r"audio encoder is 'mfccc'; the choices are `mfcc`, `prosody`, `hf:"),
        (
            {"tasks": {"t": {"kind": "binary", "classes": ["a"]}}},
            r"in tasks\.t: .*exactly 2|needs at least 2",
        ),
        (
            {"tasks": {"t": {"kind": "regression", "classes": ["a"]}}},
            r"in tasks\.t: a regression task has classes \['a'\]; it predicts",
        ),
        ({"audio_encoder": {"layer": "12:6"}}, "encoder layer is '12:6'"),
        ({"fit": {"epochs": 0}}, "nothing would be trained"),
        ({"fit": {"ema": 1.0}}, r"^fit\.ema is 1\.0; it must be at least 0 and below 1 \(0: off\)$"),
        ({"fit": {"memory_gib": -1}}, r"fit\.memory_gib is -1\.0; it must be from 0 to 1048576 \(0: auto"),
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


def test_a_user_of_python_needs_only_config(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("fit: {epochs: 7, ema: 0}\ntasks: {mood: {kind: binary, classes: [calm, tense]}}\n")
    config = Config.from_file(file)
    assert config == Config(
        fit=FitConfig(epochs=7, ema=0.0), tasks={"mood": TaskConfig(kind="binary", classes=("calm", "tense"))}
    )
    assert Config.from_file(str(file), preset("large")).model == preset("large").model
    changed = Config.from_dict({"fit": {"seed": 4}}, config)
    assert (changed.fit.epochs, changed.fit.seed, changed.tasks) == (7, 4, config.tasks)
    assert Config.from_dict({}) == Config()
    assert Config.from_dict(to_dict(config)) == config


def test_mappings_and_settings_objects_may_be_mixed() -> None:
    task = TaskConfig(kind="binary", classes=("calm", "tense"))
    config = Config.from_dict({"tasks": {"a": task, "b": to_dict(task)}, "fit": FitConfig(epochs=2)})
    assert config.tasks == {"a": task, "b": task}
    assert config.fit.epochs == 2


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "fit": st.fixed_dictionaries({"epochs": st.integers(1, 100_000), "ema": st.floats(0, 0.999)}),
            "loss": st.dictionaries(st.sampled_from(LossConfig.WEIGHTS), st.floats(0, 1e6)),
            "audio": st.sampled_from(["mfcc", "hf:org/model@main", "hf:org/model@main+prosody"]),
            "roots": st.lists(st.text(min_size=1), max_size=2),
        },
    )
)
def test_whatever_is_set_survives_json_and_a_base(values: dict[str, Any]) -> None:
    config = Config.from_dict(values)
    assert Config.from_dict(json.loads(json.dumps(to_dict(config)))) == config
    changed = Config.from_dict(values, preset("large"))
    assert Config.from_dict(values, changed) == changed


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
    with pytest.raises(ConfigError, match=r"there is no settings file .*absent\.yaml; name an existing"):
        load_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fit: {epochs: 3}\nloss: {cka: 1}\nfit: {epochs: 4}", "`fit` is set in line 1 and in line 3"),
        (b"fit:\n  epochs: 3\n  epochs: 4", "`epochs` is set in line 2 and in line 3"),
        ("tasks: {gemütlich: {}}".encode("latin-1"), "is not text in UTF-8 .* at byte 11"),
        (b"\x00\x01\x02", "is not valid YAML"),
        (b"[" * 5000, "is nested too deeply"),
        (b"fit: {epochs: 2024-13-45}", "is not valid YAML"),
        (b"fit: {seed: %s}" % (b"9" * 5000), "is not valid YAML"),
        (b"fit: {seed: %s}" % (b"9" * 4000), "seed is 9+; it must be at least 0 and below"),
        (b"fit: {warmup: %s}" % (b"9" * 400), "`fit.warmup` is a number of over 300 digits"),
        (b"#" * 2**21, "has more than 1048576 bytes"),
        (b"tasks: {x: {kind: binary, classes: [no, yes]}}", r"classes\[0\]` is False; .*YAML reads yes, no"),
    ],
)
def test_odd_settings_files_are_refused_in_one_message(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        Config.from_file(path)


def test_what_is_no_file_is_not_read_as_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is a folder or another thing that is no file"):
            load_file(path)


def test_merged_mappings_of_yaml_may_repeat_keys(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("fit: &fit {epochs: 3}\nloss: {<<: {cka: 0.3, task: 2}, cka: 0.1}\n")
    assert load_file(path) == {"fit": {"epochs": 3}, "loss": {"cka": 0.1, "task": 2}}


@pytest.mark.parametrize(
    ("tasks", "column"),
    [
        ({"audio": ()}, "audio"),
        ({"text": ()}, "text"),
        ({"joint": ()}, "joint"),
        ({"fault": ()}, "fault"),
        ({"doc_id": ()}, "doc_id"),
        ({"audio_weight": ()}, "audio_weight"),
        ({"mood": ("up", "down"), "mood.up": ()}, "mood.up"),
        ({"mood": (), "mood_heads": ()}, "mood_heads"),
    ],
)
def test_names_that_would_give_two_columns_of_predictions_one_name_are_refused(
    tasks: dict[str, tuple[str, ...]], column: str
) -> None:
    declared = {
        name: TaskConfig(kind="multiclass" if classes else "regression", classes=classes)
        for name, classes in tasks.items()
    }
    with pytest.raises(ConfigError, match=f"would have the column '{column}' in the file of predictions"):
        Config(tasks=declared)


def test_an_encoder_layer_is_a_number_that_a_network_may_have() -> None:
    for layer in ("9" * 5000, "\u00b2", "-1", "1:", "3:2"):
        with pytest.raises(ConfigError, match="encoder layer is"):
            EncoderConfig(layer=layer)


def test_presets_and_ablations_differ_where_their_names_say() -> None:
    assert set(PRESETS) == {"small", "large", "paper"}
    assert not preset("paper").model.wide
    assert not preset("paper").model.unimodal_heads
    with pytest.raises(ConfigError, match="the choices are small, paper, large"):
        preset("medium")
    base = Config()
    variants = ablations(base)
    assert variants["no_fusion"].model.layers == 0
    assert variants["mlp_head"].moe.kind == "mlp"
    assert variants["direct_contrast"].loss.contrast == "direct"
    assert variants["reciprocal_contrast"].loss.contrast == variants["paper"].loss.contrast == "reciprocal"
    for name, changed in variants.items():
        assert changed != base, name
        assert dataclasses.replace(changed, model=base.model, moe=base.moe, loss=base.loss) == base, name
